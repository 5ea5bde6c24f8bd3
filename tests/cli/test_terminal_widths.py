"""On a narrow terminal every table fits: no line is longer than it, and each number stands whole in one line."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ultralytics import YOLO
from ultralytics.utils import LOGGER

from kdyolo.cli import main
from kdyolo.utils.text import without_colours
from tests.builders.run_folders import detect, write_run
from tests.experiments.probe.test_result import hits, result


def pasted(line: str) -> bool:
    """Whether a line stays whole because it is a command, or a single path."""
    return line.lstrip().startswith("kdyolo ") or ("/" in line and len(line.split()) == 1)


class Terminal(io.StringIO):
    """A stdout that says that it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def own_log(screen: Terminal) -> logging.Handler:
    """Ultralytics' log on a terminal without its own lines, whose tables have the width that they have."""
    handler = logging.StreamHandler(screen)
    handler.addFilter(lambda record: "ultralytics" not in Path(record.pathname).parts)
    return handler


@pytest.fixture(params=[60, 80, 120])
def terminal(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))

    def shown(command: str | Callable[[], str]) -> str:
        """What a command prints, or a function gives, on such a terminal."""
        screen = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", screen)
            patch.setattr(LOGGER, "handlers", [own_log(screen)])
            text = command() if callable(command) else main(command.split()) or screen.getvalue()
        text = without_colours(text)
        assert text.strip()
        assert not [line for line in text.splitlines() if len(line) > request.param and not pasted(line)]
        return text

    return shown


def test_convert(terminal, shapes, tmp_path):
    text = terminal(f"convert {shapes.parent.parent / 'root'} --out {tmp_path / 'out'}")
    assert {"split", "background", "crowds", "clipped", "dropped"} <= set(text.split())


def test_score(terminal, shapes, tmp_path):
    annotations = next((shapes.parent.parent / "root" / "annotations").glob("*val*.json"))
    for name, skill in (("a", 0.9), ("b", 0.5)):
        (tmp_path / f"{name}.json").write_text(json.dumps(detect(annotations, 0, skill)))
    scores = terminal(f"score a.json {annotations} --ci --per-class --resamples 20")
    assert sum(line.count(" @[ ") for line in scores.splitlines()) == 12
    assert all(" = 0." in line or " = -1." in line or " = 1." in line for line in scores.splitlines() if " @[ " in line)
    both = terminal(f"score a.json b.json {annotations} --resamples 20")
    assert sum(line.split()[:1] == ["AR100"] for line in both.splitlines()) == 1


@pytest.fixture(scope="module")
def detector(tmp_path_factory, three):
    """An untrained detector for the three classes of ``shapes``."""
    path = tmp_path_factory.mktemp("detector") / "yolov8n.pt"
    model = YOLO("yolov8n.yaml")
    model.model = type(model.model)({**model.model.yaml, "nc": 3}, verbose=False)
    model.save(path)
    return path


def test_val(terminal, detector, shapes):
    text = terminal(f"val {detector} {shapes} --errors --per-class imgsz=64 device=cpu plots=False")
    lines = text.splitlines()
    assert sum(line.count(" @[ ") for line in lines) == 12
    assert len({len(line.partition("  (")[0]) for line in lines if "  +0." in line}) == 1, (
        "gains stand below each other"
    )
    assert {"class", "AP50", "triangle", "(TIDE):", "duplicate"} <= set(text.split())


@pytest.fixture
def untimed(monkeypatch):
    """A dry run that takes no step."""
    monkeypatch.setattr("kdyolo.engine.preflight._step", lambda *_: 0.05)


SMALL = {"epochs": 4, "imgsz": 64, "batch": 4, "plots": False, "device": "cpu"}


@pytest.mark.usefixtures("untimed")
def test_dry_run_of_a_training(terminal, shapes, checkpoint):
    settings = " ".join(f"{key}={value}" for key, value in SMALL.items())
    text = terminal(f"train --data {shapes} --backbone {checkpoint} --freeze 2 {settings} --dry-run")
    assert {"162/162", "plan:", "frozen", "GiB", "boxes;", "memory", "preflight/labels.jpg;"} <= set(text.split())


def test_distill(terminal, shapes, checkpoint):
    images = shapes.parent / "images" / "train"
    line = f"distill --images {images} --teacher {checkpoint} --model yolov8n --imgsz 64 --batch 4 --epochs 1"
    text = terminal(f"{line} --device cpu --dry-run")
    assert {"teacher:", "student:", "images:", "speed", "length", "disk"} <= set(text.split())
    assert "length 1 epoch of" in " ".join(text.split())
    text = terminal(f"{line} --device cpu --work-dir run --exist-ok")
    assert {"verdict:", "backbone:"} <= set(text.split())


@pytest.mark.usefixtures("untimed")
def test_dry_run_of_a_study(terminal, shapes, checkpoint, tmp_path):
    Path("crowded.yaml").write_text(f"{shapes.read_text()}crowd_regions: {{train: 9 of 20 objects}}\n")
    base = {key: value for key, value in SMALL.items() if key != "device"}
    arms = {"random": {"random_init": True}, "frozen": {"backbone": str(checkpoint), "freeze": 2}}
    content = {"name": "q", "data": "crowded.yaml", "base": base, "arms": arms, "baseline": "random", "seeds": [0, 1]}
    Path("study.yaml").write_text(yaml.safe_dump({**content, "devices": ["cpu"]}))
    text = terminal("study study.yaml --dry-run")
    assert {"arm", "seed", "status", "epochs", "model", "about", "frozen"} <= set(text.split())
    assert " ".join(text.split()).count("9 of 20 objects were crowd regions") == 1, "once, not for each arm"


def test_inspect(terminal, checkpoint):
    text = terminal(f"inspect {checkpoint}")
    assert {"162/162", "1,277,707", "923,143", "dead"} <= set(text.split())
    assert "equal to the last bit" in terminal(f"inspect {checkpoint} {checkpoint}")


def test_compare(terminal, study):
    text = terminal(f"compare {study}")
    assert {"(baseline)", "mAP50-95", "GiB"} <= set(text.split())


def test_ps(terminal, study):
    text = terminal(f"ps {study}")
    assert {"STATUS", "EPOCH", "mAP50-95"} <= set(text.split())


def test_names_of_runs_stay_whole_where_a_column_has_nothing_in_it(monkeypatch, tmp_path):
    """No run of a study that is finished has a process or time left, and its names are to be pasted."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    run = Path("studies/does-it-help/frozen50/seed0")
    write_run(run, [0.1, 0.2], seed=0)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    main(["ps"])
    assert str(run) in screen.getvalue()
    assert "PHASE" in screen.getvalue()
    assert "PID" not in screen.getvalue()


def test_probe(terminal):
    features = ("P3", "P4", "P5", "all levels")
    names = ("distilled/best.pth", "random")
    found = result({(n, c, f): hits(0.5) for n in names for c in ("linear", "k-NN") for f in features})
    text = terminal(lambda: "\n".join(found.table().splitlines()[1:-1]))  # without the sentences around the tables
    assert text.count("50.0") >= 16
    assert all(line.count("[") == line.count("]") for line in text.splitlines()), "an interval stays whole"


def test_doctor(terminal, checkpoint, shapes):
    text = terminal(f"doctor --data {shapes} --backbone {checkpoint}")
    assert {"CPU", "classes,", "162/162", "sha256"} <= set(text.split())


@pytest.mark.parametrize("mistake", ["--nonsense lrO=1", "--data nowhere.yaml --epochs 0", "--resume nowhere"])
def test_mistakes(mistake, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with pytest.raises(SystemExit):
        main(["train", *mistake.split()])
    assert not [line for line in screen.getvalue().splitlines() if len(line) > 60 and not pasted(line)]
