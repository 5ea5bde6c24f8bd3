"""Weights that a person puts into the model: a training starts from them, bit for bit, whatever way they came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

from kdyolo import KDYOLO, DistilledBackbone, read_checkpoint
from kdyolo.errors import ConfigError, ModelError
from kdyolo.models.detector import KDDetectionModel, to_stock
from kdyolo.runs.model_card import _introduction
from tests.builders.training import FAST, Enough, tensors_of


@dataclass
class Begun:
    """What a training began with, looked at when its first batch came.

    Attributes:
        tensors: What was in the model that trains.
        eps: Epsilon of its first BatchNorm.
        record: The run's ``kdyolo.yaml``.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    eps: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def begun(shapes: Path, tmp_path: Path) -> Callable[..., Begun]:
    """``begun(model, **options)``: train until the first batch comes."""

    def run(model: KDYOLO, **options: Any) -> Begun:
        found = Begun()

        def look(trainer: Any) -> None:
            found.tensors = tensors_of(trainer)
            ema = trainer.ema.ema.state_dict()
            assert [name for name, tensor in found.tensors.items() if not torch.equal(tensor, ema[name])] == []
            found.eps = trainer.model.backbone.layers[0].bn.eps
            found.record = yaml.safe_load((tmp_path / "run/kdyolo.yaml").read_text())
            raise Enough

        model.add_callback("on_train_batch_start", look)
        with pytest.raises(Enough):
            model.train(**{**FAST, "data": str(shapes), "work_dir": tmp_path / "run", **options})
        model.clear_callback("on_train_batch_start")
        return found

    return run


@pytest.fixture(scope="module")
def trained(three: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained detector of these classes, in the stock layout."""
    path = tmp_path_factory.mktemp("trained") / "trained.pt"
    model = KDYOLO(three)
    model.model = to_stock(other(model.model, seed=9))
    model.save(path)
    return path


def other(model: nn.Module, seed: int = 1) -> Any:
    """The model with other values in all its tensors."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and ".dfl." not in name:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) / 10 + 0.01)
    return model


def detector(model: KDYOLO) -> KDDetectionModel:
    """Another detector of the same YAML."""
    return other(KDDetectionModel(model.model.yaml, verbose=False))


def held(model: KDYOLO) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    assert first.keys() == second.keys()
    return [name for name in first if not torch.equal(first[name], second[name])]


# ---- what is in the model is what trains -----------------------------------------------------------------------------


def state_dict(model: KDYOLO) -> None:
    model.model.load_state_dict(detector(model).state_dict())


def state_dict_by_load(model: KDYOLO) -> None:
    model.load(to_stock(detector(model)).state_dict())


def backbone_state_dict(model: KDYOLO) -> None:
    model.model.model[0].load_state_dict(other(DistilledBackbone("yolov8n")).state_dict())


def other_layers(model: KDYOLO) -> None:
    model.model.model[0].layers = other(DistilledBackbone("yolov8n", bn_eps=1e-5)).layers


def in_place(model: KDYOLO) -> None:
    parameter = next(model.model.parameters())
    parameter.data.copy_(torch.full_like(parameter, 0.5))


def one_statistic(model: KDYOLO) -> None:
    model.model.backbone.layers[9].cv2.bn.running_mean[3] += 1


def checkpoint_content(model: KDYOLO) -> None:
    model.load({"model": detector(model)})


def load_of_the_module(model: KDYOLO) -> None:
    model.model.load(detector(model))


def another_module(model: KDYOLO) -> None:
    model.model = detector(model)


def stock_module(model: KDYOLO) -> None:
    model.model = to_stock(detector(model))


WAYS = [
    state_dict,
    state_dict_by_load,
    backbone_state_dict,
    other_layers,
    in_place,
    one_statistic,
    checkpoint_content,
    load_of_the_module,
    another_module,
    stock_module,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_is_in_the_model_is_what_trains(
    three: Path, begun: Callable[..., Begun], tmp_path: Path, way: Callable[[KDYOLO], None]
) -> None:
    model = KDYOLO(three)
    way(model)
    before = held(model)
    if way is stock_module:
        nested = detector(KDYOLO(three))
        before = {nested.nested_name(name): tensor for name, tensor in before.items()}
    found = begun(model)
    assert differing(before, found.tensors) == []
    assert found.eps == (1e-5 if way is other_layers else 1e-3)
    assert found.record["started_from"].startswith("weights set by hand, sha256 ")
    assert "`weights set by hand, sha256 " in _introduction(found.record)
    assert found.record["backbone"] is None


def test_a_file_by_load_is_named(three: Path, trained: Path, begun: Callable[..., Begun]) -> None:
    model = KDYOLO(three)
    model.load(trained)
    before = held(model)
    found = begun(model)
    assert differing(before, found.tensors) == []
    assert found.record["started_from"] == str(trained)


def test_a_trained_detector_that_was_changed(trained: Path, begun: Callable[..., Begun]) -> None:
    model = KDYOLO(trained)
    assert begun(model).record["started_from"] == str(trained)
    with torch.no_grad():
        next(model.model.parameters()).mul_(2)
    twice = next(model.model.parameters()).clone()
    found = begun(model)
    assert torch.equal(found.tensors["model.0.layers.0.conv.weight"], twice)
    assert found.record["started_from"].startswith("weights set by hand")


def test_looking_at_a_model_is_no_start_of_its_own(three: Path, begun: Callable[..., Begun], shapes: Path) -> None:
    used = KDYOLO(three)
    used.predict(torch.rand(1, 3, 32, 32), verbose=False)
    used.val(data=str(shapes), imgsz=32, plots=False, verbose=False)
    used.to("cpu").eval()
    for parameter in used.model.parameters():
        parameter.requires_grad = False
    first, second = begun(used), begun(KDYOLO(three))
    assert differing(first.tensors, second.tensors) == []
    assert first.record["started_from"] is None


# ---- together with what else a run can start from --------------------------------------------------------------------


def test_a_backbone_that_is_still_the_files_keeps_its_name(
    three: Path, checkpoint: Path, begun: Callable[..., Begun]
) -> None:
    model = KDYOLO(three, backbone=checkpoint)
    other(model.model.model[-1])
    before = held(model)
    found = begun(model, freeze_epochs=1)
    assert differing(before, found.tensors) == []
    assert found.record["backbone"]["sha256"] == read_checkpoint(checkpoint).sha256
    assert found.record["settings"]["backbone"] == str(checkpoint)


def test_a_backbone_that_is_no_longer_the_files_loses_its_name(
    three: Path, checkpoint: Path, begun: Callable[..., Begun]
) -> None:
    model = KDYOLO(three, backbone=checkpoint)
    in_place(model)
    before = held(model)
    found = begun(model)
    assert differing(before, found.tensors) == []
    assert (found.record["backbone"], found.record["settings"]["backbone"]) == (None, None)


def test_a_backbone_is_laid_over_a_head_that_was_set_by_hand(
    three: Path, checkpoint: Path, begun: Callable[..., Begun]
) -> None:
    model = KDYOLO(three)
    other(model.model.model[-1])
    head = held(model)["model.16.cv2.0.0.conv.weight"]
    found = begun(model, backbone=str(checkpoint))
    file = read_checkpoint(checkpoint).tensors
    assert differing(file, {name: found.tensors[f"model.0.layers.{name}"] for name in file}) == []
    assert torch.equal(found.tensors["model.16.cv2.0.0.conv.weight"], head)
    assert found.record["backbone"]["matched"] == 162
    assert found.record["started_from"].startswith("weights set by hand")


@pytest.mark.parametrize("option", ["backbone", "weights", "random_init", "pretrained"])
def test_two_starts_are_refused(
    three: Path, checkpoint: Path, trained: Path, shapes: Path, tmp_path: Path, option: str
) -> None:
    value = {"backbone": str(checkpoint), "weights": str(trained), "random_init": True, "pretrained": False}[option]
    model = KDYOLO(three)
    state_dict(model)
    with pytest.raises(ConfigError, match=f"set by hand, sha256 .*{option}={value}.* Leave {option} out"):
        model.train(**{**FAST, "data": str(shapes), "work_dir": tmp_path / "run", option: value})
    assert not (tmp_path / "run").exists()


def test_reset_weights_starts_random_from_the_seed(
    three: Path, checkpoint: Path, trained: Path, begun: Callable[..., Begun]
) -> None:
    fresh = begun(KDYOLO(three)).tensors
    model = KDYOLO(three, backbone=checkpoint)
    model.load(trained)
    found = begun(model.reset_weights())
    assert differing(fresh, found.tensors) == []
    assert (found.record["backbone"], found.record["started_from"]) == (None, None)
    state_dict(model)
    assert differing(held(model), begun(model).tensors) == []


def test_after_a_training_that_failed_the_model_is_what_it_was(
    trained: Path, shapes: Path, begun: Callable[..., Begun]
) -> None:
    model = KDYOLO(trained)
    before, module = held(model), model.model

    def fail(trainer: Any) -> None:
        raise Enough

    model.add_callback("on_train_batch_end", fail)
    with pytest.raises(Enough):
        model.train(**{**FAST, "data": str(shapes), "nbs": 1, "lr0": 0.1})
    assert model.model is module
    assert differing(before, held(model)) == []


# ---- what cannot be trained ------------------------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused(three: Path, shapes: Path, tmp_path: Path) -> None:
    options = {**FAST, "data": str(shapes), "work_dir": tmp_path / "run"}
    fused, foreign, mixed = KDYOLO(three), KDYOLO(three), KDYOLO(three)
    fused.fuse(verbose=False)
    with pytest.raises(ModelError, match="a fused model"):
        fused.train(**options)
    foreign.model = nn.Conv2d(3, 3, 1)
    with pytest.raises(ModelError, match="holds Conv2d"):
        foreign.train(**options)
    mixed.model.backbone.layers[0].bn.eps = 0.5
    with pytest.raises(ModelError, match="several epsilons"):
        mixed.train(**options)
    by_hand = KDYOLO(three)
    in_place(by_hand)
    with pytest.raises(ConfigError, match="only a KDTrainer"):
        by_hand.train(trainer=DetectionTrainer, **options)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_loaded_is_refused(three: Path) -> None:
    model = KDYOLO(three)
    small, large = held(model), DetectionModel("yolov8s.yaml", verbose=False)
    with pytest.raises(ModelError, match="not that of"):
        model.load({"model.0.layers.0.conv.weight": small["model.0.layers.0.conv.weight"]})
    with pytest.raises(ModelError, match="not that of"):
        model.load(large.state_dict())
    with pytest.raises(ModelError, match="use --model kdyolov8s"):
        model.load(large)
    with pytest.raises(ModelError, match="load_state_dict takes"):
        model.model.load(small)
    assert differing(small, held(model)) == []
