"""TIDE: hand-made cases for each kind of error, worked out on paper, and the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.coco_metrics import score_detections
from kdyolo.metrics.ground_truth import GroundTruth
from kdyolo.metrics.tide import ERRORS, ErrorKind, find_errors
from tests.builders.coco_results import random_detections, random_ground_truth, write_json

X, Y, FAR = [0, 0, 10, 10], [100, 0, 10, 10], [300, 300, 10, 10]


NEAR_X = [0, 0, 10, 30]  # IoU with X is 1/3


def truth_of(*objects: tuple[int, list[int]], crowd: list[int] | None = None) -> GroundTruth:
    """One image with objects (category, box), and perhaps a crowd region of category 1."""
    annotations = [
        {"image_id": 1, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0} for c, box in objects
    ]
    if crowd:
        annotations.append({"image_id": 1, "category_id": 1, "bbox": crowd, "area": 1, "iscrowd": 1})
    return GroundTruth(Path("ann.json"), {1: "1.jpg"}, {1: "one", 2: "two"}, annotations)


def found(*detections: tuple[int, list[int], float]) -> list[dict[str, object]]:
    return [{"image_id": 1, "category_id": c, "bbox": box, "score": s} for c, box, s in detections]


# Objects, detections → the error, AP50, and what correcting that kind adds. At recalls 0, 0.01, …, 1 an object found
# second, after one mistake, of two objects is worth 50 of 101 points at precision 2/3.
CASES = {
    "classification": (
        # two's own object comes after the mistake: AP 0 for one and 1/2 for two; corrected, both are 1
        [(1, X), (2, Y)],
        [(2, X, 0.9), (2, Y, 0.5)],
        (0.25, 0.75),
    ),
    "localisation": ([(1, X)], [(1, NEAR_X, 0.9)], (0.0, 1.0)),
    "both": ([(1, X), (2, Y)], [(2, NEAR_X, 0.9), (1, X, 0.5), (2, Y, 0.5)], (0.75, 0.25)),
    "duplicate": (
        [(1, X), (1, Y)],
        [(1, X, 0.9), (1, X, 0.8), (1, Y, 0.5)],
        ((51 + 50 * 2 / 3) / 101, 1 - (51 + 50 * 2 / 3) / 101),
    ),
    "background": (
        [(1, X), (1, Y)],
        [(1, X, 0.9), (1, FAR, 0.8), (1, Y, 0.5)],
        ((51 + 50 * 2 / 3) / 101, 1 - (51 + 50 * 2 / 3) / 101),
    ),
    "missed": ([(1, X), (1, Y)], [(1, X, 0.9)], (51 / 101, 50 / 101)),
}


@pytest.mark.parametrize("name", CASES)
def test_each_kind_alone(name):
    objects, detections, (ap50, gain) = CASES[name]
    report = find_errors(truth_of(*objects), found(*detections))
    kind = ErrorKind[name.upper()]
    assert report.count == {k: int(k is kind) for k in ERRORS}
    assert report.ap50 == pytest.approx(ap50)
    assert report.loss == pytest.approx({k: gain if k is kind else 0.0 for k in ERRORS})


def kinds(truth, detections) -> list[ErrorKind]:
    return [kind for _, kind in find_errors(truth, detections).images[0].detections]


def test_precedence():
    """As in TIDE's program: a badly placed box of the right class comes before a well placed one of the wrong class."""
    both = truth_of((1, X), (2, NEAR_X))
    assert kinds(both, found((1, NEAR_X, 0.9))) == [ErrorKind.LOCALISATION]
    assert kinds(truth_of((1, X), (2, X)), found((1, X, 0.9), (1, X, 0.8))) == [
        ErrorKind.RIGHT,
        ErrorKind.CLASSIFICATION,
    ]
    assert kinds(truth_of((1, X)), found((1, X, 0.9), (1, X, 0.8))) == [ErrorKind.RIGHT, ErrorKind.DUPLICATE]
    assert kinds(truth_of(), found((1, X, 0.9))) == [ErrorKind.BACKGROUND]


def test_the_surest_of_several_mistakes_about_an_object_is_the_one_corrected():
    truth = truth_of((1, X), (2, Y))
    report = find_errors(truth, found((2, X, 0.9), (1, NEAR_X, 0.8), (2, Y, 0.5)))
    assert (report.count[ErrorKind.CLASSIFICATION], report.count[ErrorKind.LOCALISATION]) == (1, 1)
    assert report.loss[ErrorKind.CLASSIFICATION] == pytest.approx(
        0.75
    )  # one 0 → 1, as the other comes after it; two 1/2 → 1
    assert report.loss[ErrorKind.LOCALISATION] == pytest.approx(
        0.0
    )  # only removed, which helps nobody: X stays unfound
    assert report.count[ErrorKind.MISSED] == 0


def test_detections_in_a_crowd_are_no_errors():
    report = find_errors(truth_of((1, Y), crowd=[0, 0, 50, 50]), found((1, X, 0.9), (1, Y, 0.5)))
    assert report.ap50 == 1
    assert sum(report.count.values()) == 0
    assert [kind for _, kind in report.images[0].detections] == [ErrorKind.IGNORED, ErrorKind.RIGHT]


def test_false_positives_and_negatives_together():
    report = find_errors(truth_of((1, X), (1, Y)), found((1, FAR, 0.9), (1, X, 0.5)))
    assert report.ap50 == pytest.approx(51 / 101 / 2)
    assert report.false_positives == pytest.approx(51 / 101 / 2)  # precision 1 at half the recalls
    assert report.false_negatives == pytest.approx(1 / 2 - 51 / 101 / 2)


@pytest.mark.parametrize("seed", range(5))
def test_ap50_is_the_official_one_and_everything_is_accounted_for(tmp_path, seed):
    data = random_ground_truth(seed)
    truth = read_ground_truth(write_json(tmp_path / "ann.json", data))
    detections = random_detections(data, seed, noise=0.3, ties=False)
    report = find_errors(truth, detections)
    assert report.ap50 == pytest.approx(score_detections(truth, detections).ap50, abs=1e-9)
    assert all(report.count[kind] > 0 for kind in ERRORS)
    every = [kind for image in report.images for _, kind in image.detections]
    assert len(every) == len(detections)
    assert {kind: every.count(kind) for kind in ERRORS[:-1]} == {kind: report.count[kind] for kind in ERRORS[:-1]}
    right, missed = every.count(ErrorKind.RIGHT), report.count[ErrorKind.MISSED]
    assert right + missed <= truth.objects
    assert all(0 <= gain <= 1 - report.ap50 + 1e-9 for gain in report.loss.values())
    weights = [image.weight for image in report.images]
    assert weights == sorted(weights, reverse=True)
    assert [image.image_id for image in report.images if image.image_id] != list(truth.images)
    assert json.loads(json.dumps(report.to_dict()))["duplicate"]["count"] == report.count[ErrorKind.DUPLICATE]
    assert f"{report.loss[ErrorKind.MISSED]:+.3f}" in report.table()


def test_nothing_at_all():
    report = find_errors(truth_of(), [])
    assert (report.ap50, sum(report.count.values()), sum(report.loss.values())) == (0, 0, 0)
    assert find_errors(truth_of((1, X)), []).count[ErrorKind.MISSED] == 1
