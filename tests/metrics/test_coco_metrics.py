"""The official metrics: equal to pycocotools used by hand, on any data, and clear about files that cannot be scored."""

from __future__ import annotations

import contextlib
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
from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.coco_metrics import score_coco, score_detections
from kdyolo.metrics.names import EVALUATORS, NAMES
from tests.builders.coco_results import random_detections, random_ground_truth, write_json


def by_hand(annotations, predictions, categories=None) -> COCOeval:
    """What the COCO documentation tells people to do; for some categories, with ``catIds``."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(predictions)), "bbox")
        if categories is not None:
            evaluation.params.catIds = categories
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


def test_another_evaluator_is_refused_wherever_it_comes_from(files):
    """A validator of a training gets its name from settings, which no signature has checked."""
    predictions, annotations = files
    truth = read_ground_truth(annotations)
    for score in (
        lambda: score_coco(predictions, annotations, evaluator="mine"),
        lambda: score_detections(truth, [], "mine"),
    ):
        with pytest.raises(ConfigError, match=r"evaluator.* expected one of .*faster-coco-eval.*, .*pycocotools"):
            score()


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


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("places", [[0], [1, 3], [3, 1, 1], [4], [0, 1, 2, 3, 4]])
def test_chosen_categories_are_what_cat_ids_are_in_pycocotools(files, evaluator, places):
    predictions, annotations = files
    known = read_ground_truth(annotations).categories
    chosen = [list(known)[place] for place in places]
    expected = by_hand(annotations, predictions, chosen)
    scores = score_coco(predictions, annotations, evaluator=evaluator, categories=chosen)
    assert scores.metrics == pytest.approx(expected.stats, abs=1e-9)
    assert [c.ap for c in scores.per_class] == pytest.approx(by_hand_per_class(expected), abs=1e-9)
    assert [c.category_id for c in scores.per_class] == sorted(set(chosen))
    names = [known[category] for category in sorted(set(chosen))]
    assert scores.to_dict()["categories"] == names
    assert scores.table().startswith(f"official COCO metrics of {', '.join(names)} only: 40 images, ")
    if len(places) == 1:
        assert scores.metrics != score_coco(predictions, annotations, evaluator=evaluator).metrics


def test_a_chosen_category_may_have_no_detection_but_must_exist(files):
    truth, detections = read_ground_truth(files[1]), json.loads(files[0].read_text())
    first, second = list(truth.categories)[:2]
    others = [d for d in detections if d["category_id"] != first]
    assert score_detections(truth, others, categories=[first]).ap == 0
    assert score_detections(truth, others, categories=[second]) == score_detections(
        truth, detections, categories=[second]
    )
    with pytest.raises(DatasetError, match="none with id 1000"):
        score_detections(truth, detections, categories=[1000])


def test_precision_is_said_where_it_is_known(files):
    scores = score_coco(*files)
    assert scores.to_dict()["precision"] is None
    assert "network in" not in scores.table()
    known = replace(scores, precision="fp16")
    assert known.table().splitlines()[0].endswith("; network in fp16)")
    assert known.line() == f"{scores.line()} (fp16)"


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
    fast, reference = (score_detections(annotations, detections, evaluator) for evaluator in EVALUATORS)
    assert fast.metrics == pytest.approx(reference.metrics, abs=1e-9)
    assert [c.ap for c in fast.per_class] == pytest.approx([c.ap for c in reference.per_class], abs=1e-9)


def test_an_object_with_id_0_counts_as_any_other_and_the_note_says_so(files):
    """Where pycocotools itself takes a match with annotation 0 for no match."""
    predictions, annotations = files
    truth = json.loads(annotations.read_text())
    expected = score_coco(predictions, annotations)
    for index, annotation in enumerate(truth["annotations"]):
        annotation["id"] = index
    found = score_coco(predictions, write_json(annotations, truth))
    assert found.metrics == expected.metrics
    assert found.notes[0].startswith("1 annotation has the id 0: here it counts as any other, while pycocotools")
    own = score_coco(predictions, annotations, evaluator="pycocotools")
    assert own.metrics == tuple(by_hand(annotations, predictions).stats) != expected.metrics
    assert own.notes[-1].startswith("these are pycocotools' own numbers")


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
    nothing_found = score_detections(truth, [], evaluator)
    assert nothing_found.metrics == (0.0,) * 12
    nothing_there = score_detections(replace(truth, annotations=[]), json.loads(files[0].read_text()), evaluator)
    assert nothing_there.metrics == (-1.0,) * 12
    assert score_detections(replace(truth, annotations=[]), [], evaluator).metrics == (-1.0,) * 12


def test_detections_are_not_changed(files):
    detections = json.loads(files[0].read_text())
    before = json.dumps(detections)
    for evaluator in EVALUATORS:
        score_detections(read_ground_truth(files[1]), detections, evaluator)
    assert json.dumps(detections) == before


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


def test_unknown_evaluator(files):
    with pytest.raises(ConfigError, match="pycocotools"):
        score_coco(*files, evaluator="mine")
