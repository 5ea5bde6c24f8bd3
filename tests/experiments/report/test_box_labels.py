"""Labels of boxes: inside the picture, none over another, and the surest one in its usual place."""

from __future__ import annotations

from itertools import combinations

import pytest

from kdyolo.experiments.report.box_labels import Plate, place_labels, text_height
from kdyolo.experiments.report.sample_images import Box


def boxes(*corners: tuple[float, float, float, float]) -> list[Box]:
    return [Box(*corner, label="square 0.47", kind="right") for corner in corners]


def test_a_label_stands_above_its_box() -> None:
    (label,) = place_labels(boxes((40, 60, 30, 30)), 240, 120)
    assert (label.x, label.y + label.h) == (40, 60)
    assert text_height(240, 120) == 10


@pytest.mark.parametrize("corner", [(0, 0, 30, 30), (230, 100, 10, 20), (-20, -20, 400, 400)])
def test_no_label_leaves_the_picture(corner) -> None:
    (label,) = place_labels(boxes(corner), 240, 120)
    assert 0 <= label.x <= 240 - label.w
    assert 0 <= label.y <= 120 - label.h


@pytest.mark.parametrize("number", [2, 3, 5])
def test_labels_of_boxes_over_each_other_can_all_be_read(number) -> None:
    same = boxes(*[(60.0 + i, 40.0, 40.0, 40.0) for i in range(number)])
    labels = place_labels(same, 240, 200)
    assert not any(one.covers(other) for one, other in combinations(labels, 2))
    alone = place_labels(same[-1:], 240, 200)
    assert labels[-1:] == alone, "the surest, drawn last, has the place that it has alone"


def test_where_there_is_no_room_labels_cover_each_other() -> None:
    labels = place_labels(boxes(*[(0, 0, 20, 20)] * 40), 20, 20)
    assert len(labels) == 40
    assert labels[0].covers(labels[1])
    assert not Plate(0, 0, 1, 1).covers(Plate(1, 0, 1, 1))
