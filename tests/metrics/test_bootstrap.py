"""Intervals over images: the accumulation behind them equals pycocotools, also on images that are really copied."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdyolo.errors import ConfigError
from kdyolo.metrics.bootstrap import Accumulator, compare_coco, confidence
from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.coco_metrics import score_detections
from kdyolo.metrics.matching import match_detections
from kdyolo.metrics.names import NAMES
from tests.builders.coco_results import random_detections, random_ground_truth, write_json


def with_none(values) -> list[float]:
    return [-1.0 if np.isnan(v) else v for v in values]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), images=st.integers(1, 15), noise=st.floats(0, 0.3), crowded=st.booleans())
def test_unit_weights_give_the_official_numbers(tmp_path_factory, seed, images, noise, crowded):
    data = random_ground_truth(seed, images)
    if crowded:
        data["annotations"] = [{**a, "iscrowd": int(a["id"] % 2)} for a in data["annotations"]]
    truth = read_ground_truth(write_json(tmp_path_factory.mktemp("any") / "ann.json", data))
    detections = random_detections(data, seed, noise)
    found = Accumulator(match_detections(truth, detections))(np.ones(images))
    assert with_none(found) == pytest.approx(score_detections(truth, detections, "pycocotools").metrics, abs=1e-9)


def test_chosen_categories_alone_are_drawn(tmp_path):
    data = random_ground_truth(2)
    truth = read_ground_truth(write_json(tmp_path / "ann.json", data))
    detections = random_detections(data, 2)
    chosen = list(truth.categories)[1:3]
    only = truth.only(chosen), [d for d in detections if d["category_id"] in chosen]
    assert confidence(truth, detections, resamples=20, categories=chosen) == confidence(*only, resamples=20)
    assert confidence(truth, detections, resamples=20) != confidence(*only, resamples=20)


def test_more_detections_than_count(tmp_path):
    """Of 150 detections in one image and category the best 100 count, and the best 1 and 10 for AR."""
    data = random_ground_truth(4, images=3)
    truth = read_ground_truth(write_json(tmp_path / "ann.json", data))
    target = data["annotations"][0]
    rng = np.random.default_rng(0)
    detections = [
        {**{k: target[k] for k in ("image_id", "category_id")}, "bbox": box, "score": round(rng.random(), 2)}
        for box in (np.array(target["bbox"]) + rng.normal(0, 8, (150, 4)).clip(-5, 20)).tolist()
    ]
    found = Accumulator(match_detections(truth, detections))(np.ones(3))
    assert with_none(found) == pytest.approx(score_detections(truth, detections, "pycocotools").metrics, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_a_weight_is_a_number_of_copies(tmp_path, seed):
    """Each draw equals pycocotools on a file in which the drawn images stand as often as they were drawn."""
    data = random_ground_truth(seed)
    detections = random_detections(data, seed, ties=False)
    truth = read_ground_truth(write_json(tmp_path / "ann.json", data))
    weights = np.bincount(np.random.default_rng(seed).integers(40, size=40), minlength=40)
    assert weights.max() > 2
    copies, copied_objects, copied_detections, images = dict(zip(truth.images, weights, strict=True)), [], [], []
    for image_id, times in copies.items():
        for copy in range(times):
            images.append({"id": image_id * 100 + copy, "file_name": f"{image_id}-{copy}.jpg"})
            for records, out in ((data["annotations"], copied_objects), (detections, copied_detections)):
                mine = [r for r in records if r["image_id"] == image_id]
                out += [{**r, "image_id": image_id * 100 + copy, "id": len(out) + i} for i, r in enumerate(mine, 1)]
    copied = {**data, "images": images, "annotations": copied_objects}
    expected = score_detections(
        read_ground_truth(write_json(tmp_path / "copied.json", copied)), copied_detections, "pycocotools"
    )
    found = Accumulator(match_detections(truth, detections))(weights.astype(float))
    assert with_none(found) == pytest.approx(expected.metrics, abs=1e-9)


@pytest.fixture
def data(tmp_path):
    content = random_ground_truth(7, images=60)
    return content, write_json(tmp_path / "ann.json", content)


def test_intervals_hold_the_value_and_narrow_with_more_images(data, tmp_path):
    widths = []
    for images in (30, 240):
        content = random_ground_truth(1, images)
        truth = read_ground_truth(write_json(tmp_path / "ann.json", content))
        detections = random_detections(content, 1)
        scores, intervals = score_detections(truth, detections), confidence(truth, detections, resamples=200)
        assert intervals == confidence(truth, detections, resamples=200)
        assert intervals != confidence(truth, detections, resamples=200, seed=1)
        assert intervals.low[0] < scores.ap < intervals.high[0]
        widths.append(intervals.high[0] - intervals.low[0])
    assert widths[1] < 0.6 * widths[0]  # about 1/√8 of it


def test_intervals_are_those_of_plain_resampling(data):
    """The percentiles of AR100 on one class, drawn here by hand from the images."""
    content, path = data
    category = content["categories"][0]["id"]
    truth = read_ground_truth(path).only([category])
    detections = random_detections(content, 2)
    matches = match_detections(truth, detections)
    right = matches.matched[:, 0] & ~matches.ignored[:, 0]
    found = np.zeros((60, 10))
    np.add.at(found, matches.image[matches.hit], right)
    objects = np.bincount(matches.object_image[matches.object_counts[0]], minlength=60)
    rng = np.random.default_rng(0)
    draws = [rng.integers(60, size=60) for _ in range(300)]
    recalls = [(found[d].sum(0) / objects[d].sum()).mean() for d in draws]
    intervals = confidence(truth, detections, resamples=300)
    at = NAMES.index("AR100")
    assert (intervals.low[at], intervals.high[at]) == pytest.approx(tuple(np.quantile(recalls, [0.025, 0.975])))


def test_a_model_against_itself_and_against_a_better_one(data, tmp_path):
    content, annotations = data
    paths = [
        write_json(tmp_path / f"{noise}.json", random_detections(content, 5, noise, ties=False))
        for noise in (0.15, 0.03)
    ]
    same = compare_coco(paths[0], paths[0], annotations, resamples=100)
    assert same.difference[0] == same.intervals.low[0] == same.intervals.high[0] == 0
    assert same.p_values[0] == 1
    better = compare_coco(*paths, annotations, resamples=200)
    assert better.difference[0] == pytest.approx(better.second.ap - better.first.ap)
    assert 0 < better.intervals.low[0] < better.difference[0] < better.intervals.high[0]
    assert better.p_values[0] == pytest.approx(2 / 201)
    worse = compare_coco(*reversed(paths), annotations, resamples=200)
    assert worse.intervals.low[0] == pytest.approx(-better.intervals.high[0])
    assert json.loads(json.dumps(better.to_dict()))["difference"]["AP"] == better.difference[0]
    assert f"{better.difference[0]:+.3f}" in better.table()


def test_pairing_narrows_the_interval_of_the_difference(data, tmp_path):
    """Two models that fail on the same images: the difference is surer than either value."""
    content, annotations = data
    detections = random_detections(content, 5, ties=False)
    slightly = [{**d, "score": d["score"] * (0.98 + 0.04 * (i % 2))} for i, d in enumerate(detections)]
    paths = [write_json(tmp_path / f"{n}.json", d) for n, d in enumerate((detections, slightly))]
    paired = compare_coco(*paths, annotations, resamples=200).intervals
    alone = confidence(read_ground_truth(annotations), detections, resamples=200)
    assert paired.high[0] - paired.low[0] < 0.5 * (alone.high[0] - alone.low[0])


def test_metrics_without_objects_have_no_interval(tmp_path):
    content = random_ground_truth(0)
    content["annotations"] = [{**a, "area": 50.0} for a in content["annotations"]]
    truth = read_ground_truth(write_json(tmp_path / "ann.json", content))
    detections = random_detections(content, 1)
    plain = confidence(truth, detections, resamples=20).to_dict()
    assert plain["AP_large"] is None
    assert score_detections(truth, detections).ap_large == -1
    assert plain["AP_small"] is not None


def test_numbers_out_of_range_are_reported_together(data):
    truth = read_ground_truth(data[1])
    with pytest.raises(ConfigError, match="2 mistakes"):
        confidence(truth, [], resamples=0, level=95)
