"""Detector with a teacher: its loss by hand, the names of its tensors, and what it keeps."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.nn import functional
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from kdyolo.errors import ModelError
from kdyolo.models.detector import KDDetectionModel
from kdyolo.models.taught_detector import TaughtDetector, student_of


def student() -> KDDetectionModel:
    torch.manual_seed(0)
    model = KDDetectionModel("kdyolov8n.yaml", nc=3, verbose=False)
    model.args = get_cfg(overrides={"dis": 2.0, "imgsz": 65})  # a size that no grid takes
    return model


def teacher(name: str = "yolov8n.yaml") -> DetectionModel:
    torch.manual_seed(1)
    return DetectionModel(name, nc=5, verbose=False).eval()


@pytest.fixture(scope="module")
def taught() -> TaughtDetector:
    return TaughtDetector(student(), teacher()).train()


def batch() -> dict[str, Any]:
    return {
        "img": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        "cls": torch.zeros(2, 1),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(2, 1),
        "batch_idx": torch.tensor([0.0, 1.0]),
    }


def neck(model: Any, images: torch.Tensor) -> list[torch.Tensor]:
    """What the head reads, caught by a hook of the test's own."""
    found: list[torch.Tensor] = []
    handle = model.model[-1].register_forward_pre_hook(lambda _, inputs: found.extend(inputs[0]))
    model(images)
    handle.remove()
    return found


def test_the_loss_by_hand(taught: TaughtDetector) -> None:
    """Squared distance of the necks, weighted by the teacher's best score in each cell, as Ultralytics describes it."""
    images = batch()["img"]
    with torch.no_grad():
        _, items = deepcopy(taught)(batch())
        theirs = neck(taught.teacher_model, images)
        scores = taught.teacher_model(images)[1]["scores"].sigmoid().amax(1)
        ours = neck(deepcopy(taught.student_model), images)
        projected = [projector(own) for projector, own in zip(taught.projector, ours, strict=True)]
    expected, start = 0.0, 0
    for own, other in zip(projected, theirs, strict=True):
        cells = other.shape[-2] * other.shape[-1]
        weight = scores[:, None, start : start + cells].view(-1, 1, *other.shape[-2:])
        distance = functional.mse_loss(own, other, reduction="none")
        expected += 2.0 * float((distance * weight).sum() / (weight.sum() * other.shape[1]))
        start += cells
    assert float(items["dis_loss"]) == pytest.approx(expected, rel=1e-4)


def test_names_are_the_students_and_the_teacher_is_left_out(taught: TaughtDetector) -> None:
    state = taught.state_dict()
    own = taught.student_model.state_dict()
    assert {name for name in state if not name.startswith("projector.")} == own.keys()
    assert {name.partition(".")[0] for name in state} == {"model", "projector"}
    twin = TaughtDetector(student(), teacher())
    twin.projector[0][0].weight.data.zero_()
    twin.load_state_dict(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in twin.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        twin.load_state_dict(own)


def test_it_stands_for_its_student(taught: TaughtDetector) -> None:
    assert student_of(taught) is taught.student_model
    assert student_of(taught.student_model) is taught.student_model
    assert taught.backbone is taught.student_model.backbone
    assert taught.model is taught.student_model.model
    assert taught.student_model.args.imgsz == 65


def test_no_map_outlives_its_batch(taught: TaughtDetector) -> None:
    loss, _ = taught(batch())
    assert taught._student_feats == taught._teacher_feats == {}
    assert not [module for module in (taught, deepcopy(taught)) for m in module.modules() if m._forward_hooks]
    loss.sum().backward()
    assert {p.grad is None for p in taught.teacher_model.parameters()} == {True}
    assert {p.grad is None for p in taught.projector.parameters()} == {False}


def test_other_strides_are_refused() -> None:
    with pytest.raises(ModelError, match=r"teacher's head reads strides 8, 16, 32, 64, .* 8, 16, 32. Expected"):
        TaughtDetector(student(), teacher("yolov8n-p6.yaml"))
