"""Ground truth and detections from files of any tool; each wrong file is one clear error."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from kdyolo.errors import DatasetError
from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.coco_metrics import score_coco, score_detections
from tests.builders.coco_results import random_detections, random_ground_truth, write_json


@pytest.fixture
def files(tmp_path):
    truth = random_ground_truth()
    return write_json(tmp_path / "pred.json", random_detections(truth)), write_json(tmp_path / "ann.json", truth)


def test_what_other_tools_write_is_read(files, tmp_path):
    """A byte-order mark, gzip, more keys, whole numbers, results without masks."""
    predictions, annotations = files
    expected = score_coco(predictions, annotations)
    zipped = tmp_path / "ann.json.gz"
    zipped.write_bytes(gzip.compress(b"\xef\xbb\xbf" + annotations.read_bytes()))
    more = [
        {**d, "id": 7, "file_name": "x", "area": 1, "segmentation": []} for d in json.loads(predictions.read_text())
    ]
    assert score_coco(write_json(predictions, more), zipped) == expected


def test_missing_areas_are_said(files, tmp_path):
    truth = json.loads(files[1].read_text())
    for annotation in truth["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    expected = score_coco(files[0], write_json(tmp_path / "a.json", truth))
    for annotation in truth["annotations"]:
        del annotation["area"]
    found = score_coco(files[0], write_json(tmp_path / "b.json", truth))
    assert found.metrics == expected.metrics
    assert "have no area" in found.table()


def wrong_files():
    detection = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    yield "no list", {"found": []}, ["expected COCO results", "list", "'found'"]
    yield "no entries", [1, "a"], ["$[0] is 1", "$[1] is 'a'"]
    yield "no id", [detection, {**detection, "image_id": None}], ["$[1].image_id is None"]
    yield "no score", [{k: v for k, v in detection.items() if k != "score"}], ["$[0]", "score"]
    yield "three numbers", [{**detection, "bbox": [0, 0, 5]}], ["$[0].bbox"]
    yield "corners", [{**detection, "bbox": [50, 50, -40, 5]}], ["left, top, width, height", "corners"]
    yield "NaN", [detection, {**detection, "score": float("nan")}], ["$[1].score is NaN", "1 of 2 entries"]
    yield "NaN box", [{**detection, "bbox": [0, float("nan"), 1, 1]}], ["$[0].bbox", "which has NaN"]
    yield "infinite", [{**detection, "bbox": [0, 0, 1e308, 1e308]}], ["$[0].bbox"]
    yield "another split", [{**detection, "image_id": 999_999}], ["999999", "another split"]
    yield "class indices", [{**detection, "category_id": 0}], ["category ids", "not class indices"]
    yield "nesting", json.loads("[" * 500 + "]" * 500), ["Expected COCO results"]


@pytest.mark.parametrize(("content", "words"), [pytest.param(c, w, id=i) for i, c, w in wrong_files()])
def test_wrong_predictions_are_one_clear_error(files, tmp_path, content, words):
    truth = json.loads(files[1].read_text())
    truth["images"][0]["id"] = 1
    truth["annotations"] = []
    annotations = write_json(tmp_path / "one.json", truth)
    with pytest.raises(DatasetError) as error:
        score_coco(write_json(tmp_path / "wrong.json", content), annotations)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("categories"), ["categories"]),
        (lambda t: t.update(images=[]), ["has no image"]),
        (lambda t: t["images"].append({**t["images"][0], "width": 7}), ["$.images[40]", "image id"]),
        (lambda t: t["categories"].append({**t["categories"][0], "name": "x"}), ["$.categories[5]", "category id"]),
        (lambda t: t["annotations"][3].pop("bbox"), ["$.annotations[3]", "bbox"]),
        (lambda t: t["annotations"][3].update(bbox=[float("nan"), 1, 2, 3]), ["$.annotations[3]", "NaN"]),
        (lambda t: t["annotations"][3].update(iscrowd=0.5), ["$.annotations[3]", "iscrowd"]),
        (lambda t: [a.update(bbox=None) for a in t["annotations"]], ["$.annotations[4]", " more", "records cannot"]),
        (lambda t: t["annotations"][3].update(category_id="cat"), ["$.annotations[3]", "category_id is 'cat'"]),
    ],
)
def test_wrong_annotations_are_one_clear_error(files, tmp_path, change, words):
    truth = json.loads(files[1].read_text())
    change(truth)
    with pytest.raises(DatasetError) as error:
        score_coco(files[0], write_json(tmp_path / "wrong.json", truth))
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("content", [b"", b"[", b"\xff\xfe", b"\x1f\x8bnot gzip", b"nothing"])
def test_files_that_are_no_json(files, tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    for arguments in ((path, files[1]), (files[0], path)):
        with pytest.raises(DatasetError, match=r"broken\.json"):
            score_coco(*arguments)
    with pytest.raises(DatasetError, match="cannot be read"):
        score_coco(tmp_path / "none.json", files[1])


def test_detections_of_other_categories_are_counted_and_said(files):
    truth = read_ground_truth(files[1])
    detections = json.loads(files[0].read_text())
    extra = [{**detections[0], "category_id": 1234}] * 3
    scores = score_detections(truth, [*detections, *extra])
    assert scores.metrics == score_detections(truth, detections).metrics
    assert scores.notes == ("3 detections of categories that ann.json lacks (id 1234) do not count",)


def test_some_categories_only(files):
    truth = read_ground_truth(files[1])
    wanted = list(truth.categories)[1:3]
    full = {c.category_id: c for c in score_coco(*files).per_class}
    part = score_detections(truth.only(wanted), json.loads(files[0].read_text()))
    assert part.per_class == tuple(full[c] for c in wanted)
    with pytest.raises(DatasetError, match="none with id 1234"):
        truth.only([1234])


@pytest.mark.parametrize(
    ("kind", "words"),
    [("bomb", "may be a bomb"), ("zeros", "found zeros"), ("pipe", "found a pipe"), ("device", "found a device")],
)
def test_what_has_no_end_is_refused_before_it_is_read(files, tmp_path, kind, words):
    path = tmp_path / "endless.json"
    if kind == "bomb":
        path.write_bytes(gzip.compress(b" " * (64 << 20)))
    elif kind == "zeros":
        path.touch()
        os.truncate(path, 1 << 40)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    for given in ((files[0], path), (path, files[1])):
        with pytest.raises(DatasetError, match=words):
            score_coco(*given)


def test_more_categories_than_an_evaluator_has_room_for(files, tmp_path):
    truth = json.loads(files[1].read_text())
    truth["categories"] = [{"id": i, "name": f"c{i}"} for i in range(10_001)]
    with pytest.raises(DatasetError, match=r"at most 10,000 categories.* found 10,001"):
        score_coco(files[0], write_json(tmp_path / "many.json", truth))
