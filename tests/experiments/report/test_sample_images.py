"""Which images a report shows, and what is drawn on them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from kdyolo.experiments.compare import compare_runs
from kdyolo.experiments.report import sample_images as sample_module
from kdyolo.experiments.report import sample_predictions
from kdyolo.experiments.report.sample_images import samples
from kdyolo.experiments.report.sample_predictions import NoPredictions, predict_samples
from kdyolo.runs.history import read_run
from tests.builders.run_folders import write_full_run, write_predictions
from tests.builders.studies import comparison_of, write_study


@pytest.fixture
def annotations(shapes):
    return shapes.parent / "annotations" / "instances_val.json"


def perfect(annotations, but=()):
    """The objects themselves as detections, without those of some images."""
    objects = [a for a in json.loads(annotations.read_text())["annotations"] if not a["iscrowd"]]
    keys = ("image_id", "category_id", "bbox")
    return [{**{k: a[k] for k in keys}, "score": 0.9} for a in objects if a["image_id"] not in but]


def pair(folder, shapes, annotations, one, other):
    """Two arms with these detections."""
    for arm, detections in (("one", one), ("other", other)):
        run = write_full_run(folder / arm / "seed0", data=shapes, epochs=3, final=0.3 if arm == "one" else 0.4)
        write_predictions(run, annotations, detections)
    return compare_runs(folder, baseline="one").arms


def test_the_image_on_which_they_differ_comes_first(shapes, annotations, tmp_path):
    images = json.loads(annotations.read_text())["images"]
    missed = max(a["image_id"] for a in perfect(annotations))
    arms = pair(tmp_path, shapes, annotations, perfect(annotations), perfect(annotations, but=[missed]))
    first = samples(arms, count=2).images[0]
    assert first.name == next(image["file_name"] for image in images if image["id"] == missed)
    truth, one, other = first.pictures
    assert {box.kind for box in truth.boxes} <= {"missed", "crowd"}
    assert {box.kind for box in one.boxes} == {"right"}
    assert other.boxes == ()
    assert one.summary.endswith("0 wrong, F1 1.00")
    assert other.summary == "0 right, 0 wrong, F1 0.00"


def test_boxes_are_those_of_the_files(shapes, annotations, tmp_path):
    detections = perfect(annotations)
    arms = pair(tmp_path, shapes, annotations, detections, [{**detections[0], "score": 0.2}])  # which is not shown
    found = samples(arms)
    boxes = [(b.x, b.y, b.w, b.h) for sample in found.images for b in sample.pictures[1].boxes]
    assert sorted(boxes) == sorted(tuple(d["bbox"]) for d in detections)
    assert not any(sample.pictures[2].boxes for sample in found.images)


def test_a_detection_on_a_crowd_is_no_mistake(shapes, annotations, tmp_path):
    crowd = next(a for a in json.loads(annotations.read_text())["annotations"] if a["iscrowd"])
    x, y, w, h = crowd["bbox"]
    inside = {"image_id": crowd["image_id"], "category_id": crowd["category_id"], "score": 0.9}
    inside["bbox"] = [x + 1, y + 1, w - 2, h - 2]
    arms = pair(tmp_path, shapes, annotations, [*perfect(annotations), inside], perfect(annotations))
    name = {i["id"]: i["file_name"] for i in json.loads(annotations.read_text())["images"]}[crowd["image_id"]]
    sample = next(s for s in samples(arms).images if s.name == name)
    assert "F1 1.00" in sample.pictures[1].summary
    assert {box.kind for box in sample.pictures[1].boxes} == {"right"}
    assert "crowd" in {box.kind for box in sample.pictures[0].boxes}


def test_a_stock_run_is_predicted_on_the_same_images(train, shapes, tmp_path, monkeypatch):
    for module in (sample_predictions, sample_module):  # after one epoch nothing is sure
        monkeypatch.setattr(module, "SHOWN_SCORE", 0.001)
    train(epochs=1)  # a real checkpoint, and a run that keeps its predictions
    stock = shutil.copytree(tmp_path / "run", tmp_path / "stock")
    for name in ("kdyolo.yaml", "predictions.json", "coco_metrics.json"):
        (stock / name).unlink()
    args = yaml.safe_load((stock / "args.yaml").read_text())
    (stock / "args.yaml").write_text(yaml.safe_dump({**args, "lr0": 0.5}))
    results = stock / "results.csv"
    results.write_text(results.read_text().replace("\n1,", "\n1,1", 1))  # took longer
    found = samples(compare_runs(tmp_path / "run", stock, baseline=tmp_path / "run", anyway=True).arms)
    assert "Predicted for this report with best.pt: stock." in found.summary
    assert found.missing == {}
    for sample in found.images:
        _, kept, predicted = sample.pictures
        assert (kept.title, predicted.title) == ("run", "stock")
        # The same weights, the same detections; an evaluation also keeps the less likely classes of a box.
        boxes = [
            {(round(b.x), round(b.y), round(b.w), round(b.h), b.label) for b in p.boxes} for p in (kept, predicted)
        ]
        assert boxes[0] >= boxes[1]
        assert boxes[1]
    image, one_class = next((shapes.parent / "images/val").iterdir()), [1]
    with pytest.raises(NoPredictions, match="has more classes than the data set, which has 1"):
        predict_samples(read_run(stock), {1: image}, one_class)
    (stock / "weights/best.pt").unlink()
    with pytest.raises(NoPredictions, match=r"best\.pt: no such file"):  # and Ultralytics is not asked to fetch it
        predict_samples(read_run(stock), {1: image}, one_class)


def test_why_an_arm_has_no_pictures(shapes, tmp_path):
    folders = write_study(tmp_path / "study", shapes, seeds=1)
    (folders["unfrozen"][0] / "predictions.json").unlink()
    (folders["unfrozen"][0] / "weights" / "best.pt").write_bytes(b"nothing that could be loaded")
    found = samples(comparison_of(folders, "random").arms)
    assert list(found.missing) == ["unfrozen"]
    assert "cannot be used" in found.missing["unfrozen"]
    assert len(found.images[0].pictures) == 3


def test_images_that_have_gone(shapes, tmp_path):
    arms = comparison_of(write_study(tmp_path / "study", shapes, seeds=1), "random").arms
    lost = [replace(arm, runs=(replace(arm.runs[0], args={"data": str(tmp_path / "gone.yaml")}),)) for arm in arms]
    found = samples(lost)
    assert found.images == ()
    assert all("gone.yaml: cannot be read" in reason for reason in found.missing.values())
