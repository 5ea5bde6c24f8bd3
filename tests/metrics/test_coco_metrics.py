"""The official metrics: equal to pycocotools used by hand, on any data, and clear about files that cannot be scored."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kdyolo.errors import ConfigError, DatasetError
from kdyolo.metrics.coco_files import read_detections, read_ground_truth
from kdyolo.metrics.coco_metrics import score, score_coco
from kdyolo.metrics.names import EVALUATORS, NAMES
from tests.builders.coco_results import random_detections, random_ground_truth, write_json


def by_hand(annotations, predictions) -> COCOeval:
    """What the COCO documentation tells people to do."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(predictions)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def by_hand_per_class(evaluation: COCOeval) -> list[float]:
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return [float(p[p > -1].mean()) if (p > -1).any() else -1.0 for p in np.moveaxis(precision, 2, 0)]


@pytest.fixture
def files(tmp_path):
    truth = random_ground_truth()
    return write_json(tmp_path / "pred.json", random_detections(truth)), write_json(tmp_path / "ann.json", truth)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_equal_to_pycocotools_by_hand(files, evaluator):
    predictions, annotations = files
    expected = by_hand(annotations, predictions)
    scores = score_coco(predictions, annotations, evaluator=evaluator)
    assert scores.metrics == pytest.approx(expected.stats, abs=1e-9)
    assert 0.1 < scores.ap < 0.9
    assert [c.ap for c in scores.per_class] == pytest.approx(by_hand_per_class(expected), abs=1e-9)
    assert [c.category_id for c in scores.per_class] == sorted(read_ground_truth(annotations).categories)
    assert scores.evaluator.startswith(evaluator)


def test_crowds_and_areas_of_real_coco(shared, tmp_path):
    """All of coco128, whose annotations have RLE crowds and mask areas that differ from w·h."""
    for split in ("train2017", "val2017"):
        annotations = shared / f"coco128/annotations/instances_{split}.json"
        truth = json.loads(annotations.read_text())
        assert split == "val2017" or any(a["iscrowd"] for a in truth["annotations"])
        predictions = write_json(tmp_path / "pred.json", random_detections(truth, seed=3))
        expected = by_hand(annotations, predictions)
        for evaluator in EVALUATORS:
            scores = score_coco(predictions, annotations, evaluator=evaluator)
            assert scores.metrics == pytest.approx(expected.stats, abs=1e-9)
            assert [c.ap for c in scores.per_class] == pytest.approx(by_hand_per_class(expected), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 12),
    categories=st.integers(2, 4),
    noise=st.floats(0, 0.4),
    crowded=st.booleans(),
)
def test_evaluators_agree_on_any_data(tmp_path_factory, seed, images, categories, noise, crowded):
    folder = tmp_path_factory.mktemp("any")
    truth = random_ground_truth(seed, images, categories)
    if crowded:
        truth["annotations"] = [{**a, "iscrowd": int(a["id"] % 2)} for a in truth["annotations"]]
    annotations = read_ground_truth(write_json(folder / "ann.json", truth))
    detections = random_detections(truth, seed + 1, noise)
    fast, reference = (score(annotations, detections, evaluator) for evaluator in EVALUATORS)
    assert fast.metrics == pytest.approx(reference.metrics, abs=1e-9)
    assert [c.ap for c in fast.per_class] == pytest.approx([c.ap for c in reference.per_class], abs=1e-9)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_an_object_with_id_0_counts_as_any_other(files, evaluator):
    """Where pycocotools itself takes a match with annotation 0 for no match."""
    predictions, annotations = files
    truth = json.loads(annotations.read_text())
    expected = score_coco(predictions, annotations, evaluator=evaluator)
    for index, annotation in enumerate(truth["annotations"]):
        annotation["id"] = index
    found = score_coco(predictions, write_json(annotations, truth), evaluator=evaluator)
    assert found.metrics == expected.metrics


def test_huge_image_ids_do_not_run_together(files):
    predictions, annotations = files
    expected = score_coco(predictions, annotations)
    text = annotations.read_text(), predictions.read_text()
    ids = sorted(read_ground_truth(annotations).images)
    huge = {i: 2**60 + n for n, i in enumerate(ids)}
    truth, detections = json.loads(text[0]), json.loads(text[1])
    for image in truth["images"]:
        image["id"] = huge[image["id"]]
    for record in (*truth["annotations"], *detections):
        record["image_id"] = huge[record["image_id"]]
    found = score_coco(write_json(predictions, detections), write_json(annotations, truth))
    assert found.metrics == expected.metrics


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_no_detections_and_no_objects(files, evaluator):
    truth = read_ground_truth(files[1])
    nothing_found = score(truth, [], evaluator)
    assert nothing_found.metrics == (0.0,) * 12
    nothing_there = score(replace(truth, annotations=[]), read_detections(files[0]), evaluator)
    assert nothing_there.metrics == (-1.0,) * 12
    assert score(replace(truth, annotations=[]), [], evaluator).metrics == (-1.0,) * 12


def test_detections_are_not_changed(files):
    detections = read_detections(files[0])
    before = json.dumps(detections)
    for evaluator in EVALUATORS:
        score(read_ground_truth(files[1]), detections, evaluator)
    assert json.dumps(detections) == before


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


def test_table_and_dictionary(files):
    scores = score_coco(*files)
    evaluation = by_hand(files[1], files[0])
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation.summarize()
    assert printed.getvalue().splitlines() == scores.table().splitlines()[1:13]
    plain = json.loads(json.dumps(scores.to_dict()))
    assert [plain[name] for name in NAMES] == list(scores.metrics)
    assert plain["per_class"][0]["name"] in scores.table(per_class=True)
    assert plain["detections"] == len(json.loads(files[0].read_text()))


def wrong_files():
    detection = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}
    yield "no list", {"annotations": []}, ["Expected COCO results", "list"]
    yield "string id", [detection, {**detection, "image_id": "1"}], ["$[1].image_id", "int"]
    yield "no score", [{k: v for k, v in detection.items() if k != "score"}], ["$[0]", "score"]
    yield "three numbers", [{**detection, "bbox": [0, 0, 5]}], ["$[0].bbox"]
    yield "corners", [{**detection, "bbox": [50, 50, -40, 5]}], ["left, top, width, height", "corners"]
    yield "NaN", [{**detection, "score": float("nan")}], ["Expected COCO results"]
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
        (lambda t: t["images"].append(t["images"][0]), ["two records have the image id"]),
        (lambda t: t["categories"].append(t["categories"][0]), ["two records have the category id"]),
        (lambda t: t["annotations"][3].pop("bbox"), ["$.annotations[3]", "bbox"]),
        (lambda t: t["annotations"][3].update(category_id="cat"), ["$.annotations[3].category_id"]),
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
    detections = read_detections(files[0])
    extra = [{**detections[0], "category_id": 1234}] * 3
    scores = score(truth, [*detections, *extra])
    assert scores.metrics == score(truth, detections).metrics
    assert scores.notes == ("3 detections of categories that ann.json lacks (id 1234) do not count",)


def test_some_categories_only(files):
    truth = read_ground_truth(files[1])
    wanted = list(truth.categories)[1:3]
    full = {c.category_id: c for c in score_coco(*files).per_class}
    part = score(truth.only(wanted), read_detections(files[0]))
    assert part.per_class == tuple(full[c] for c in wanted)
    with pytest.raises(DatasetError, match="none with id 1234"):
        truth.only([1234])


def test_unknown_evaluator(files):
    with pytest.raises(ConfigError, match="pycocotools"):
        score_coco(*files, evaluator="mine")
