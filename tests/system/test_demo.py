"""The demonstration, shortened: the same path on fewer images and epochs."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from kdyolo.cli import demo
from kdyolo.data import synthetic
from kdyolo.errors import ConfigError, RunError


def test_the_data_has_what_real_data_has(tmp_path):
    root = synthetic.draw_dataset(tmp_path / "a", {"train": 12})
    content = json.loads((root / "annotations/instances_train.json").read_text())
    ids = [category["id"] for category in content["categories"]]
    assert ids != list(range(len(ids)))
    assert any(annotation["iscrowd"] for annotation in content["annotations"])
    assert {image["id"] for image in content["images"]} - {a["image_id"] for a in content["annotations"]}
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])
    again = synthetic.draw_dataset(tmp_path / "b", {"train": 12})
    assert (again / "train/000001.jpg").read_bytes() == (root / "train/000001.jpg").read_bytes()


def test_runs_to_the_end(tmp_path, monkeypatch):
    for name, epochs in (("TEACHING_EPOCHS", 6), ("DISTILLING_EPOCHS", 6), ("FROZEN_EPOCHS", 2), ("EPOCHS", 6)):
        monkeypatch.setattr(demo, name, epochs)
    result = demo.run_demo(tmp_path / "demo", {"train": 128, "val": 24})
    assert result["final"] > 0.1
    assert max(result["map"]) > result["map"][0]
    assert result["verdict"].startswith("learned")
    assert len(result["random"]) == 6
    assert "Distillation" in result["report"].read_text(encoding="utf-8")
    assert Image.open(result["predictions"]).size[0] > 500
    assert (tmp_path / "demo/distilled/weights/best.pt").is_file()
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match="not empty"):
        demo.run_demo(tmp_path / "demo")


def test_says_so_when_training_does_not_work(tmp_path, monkeypatch):
    for name, epochs in (("TEACHING_EPOCHS", 1), ("DISTILLING_EPOCHS", 1), ("FROZEN_EPOCHS", 1), ("EPOCHS", 2)):
        monkeypatch.setattr(demo, name, epochs)
    with pytest.raises(RunError, match="does not train properly"):
        demo.run_demo(tmp_path / "demo", {"train": 16, "val": 4})
