"""Held-out images: the floor is what a student scores that knows only where a cell lies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from kdyolo.distillation.losses import mse_loss
from kdyolo.distillation.run.held_out import HeldOutImages
from kdyolo.distillation.targets import LevelTarget
from kdyolo.distillation.views import Views


def images(place: float, content: float, seed: int) -> list[LevelTarget]:
    """Targets [16, 4, 8, 8]: what all images have at a cell, and what each has of its own, with these deviations."""
    common = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * place
    own = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) * content
    return [LevelTarget(common + own, torch.ones(16, 1, 8, 8))]


@pytest.mark.parametrize(
    ("place", "content", "low", "high"), [(0, 1, -0.05, 0.05), (1, 0.1, 0.95, 1), (1, 1, 0.6, 0.8)]
)
def test_the_floor_is_what_position_alone_gives(place: float, content: float, low: float, high: float) -> None:
    targets = {0: images(place, content, 1), 1: images(place, content, 2)}

    def views(number: int) -> Iterator[Views]:
        yield Views(torch.full((16, 1), number), *(torch.zeros(16) for _ in range(3)))

    def source(found: Views) -> list[LevelTarget]:
        return targets[int(found.student[0])]

    unused: Any = None
    held_out = HeldOutImages(unused, source, mse_loss, ("P3",), 16, lambda: views(1))
    assert low <= held_out.floors(views(0))["P3"] <= high


def test_what_the_teacher_says_of_held_out_images_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def views(*numbers: int) -> Iterator[Views]:
        for number in numbers:
            yield Views(torch.full((16, 1), number), *(torch.zeros(16) for _ in range(3)))

    def source(found: Views) -> list[LevelTarget]:
        asked.append(int(found.student[0]))
        return images(1, 1, asked[-1])

    unused: Any = None
    for most, expected in ((1 << 20, [0, 1, 2, 0]), (1 << 10, [0, 1, 2, 0, 1, 2])):
        monkeypatch.setattr("kdyolo.distillation.run.held_out._MOST_KEPT", most)
        held_out = HeldOutImages(unused, source, mse_loss, ("P3",), 32, lambda: views(1, 2))
        first, second = held_out.floors(views(0)), held_out.floors(views(0))
        assert first == second
        assert asked == expected
        asked.clear()
