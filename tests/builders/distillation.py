"""Small teachers and images for tests of distillation."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from kdyolo.distillation.teachers.protocol import TeacherMap
from kdyolo.models.arch import BN_COUNTER
from kdyolo.models.backbone import DistilledBackbone


def filled_backbone() -> DistilledBackbone:
    """A random yolov8n whose BatchNorms count batches, so that it is taken for a trained one."""
    torch.manual_seed(0)
    backbone = DistilledBackbone("yolov8n")
    for name, tensor in backbone.layers.state_dict().items():
        if name.endswith(BN_COUNTER):
            tensor.fill_(10)
    return backbone


class CoordinateTeacher:
    """A teacher whose maps hold what its images say at each cell's centre: with images of coordinates, coordinates."""

    name, digest = "coordinates", "0" * 64
    licence: str | None = None
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self, size: int, strides: tuple[int, ...]) -> None:
        self.size = size
        self.maps = tuple(TeacherMap(f"s{stride}", 3, stride) for stride in strides)

    def __call__(self, images: Tensor) -> list[Tensor]:
        return [torch.nn.functional.avg_pool2d(images, found.stride) for found in self.maps]


class BlurTeacher(CoordinateTeacher):
    """The same under another name: means of colours over each cell, which any student learns quickly."""

    name = "blur"
    licence = "cc-by-nc-4.0"


def write_images(folder: Path, count: int, seed: int = 0) -> Path:
    """Images of smooth random colours, of several shapes, as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        height, width = [(48, 64), (64, 48), (64, 64)][i % 3]
        small = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i:03}.png"), cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC))
    return folder
