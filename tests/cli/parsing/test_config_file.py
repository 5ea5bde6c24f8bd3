"""``--config``: options from a YAML file, or from the record of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kdyolo.cli import main
from kdyolo.cli.parsing.config_file import read_config, teacher_of
from kdyolo.distillation.distill import DistillResult
from kdyolo.distillation.options import DistillOptions
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.errors import KDYOLOError

DEFAULTS = TrainOptions().to_dict()
RECORD = {
    "versions": {"kdyolo": "0.1.0"},
    "settings": {**DEFAULTS, "backbone": "ckpt.pth", "freeze_epochs": 5, "work_dir": "runs/a", "trust": True},
    "asked": {"task": "detect", "mode": "train", "epochs": 9, "save_dir": "/x/runs/a", "pretrained": True, "lr0": 0.02},
    "data": "coco.yaml",
    "model": "kdyolov8n.yaml",
}


def test_a_plain_file_is_taken_as_it_is():
    Path("run.yaml").write_text("data: coco.yaml\nepochs: 3\nfreeze_epochs: all\n")
    assert read_config("run.yaml", DEFAULTS) == {"data": "coco.yaml", "epochs": 3, "freeze_epochs": "all"}


@pytest.mark.parametrize("name", ["runs/a", "runs/a/kdyolo.yaml"])
def test_the_record_of_a_run_says_what_was_asked_for(name):
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/kdyolo.yaml").write_text(yaml.safe_dump(RECORD))
    assert read_config(name, DEFAULTS) == {
        "model": "kdyolov8n.yaml",
        "data": "coco.yaml",
        "epochs": 9,
        "lr0": 0.02,
        "backbone": "ckpt.pth",
        "freeze_epochs": 5,
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "--config run.yaml: no such file."),
        ("- 1", "expected 'option: value' lines"),
        ("1: 2", "expected 'option: value' lines"),
        ("", "expected 'option: value' lines"),
        ("a: [", "not a YAML file"),
        ("a: 1\na: 2", "not a YAML file"),
        ("trust: true", "no file can ask for it"),
        ("run_download: true", "no file can ask for it"),
    ],
)
def test_files_that_are_none(content, words):
    if content is not None:
        Path("run.yaml").write_text(content)
    with pytest.raises(KDYOLOError, match=re.escape(words)):
        read_config("run.yaml", DEFAULTS)


def test_the_teacher_of_a_distillation_is_the_one_that_was_given():
    Path("runs/d").mkdir(parents=True)
    Path("runs/d/args.yaml").write_text("teacher: sam2:weights.pt")
    Path("runs/d/kdyolo.yaml").write_text(yaml.safe_dump(RECORD))
    Path("runs/d/mine.yaml").write_text("epochs: 3")
    assert teacher_of("runs/d") == teacher_of("runs/d/kdyolo.yaml") == "sam2:weights.pt"
    assert teacher_of("runs/d/mine.yaml") is None


def test_distill_takes_the_record_of_a_distillation(monkeypatch):
    Path("images").mkdir()
    Path("runs/d").mkdir(parents=True)
    settings = {**DistillOptions().to_dict(), "task": "distill", "teacher": "sam2", "epochs": 9, "lr": 0.01}
    record = {**RECORD, "settings": settings, "asked": {}, "data": "images, images", "model": "yolov8n.yaml"}
    Path("runs/d/kdyolo.yaml").write_text(yaml.safe_dump(record))
    Path("runs/d/args.yaml").write_text("teacher: sam2:weights.pt")
    calls = []

    def distill(images, *, teacher, **options):
        calls.append((images, teacher, options))
        return DistillResult(Path("out"), Path("out/backbone.safetensors"), {})

    monkeypatch.setattr("kdyolo.distillation.distill.distill", distill)
    main(["distill", "--config", "runs/d", "--epochs", "5", "seed=3"])
    main(["distill", "config=runs/d/kdyolo.yaml", "teacher=yolov8x.pt"])
    options = {"model": "yolov8n.yaml", "epochs": 5, "lr": 0.01, "seed": 3}
    assert calls[0] == (["images", "images"], "sam2:weights.pt", options)
    assert calls[1][1:] == ("yolov8x.pt", {"model": "yolov8n.yaml", "epochs": 9, "lr": 0.01})
