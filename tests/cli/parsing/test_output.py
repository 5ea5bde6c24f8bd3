"""``-q``, ``-v`` and ``--json`` over all commands: what stdout has while their work talks through every channel."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdyolo import compare
from kdyolo.cli import main
from kdyolo.cli.base import note
from kdyolo.cli.sections import SECTIONS
from kdyolo.distillation.distill import DistillResult
from tests.builders.coco import make_split
from tests.builders.coco_results import random_detections, random_ground_truth, write_json
from tests.builders.run_folders import write_run
from tests.experiments.probe.test_result import hits, result

COMMANDS = [name for section in SECTIONS.values() for name in section]
CHATTER = ("a print on the way", "a note on the way", "a line of the log")
# Command → a line of it, and the words that its result has, as text. Words in braces are files of the fixture.
LINES: dict[str, tuple[str, str]] = {
    "card": ("run", "card.md"),
    "compare": ("{study}", "does-it-help"),
    "convert": ("coco --out out", "out/coco.yaml"),
    "demo": ("", "report.html"),
    "distill": ("--images . --teacher here.pt", "backbone.safetensors"),
    "doctor": ("", "CPU"),
    "export-stock": ("here.pt", "stock.pt"),
    "extract": ("here.pt --out b.safetensors", "b.safetensors"),
    "inspect": ("{checkpoint}", "162/162"),
    "predict": ("here.pt here.pt", "runs/predict"),
    "probe": ("here.pt --data here.pt", "P3"),
    "ps": ("runs", "finished"),
    "score": ("a.json truth.json", "@["),
    "stop": ("runs/one", "was not running"),
    "study": ("study.yaml", "does-it-help"),
    "to-coco": ("{shapes} --split val --out val.json", "4 images"),
    "train": ("--data here.pt", "weights/best.pt"),
    "val": ("here.pt here.yaml", "0.25"),
}


def talk() -> None:
    """What a command's work tells while it goes on, by every way that there is."""
    logger = logging.getLogger("ultralytics")
    handler = logging.StreamHandler(sys.stdout)  # as Ultralytics' own, made when it is first imported
    logger.addHandler(handler)
    try:
        print(CHATTER[0])
        note(CHATTER[1])
        logger.info(CHATTER[2])
    finally:
        logger.removeHandler(handler)


@pytest.fixture
def works(monkeypatch, tmp_path, study):
    """What takes long is replaced by talk, and by its result; everything else is real, on files that are there."""

    def works_as(target: str, value: Any) -> None:
        def work(*_: object, **__: object) -> Any:
            talk()
            return value

        monkeypatch.setattr(target, work)

    comparison = compare(study)
    told = SimpleNamespace(run=lambda engine: talk(), comparison=lambda: comparison)
    trained = {"run": "runs/a", "best": "runs/a/weights/best.pt", "data": "c.yaml", "images": None}
    trained |= {"epochs": 9, "mAP50-95": 0.25}
    metrics = SimpleNamespace(save_dir="runs/val", speed={"inference": 1.0}, results_dict={"mAP50-95": 0.25})
    found = SimpleNamespace(save_dir="runs/predict", path="a.jpg", summary=lambda decimals: [{"name": "cat"}])
    demo = {"report": tmp_path / "report.html", "predictions": Path("p.png"), "verdict": "better"}
    hit = {("here.pt", c, f): hits(0.5) for c in ("linear", "k-NN") for f in ("P3", "P4", "P5", "all levels")}

    class Detector:
        def __init__(self, model: str) -> None:
            talk()

        def val(self, **_: object) -> Any:
            return metrics

        def predict(self, **_: object) -> Any:
            return iter([found])

    monkeypatch.setattr("kdyolo.engine.model.KDYOLO", Detector)
    works_as("kdyolo.cli.train._start", trained)
    works_as("kdyolo.cli.demo.run_demo", demo)
    works_as("kdyolo.runs.model_card.write_model_card", Path("card.md"))
    works_as("kdyolo.checkpoints.export.export_stock", Path("stock.pt"))
    works_as("kdyolo.checkpoints.export.extract_backbone", Path("b.safetensors"))
    works_as("kdyolo.experiments.probe.probe.probe", result(hit))
    works_as("kdyolo.experiments.study.study.Study.from_file", told)
    works_as("kdyolo.distillation.distill.distill", DistillResult(Path("d"), Path("d/backbone.safetensors"), {}))
    truth = random_ground_truth()
    write_json(tmp_path / "truth.json", truth)
    write_json(tmp_path / "a.json", random_detections(truth, 0, 0.2))
    make_split(tmp_path / "coco", "train")
    write_run(tmp_path / "runs" / "one", [0.1, 0.3])
    Path("here.pt").touch()
    Path("here.yaml").touch()


@pytest.mark.parametrize("flags", ["", "-q", "-v", "--json", "--json -q"])
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "logs"])
@pytest.mark.usefixtures("works")
def test_every_command_leaves_its_result_on_stdout(name, flags, capsys, study, checkpoint, shapes):
    line, words = LINES[name]
    main([name, *line.format(study=study, checkpoint=checkpoint, shapes=shapes).split(), *flags.split()])
    shown = capsys.readouterr()
    if "--json" in flags:
        assert json.loads(shown.out), "one document, and nothing else"
    elif flags == "-q" or name not in ("demo", "distill", "predict", "study", "train", "val"):
        assert words in shown.out
    if "-q" in flags:
        assert not [chatter for chatter in CHATTER if chatter in shown.out + shown.err]
        assert shown.err == ""


def test_a_log_is_a_result_as_it_is(tmp_path, capsys):
    run = write_run(tmp_path / "runs" / "one")
    (run / "train.log").write_text("a line\n")
    main(["logs", "runs/one", "-q"])
    assert capsys.readouterr() == ("a line\n", "")
