"""Answers of teachers: what does not agree with what a teacher says of itself is one error before anything runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdyolo.distillation.run.backbone_file import backbone_tensors
from kdyolo.distillation.targets import LiveTargets, teacher_precision
from kdyolo.distillation.teachers.choice import open_teacher
from kdyolo.distillation.teachers.protocol import check_answer
from kdyolo.distillation.views import Views
from kdyolo.errors import ConfigError, RunError
from tests.builders.distillation import CoordinateTeacher, filled_backbone

CPU = torch.device("cpu")


class Changed(CoordinateTeacher):
    """A teacher whose answer is changed before it is given."""

    def __init__(self, change: Callable[[list[Tensor]], Any]) -> None:
        super().__init__(64, (8, 16, 32))
        self.change = change

    def __call__(self, images: Tensor) -> Any:
        return self.change(super().__call__(images))


def filled(maps: list[Tensor], value: float) -> list[Tensor]:
    return [maps[0], torch.full_like(maps[1], value), maps[2]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda maps: maps[:2], "expected the 3 maps that it names, it gave 2"),
        (lambda maps: [m[:, :2] for m in maps], r"s8: expected a tensor \[B, 3, height, width\], found \[1, 2, 8, 8\]"),
        (lambda maps: [m.flatten(2) for m in maps], r"found \[1, 3, 64\] of one image"),
        (lambda maps: dict(enumerate(maps)), "found int of one image"),
        (lambda maps: [m[..., 1:] for m in maps], "expected 8 cells along each side of 64 px at stride 8, found 8×7"),
        (lambda maps: [maps[0], *maps[:2]], "map s16: expected 4 cells .* found 8×8"),
        (lambda maps: filled(maps, math.inf), "map s16: NaN or Inf"),
        (lambda maps: maps[7], r"fails on an image of 64 px \(IndexError: list index out of range\)"),
    ],
)
def test_an_answer_that_is_not_what_was_said_is_refused(change: Callable[[list[Tensor]], Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_answer(Changed(change), (0, 1, 2), CPU)


def test_only_maps_that_teach_are_looked_at() -> None:
    check_answer(Changed(lambda maps: filled(maps, math.nan)), (0, 2), CPU)


@pytest.mark.parametrize(("value", "says"), [(0.25, "the same in all cells of all images"), (math.nan, "NaN or Inf")])
def test_statistics_that_nothing_can_be_learned_from_are_refused(value: float, says: str) -> None:
    live = LiveTargets(Changed(lambda maps: filled(maps, value)), {"P3": 0, "P4": 1}, 64, CPU, amp=False)
    images, area = torch.rand(2, 3, 64, 64), torch.tensor([[0, 0, 64, 64]] * 2)
    with pytest.raises(RunError, match=f"map s16 for P4: {says}"):
        live.measure([Views(images, images, area, area)])


def test_a_yolo_teaches_with_what_trained_of_it(tmp_path: Path) -> None:
    torch.save(backbone_tensors(filled_backbone(), (9,)), tmp_path / "without_sppf.pt")
    teacher = open_teacher(tmp_path / "without_sppf.pt", 64)
    assert [described.name for described in teacher.maps] == ["P2", "P3", "P4"]
    check_answer(teacher, range(3), CPU)


@pytest.mark.parametrize(
    ("device", "amp", "has_bf16", "expected"),
    [
        ("cpu", True, True, None),
        ("cuda", False, True, torch.bfloat16),
        ("cuda", True, True, torch.bfloat16),
        ("cuda", True, False, torch.float16),
        ("cuda", False, False, None),
    ],
)
def test_on_a_gpu_a_teacher_computes_in_half_precision(
    device: str, amp: bool, has_bf16: bool, expected: torch.dtype | None
) -> None:
    assert teacher_precision(device, amp, has_bf16) == expected
