"""Record of a run: what is written, in which order, and that it starts without torch."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.engine.provenance import run_record
from kdyolo.models.freeze_schedule import FreezeSchedule
from kdyolo.runs.run_record import RunRecord

KEYS = (
    "versions command git_commit settings asked started_from backbone schedule recipe data seed "
    "cpu_threads model batch distill_model"
)


@pytest.fixture
def record() -> RunRecord:
    schedule = FreezeSchedule(unfreeze_stages="1:p5,2:all", epochs=4)
    settings = TrainOptions(unfreeze_stages="1:p5,2:all")
    args = SimpleNamespace(data="shapes.yaml", seed=7)
    asked = {"epochs": 4, "augmentations": (1, 2), "name": "größer"}
    return run_record(settings, schedule, None, "start.pt", None, asked, args, "kdyolov8n.yaml", 12)


def test_the_file_has_its_keys_in_their_order(record, tmp_path):
    path = record.write(tmp_path)
    assert path == tmp_path / "kdyolo.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(content) == KEYS.split()
    assert "größer" in path.read_text(encoding="utf-8")
    assert content["asked"] == {"epochs": 4, "augmentations": "(1, 2)", "name": "größer"}
    assert content["schedule"]["thaws"] == {2: ["p5"], 3: ["stem", "p2", "p3", "p4"]}
    assert (content["data"], content["seed"], content["model"]) == ("shapes.yaml", 7, "kdyolov8n.yaml")
    assert content["batch"] == 12
    assert (content["started_from"], content["backbone"]) == ("start.pt", None)
    assert content["recipe"]["name"] == "coco"
    assert content["settings"]["unfreeze_stages"] == "1:p5,2:all"


def test_a_record_of_an_older_version_says_no_batch(record):
    known = {name: getattr(record, name) for name in KEYS.split() if name != "batch"}
    assert RunRecord(**known).batch is None


@pytest.mark.parametrize("module", ["run_record", "log_capture", "files", "pid_file"])
def test_runs_start_without_torch(module):
    code = f"import sys, kdyolo.runs.{module}; print(sorted({{'torch', 'ultralytics'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
