"""Background boxes: of an object's size, in its image, on no object; features tell both apart where they differ."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.ops import box_area

from kdyolo.distillation.proof.labelled_objects import LabelledObjects, find_objects
from kdyolo.experiments.probe.objectness import Background, draw_background
from kdyolo.experiments.probe.probe import probe

SIDE = 64


def write_data(folder: Path, images: int, boxes: str) -> Path:
    """Wide dark images with a bright square each, of two classes in turn, and further labels."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    rng = np.random.default_rng(0)
    for i in range(images):
        image = rng.integers(0, 40, (40, 80, 3), dtype=np.uint8)
        left, top = int(rng.integers(0, 64)), int(rng.integers(0, 24))
        image[top : top + 16, left : left + 16] = 255
        cv2.imwrite(str(folder / f"images/{i:02}.png"), image)
        square = f"{i % 2} {(left + 8) / 80} {(top + 8) / 40} 0.2 0.4\n"
        (folder / f"labels/{i:02}.txt").write_text(square + boxes)
    (folder / "d.yaml").write_text("train: images\nval: images\nnames: [a, b, c]\n")
    return folder / "d.yaml"


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    return write_data(tmp_path, 12, "")


def test_a_background_box_has_its_objects_size_and_lies_on_no_object(tmp_path: Path) -> None:
    """A small object of another class, which is not asked for, is none either."""
    data = write_data(tmp_path, 12, "2 0.5 0.5 0.05 0.05\n")
    objects = find_objects(data, "train", SIDE, "letterbox")
    assert set(objects.class_names) == {0, 1}
    drawn = draw_background(objects, data, SIDE, "letterbox", seed=0)
    assert sum(map(len, drawn.boxes)) > 8
    area = (0, 16, 64, 32)  # of 80 × 40 pixels on a square of 64
    every = torch.tensor([[30.4, 31.2, 33.6, 32.8]])
    for file, boxes, paired in zip(objects.files, drawn.boxes, drawn.paired, strict=True):
        own = objects.boxes(file, area)
        assert torch.allclose(box_area(own[paired]), box_area(boxes))
        assert (boxes[:, :2] >= torch.tensor([0.0, 16.0])).all()
        assert (boxes[:, 2:] <= torch.tensor([64.0, 48.0]) + 1e-4).all()
        for other in torch.cat([own, every]):
            common = (torch.minimum(boxes[:, 2:], other[2:]) - torch.maximum(boxes[:, :2], other[:2])).clamp(min=0)
            assert (common.prod(1) <= 0.1 * box_area(boxes) + 1e-4).all()
    again = draw_background(objects, data, SIDE, "letterbox", seed=0)
    assert all(torch.equal(a, b) for a, b in zip(drawn.boxes, again.boxes, strict=True))


def test_an_object_that_leaves_no_place_has_none(tmp_path: Path) -> None:
    data = write_data(tmp_path, 12, "0 0.5 0.5 1 1\n")
    objects: LabelledObjects = find_objects(data, "train", SIDE, "letterbox")
    drawn = draw_background(objects, data, SIDE, "letterbox", seed=0)
    assert not any(map(len, drawn.boxes))  # the large one covers every other place
    assert not drawn.are_enough


def test_boxes_are_numbered_as_features_are_pooled() -> None:
    """Each image's objects come before its background; an image without pairs is not counted."""
    some, none = torch.zeros(2, 4), torch.zeros(0, 4)
    paired = (torch.tensor([True, False, True]), torch.tensor([False]), torch.tensor([True, True]))
    found = Background((some, none, some), paired)
    assert found.are_objects.long().tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 0, 0]
    assert found.in_pairs.long().tolist() == [1, 0, 1, 1, 1, 0, 1, 1, 1, 1]
    assert found.images.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.slow
def test_bright_objects_are_told_from_dark_background(bright: Path, checkpoint: Path) -> None:
    found = probe([checkpoint], bright, split="train", imgsz=SIDE)
    assert found.pairs > 8
    assert found.score("random yolov8n", "objectness", "P3").accuracy.estimate > 0.9
    assert found.score("random yolov8n", "objectness", "P3").information.estimate > 0.5
    assert found.score("random yolov8n", "linear", "P3").accuracy.estimate < 0.9  # nothing tells their classes
    assert f"{found.pairs} pairs of object and background" in found.table()


@pytest.mark.slow
def test_without_pairs_the_rest_is_told(tmp_path: Path, checkpoint: Path) -> None:
    found = probe([checkpoint], write_data(tmp_path, 12, "0 0.5 0.5 1 1\n"), split="train", imgsz=SIDE)
    assert found.pairs == 0
    assert {score.classifier for score in found.scores} == {"knn", "linear"}
    assert "too few pairs of object and background" in found.table()
