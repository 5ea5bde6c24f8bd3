"""Architecture matching: the arch that a set of tensor shapes fits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from typing import Any

import torch
from ultralytics.nn.tasks import parse_model, yaml_model_load
from ultralytics.utils.ops import make_divisible

from kdyolo.models.arch import (
    BN_COUNTER,
    FAMILIES,
    SCALES,
    UNCAPPED,
    Arch,
    backbone_rows,
    build_layers,
    family_yaml,
    stock_scale,
)

# Detectors that Ultralytics ships beside the known families. Their names are told; nothing of them is trained.
FOREIGN = (
    *("yolov3", "yolov3-spp", "yolov3-tiny", "yolov5", "yolov5-p6", "yolov6"),
    *("yolov8-p6", "yolov8-ghost", "yolov8-ghost-p2", "yolov8-ghost-p6", "yolo26-p6"),
    *("yolov9t", "yolov9s", "yolov9m", "yolov9c", "yolov9e"),
    *("yolov10n", "yolov10s", "yolov10m", "yolov10b", "yolov10l", "yolov10x"),
    *("rtdetr-l", "rtdetr-x", "rtdetr-resnet101", "rtdetr-resnet50"),
)


def fitting_archs(shapes: Mapping[str, Sequence[int]], matched: Arch | None = None) -> tuple[list[Arch], int]:
    """The archs whose tensors agree best with the given names and shapes, and how many agree.

    There are several where families differ in what their tensors do but not in their shapes (YOLO11 and YOLO26), unless
    the tensors of a neck and head tell them apart.

    Args:
        shapes: Layer name → shape; neck and head may be among them.
        matched: An arch whose every tensor is known to be there; then only families of the same layers are looked at.
    """
    candidates = _twins(matched) if matched else _candidates(shapes)
    if len(candidates) == 1:
        return candidates, len(shapes)
    counts = {arch: _agreeing(_expected_shapes(arch), shapes) for arch in candidates}
    most = max(counts.values())
    best = [arch for arch, count in counts.items() if count == most]
    best = [arch for arch in best if arch.max_channels == best[0].max_channels]  # where a cap caps nothing, the first
    if len(best) > 1 and any(int(name.partition(".")[0]) >= len(backbone_rows(best[0].family)) for name in shapes):
        heads = {arch: _agreeing(_detector_shapes(arch), shapes) for arch in best}
        best = [arch for arch in best if heads[arch] == max(heads.values())]
    return best, most


def _twins(arch: Arch) -> list[Arch]:
    """The arch, and those of other families with the same kinds of layers."""

    def kinds(family: str) -> list[str]:
        return [row[2] for row in backbone_rows(family)]

    return [Arch(f, arch.scale, arch.max_channels) for f in FAMILIES if kinds(f) == kinds(arch.family)]


def _candidates(shapes: Mapping[str, Sequence[int]]) -> list[Arch]:
    candidates = [
        Arch(family, scale, cap)
        for family in FAMILIES
        for scale in SCALES
        for cap in dict.fromkeys((stock_scale(family, scale)[2], UNCAPPED))
    ]
    stem = next(iter(shapes.get("0.conv.weight", ())), None)  # its width rules out most of them without building them
    return [arch for arch in candidates if _stem_width(arch) == stem] or candidates


def fit_arch(shapes: Mapping[str, Sequence[int]], family: str | None = None) -> tuple[Arch, int]:
    """The arch that fits best and how many tensors agree; ``family`` decides where several fit equally."""
    best, agreeing = fitting_archs(shapes)
    return next((arch for arch in best if arch.family == family), best[0]), agreeing


def foreign_detector(shapes: Mapping[str, Sequence[int]], arch: Arch) -> str | None:
    """Ultralytics' name of a detector of another family, such as ``"yolov10n"``, if its whole backbone is there.

    Families share their first layers, so that a file of another one fills a part of a known backbone.

    Args:
        shapes: Layer name → shape.
        arch: The known arch that fits best. If all of its tensors are there, the file is of its family.
    """
    if _is_whole(_expected_shapes(arch), shapes):
        return None
    first = next((tuple(shape) for shape in shapes.values() if len(shape) == 4 and shape[1] == 3), None)
    for file in FOREIGN:
        for letter in _foreign_yaml(file).get("scales") or {"": None}:
            if _first_convolution(file, letter) == first and _is_whole(_foreign_shapes(file, letter), shapes):
                return _name_with_letter(file, letter)
    return None


def _is_whole(expected: Mapping[str, torch.Size], shapes: Mapping[str, Sequence[int]]) -> bool:
    return _agreeing(expected, shapes) == sum(not name.endswith(BN_COUNTER) for name in expected)


@lru_cache
def _foreign_yaml(file: str) -> dict[str, Any]:
    description: dict[str, Any] = yaml_model_load(f"{file}.yaml")
    return description


@lru_cache
def _foreign_shapes(file: str, letter: str) -> Mapping[str, torch.Size]:
    """Shapes of a foreign backbone's tensors, by name."""
    with torch.device("meta"):
        description = {**deepcopy(_foreign_yaml(file)), "scale": letter, "nc": 1, "head": []}
        layers, _ = parse_model(description, ch=3, verbose=False)
        return {name: tensor.shape for name, tensor in layers.state_dict().items()}


def _first_convolution(file: str, letter: str) -> tuple[int, ...]:
    """Shape of the first convolution's weight, without building anything."""
    description = _foreign_yaml(file)
    _, _, module, args = next(row for row in description["backbone"] if row[2] != "nn.Identity")
    if module == "HGStem":
        return (args[0], 3, 3, 3)
    if module == "ResNetLayer":
        return (64, 3, 7, 7)
    scales = description.get("scales")
    width, cap = scales[letter][1:] if scales else (description.get("width_multiple", 1.0), math.inf)
    kernel = args[1]
    return (int(make_divisible(min(args[0], cap) * width, 8)), 3, kernel, kernel)


def _name_with_letter(file: str, letter: str) -> str:
    return re.sub(r"^(yolov?\d+)(?![a-z\d])", rf"\g<1>{letter}", file)


def _agreeing(expected: Mapping[str, torch.Size], shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(
        tuple(shapes.get(name, ())) == tuple(shape) and not name.endswith(BN_COUNTER)
        for name, shape in expected.items()
    )


def _stem_width(arch: Arch) -> int:
    width = stock_scale(arch.family, arch.scale)[1]
    return int(make_divisible(min(backbone_rows(arch.family)[0][3][0], arch.max_channels) * width, 8))


@lru_cache
def _expected_shapes(arch: Arch) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_layers(arch).state_dict().items()}


@lru_cache
def _detector_shapes(arch: Arch) -> Mapping[str, torch.Size]:
    """Shapes of the whole stock detector's tensors, by name."""
    with torch.device("meta"):
        layers, _ = parse_model({**deepcopy(family_yaml(arch.family)), "scale": arch.scale}, ch=3, verbose=False)
        return {name: tensor.shape for name, tensor in layers.state_dict().items()}
