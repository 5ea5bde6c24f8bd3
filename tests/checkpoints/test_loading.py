"""Detectors of families that are not known are called by their names, and never loaded in part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from ultralytics.nn.tasks import DetectionModel, parse_model, yaml_model_load

from kdyolo.checkpoints.inspection import inspect_checkpoint
from kdyolo.checkpoints.loading import load_backbone
from kdyolo.errors import CheckpointError, ModelError
from kdyolo.models.arch import Arch, build_layers
from kdyolo.models.arch_matching import FOREIGN, foreign_detector
from kdyolo.models.detector import weights_arch

NAMES = (
    *("yolov5n", "yolov5s-p6", "yolov6n", "yolov8n-p6", "yolov8s-ghost", "yolo26n-p6"),
    *("yolov9t", "yolov9c", "yolov10n", "yolov10s", "rtdetr-l", "rtdetr-resnet50"),
)


def backbone_of(name: str) -> nn.Sequential:
    """The backbone of a detector that Ultralytics ships, without values."""
    description = yaml_model_load(f"{name}.yaml")
    letter = description["scale"] or next(iter(description.get("scales") or {}), "")
    with torch.device("meta"):
        return parse_model({**description, "scale": letter, "head": []}, ch=3, verbose=False)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_detector_is_called_by_its_name(name: str) -> None:
    shapes = {key: tensor.shape for key, tensor in backbone_of(name).state_dict().items()}
    assert foreign_detector(shapes, Arch.parse("yolov8n")) == name


@pytest.mark.parametrize("name", ["yolov8n", "yolo11s", "yolo12n", "yolo26n"])
def test_a_known_backbone_is_none_of_them_whole_or_in_part(name: str) -> None:
    arch = Arch.parse(name)
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in build_layers(arch).state_dict().items()}
    assert foreign_detector(shapes, arch) is None
    for layers in (2, 5, 9):
        part = {key: shape for key, shape in shapes.items() if int(key.partition(".")[0]) < layers}
        assert foreign_detector(part, arch) is None


def test_every_foreign_detector_is_shipped_by_ultralytics() -> None:
    for file in FOREIGN:
        assert yaml_model_load(f"{file}.yaml")["backbone"]


@pytest.mark.parametrize("name", ["yolov10n", "yolov5n"])
def test_no_part_of_it_is_loaded(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    model = DetectionModel(f"{name}.yaml", nc=1, verbose=False)
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / "w.safetensors")
    for read in (load_backbone, inspect_checkpoint):
        with pytest.raises(CheckpointError, match=rf"the backbone of {name}, whose layers are others"):
            read(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=rf"the backbone of {name}"):
        load_backbone(tmp_path / "w.safetensors", allow_partial=True)
    with pytest.raises(ModelError, match=rf"the weights are those of {name}"):
        weights_arch(model)


def test_looking_takes_the_model_that_it_advises(tmp_path: Path) -> None:
    """A backbone of YOLO11 has the shapes of YOLO26's, and the file does not say which."""
    layers = build_layers(Arch.parse("yolo11n"))
    torch.save(layers.state_dict(), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"ambiguous.*--model kdyolo11n\.yaml or --model kdyolo26n\.yaml"):
        inspect_checkpoint(tmp_path / "w.pth")
    for family in ("yolo11", "yolo26"):
        assert inspect_checkpoint(tmp_path / "w.pth", model=f"kd{family}n.yaml").family == family
