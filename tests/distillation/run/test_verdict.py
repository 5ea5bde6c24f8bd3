"""Verdict: what position alone gives is not learned."""

from __future__ import annotations

from typing import Any

import pytest

from kdyolo.distillation.run.verdict import kept_row, verdict


def columns(p3: float, p4: float, rank: float = 20.0, floors: tuple[float, float] = (0.14, 0.25)) -> dict[str, Any]:
    return {
        "epoch": [1, 2],
        "val/loss": [1.0, 0.5],
        **{f"floor/{level}": [floor, floor] for level, floor in zip(("P3", "P4"), floors, strict=True)},
        "cosine/P3": [0.0, p3],
        "cosine/P4": [0.0, p4],
        **{f"{what}/{level}": [0.0, n] for what, n in (("rank", rank), ("dead", 0.0)) for level in ("P3", "P4")},
    }


@pytest.mark.parametrize(
    ("p3", "p4", "rank", "says"),
    [
        (0.6, 0.5, 20.0, "learned ("),
        (0.6, 0.25, 20.0, "learned at P3 only ("),
        (0.13, 0.25, 20.0, "flat ("),  # what shuffled targets gave on coco128 at 96 px
        (0.6, 0.5, 1.2, "collapsed ("),
    ],
)
def test_a_level_has_learned_by_what_it_has_above_its_position(p3: float, p4: float, rank: float, says: str) -> None:
    assert verdict(columns(p3, p4, rank)).startswith(says)


def test_it_is_about_the_epoch_that_the_backbone_is_of() -> None:
    best_first = {name: values[::-1] for name, values in columns(0.6, 0.5).items()}
    assert kept_row(best_first)["val/loss"] == 0.5
    assert verdict(best_first).startswith("learned (P3 centred cosine 0.60")
    assert verdict({**best_first, "epoch": [1, 2]}).endswith("on held-out images after epoch 1)")


def test_being_less_wrong_than_position_alone_is_nothing_learned() -> None:
    floors = (-0.07, -0.2)
    assert verdict(columns(-0.01, 0.04, 30, floors)).startswith("flat")
    assert verdict(columns(0.06, 0.04, 30, floors)).startswith("learned at P3 only")


def test_what_is_left_without_position_stands_beside_it() -> None:
    with_content = {**columns(0.6, 0.5), "content/P3": [0.0, 0.55], "content/P4": [0.0, 0.41]}
    assert "P3 centred cosine 0.60 (position alone 0.14, without position 0.55)" in verdict(with_content)
    assert "P3 centred cosine 0.60 (position alone 0.14)" in verdict(columns(0.6, 0.5))
