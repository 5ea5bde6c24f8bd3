"""Mistakes that a whole ground truth has, recognised without a false alarm."""

from __future__ import annotations

import json

import pytest

from kdyolo.errors import DatasetError
from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.coco_metrics import score_coco
from tests.builders.coco_results import random_detections, random_ground_truth, write_json


def with_boxes(truth: dict, form) -> dict:
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth["images"]}
    for annotation in truth["annotations"]:
        annotation["bbox"] = form(*annotation["bbox"], *sizes[annotation["image_id"]])
    return truth


def test_corners_are_refused(tmp_path):
    truth = with_boxes(random_ground_truth(), lambda x, y, w, h, *_: [x, y, x + w, y + h])
    with pytest.raises(DatasetError, match=r"ann\.json: boxes are corners x1, y1, x2, y2: .* reach out of their image"):
        read_ground_truth(write_json(tmp_path / "ann.json", truth))


def test_shares_are_told_and_never_compared_with_pixels(tmp_path):
    regular = random_ground_truth()
    found = random_detections(regular)
    truth = with_boxes(random_ground_truth(), lambda x, y, w, h, W, H: [x / W, y / H, w / W, h / H])
    annotations = write_json(tmp_path / "ann.json", truth)
    assert "boxes are shares of the image" in read_ground_truth(annotations).notes[0]
    with pytest.raises(DatasetError, match=r"pred\.json: boxes are in pixels, up to .* are shares of the image, up to"):
        score_coco(write_json(tmp_path / "pred.json", found), annotations)
    shares = [{**d, "bbox": [v / 640 for v in d["bbox"]]} for d in found]
    scores = score_coco(write_json(tmp_path / "pred.json", shares), annotations)
    expected = score_coco(write_json(tmp_path / "pred.json", found), write_json(tmp_path / "regular.json", regular))
    assert scores.metrics[:3] == pytest.approx(expected.metrics[:3], abs=1e-9)


def test_nothing_but_crowds_and_nothing_at_all(tmp_path):
    truth = random_ground_truth()
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 1
    count = len(truth["annotations"])
    notes = read_ground_truth(write_json(tmp_path / "ann.json", truth)).notes
    assert notes[0].startswith(f"all {count} annotations are crowd regions (iscrowd 1), as CVAT and SAM export masks")
    truth["annotations"] = []
    notes = read_ground_truth(write_json(tmp_path / "ann.json", truth)).notes
    assert notes == ("no annotation belongs to an image and a category of the file: there is nothing to find",)


def test_good_files_have_no_note(shared, tmp_path):
    for split in ("train2017", "val2017"):
        path = shared / f"coco128/annotations/instances_{split}.json"
        assert read_ground_truth(path).notes == ()
        few = json.loads(path.read_text())
        for start in range(0, 60, 10):
            some = {**few, "annotations": few["annotations"][start : start + 12]}
            assert read_ground_truth(write_json(tmp_path / "few.json", some)).notes == ()
    for seed in range(20):
        path = write_json(tmp_path / "ann.json", random_ground_truth(seed, images=4))
        assert read_ground_truth(path).notes == ()
