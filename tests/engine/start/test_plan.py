"""Plan of a training: made once, from parts that are each read and checked once, and handed on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ultralytics.data.utils
import ultralytics.engine.trainer
from ultralytics import YOLO

from kdyolo import KDYOLO, KDTrainer
from kdyolo.cli import main
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.engine.start import detector_start
from kdyolo.engine.start import plan as planning
from kdyolo.engine.start.detector_start import fit_start, read_start
from kdyolo.engine.start.plan import plan_run, plan_with_every_mistake
from kdyolo.errors import CheckpointError, ConfigError, DatasetError, ModelError
from kdyolo.experiments.study import arm_checks
from kdyolo.experiments.study.arm_checks import read_study
from tests.builders.training import FAST


class Started(Exception):
    """Raised instead of training."""


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each part of a plan is made; training itself is cut short."""
    found: Counter[str] = Counter()

    def counted(module: Any, name: str) -> None:
        function = getattr(module, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            found[name] += 1
            return function(*arguments, **keywords)

        monkeypatch.setattr(module, name, call)

    counted(planning, "split_options")
    for name in ("read_checkpoint", "load_weights", "fit_report"):
        counted(detector_start, name)
    counted(arm_checks, "split_options")
    counted(arm_checks, "load_weights")
    for module in (ultralytics.data.utils, ultralytics.engine.trainer):
        counted(module, "check_det_dataset")

    def stop(trainer: KDTrainer) -> None:
        trainer.setup_model()
        raise Started

    monkeypatch.setattr(KDTrainer, "_do_train", stop)
    return found


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """A stock yolov8n detector."""
    path = tmp_path / "stock.pt"
    YOLO("yolov8n.yaml").save(path)
    return path


ONCE = {"split_options": 1, "read_checkpoint": 1, "load_weights": 1, "check_det_dataset": 1, "fit_report": 1}


def by_command(options: dict[str, Any]) -> None:
    words = [f"--{key}={options.pop(key)}" for key in ("data", "backbone", "weights")]
    main(["train", *words, "--work-dir", str(options.pop("work_dir")), *(f"{k}={v}" for k, v in options.items())])


def by_detector(options: dict[str, Any]) -> None:
    start = {key: options.pop(key) for key in ("backbone", "weights")}
    KDYOLO(**start).train(**options)


def by_stock_detector(options: dict[str, Any]) -> None:
    YOLO("yolov8n.yaml").train(trainer=KDTrainer, **options)


def by_trainer(options: dict[str, Any]) -> None:
    KDTrainer(overrides={**options, "model": "kdyolov8n.yaml"}).train()


@pytest.mark.parametrize("way", [by_command, by_detector, by_stock_detector, by_trainer])
def test_each_part_is_made_once_by_every_way_to_train(
    counts: Counter[str], checkpoint: Path, stock: Path, shapes: Path, tmp_path: Path, way: Callable[..., None]
) -> None:
    options = {**FAST, "data": shapes, "backbone": checkpoint, "weights": stock, "work_dir": tmp_path / "run"}
    with pytest.raises((Started, SystemExit)):  # the command ends the process with an error's message
        way({key: str(value) if isinstance(value, Path) else value for key, value in options.items()})
    assert counts == ONCE


def test_a_study_reads_and_checks_each_part_once(
    counts: Counter[str], checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        f"data: {shapes}\nbase: {{backbone: {checkpoint}, epochs: 2}}\ndevices: [cpu]\n"
        "arms: {all: {freeze: all}, one: {freeze: 1}, slow: {backbone_lr: 0.1}}\n"
    )
    _, arms, _ = read_study(file)
    assert [arm.settings.freeze_epochs for arm in arms] == ["all", 1, 0]
    assert {arm.model for arm in arms} == {"kdyolov8n.yaml"}
    assert counts == {"split_options": 3, "read_checkpoint": 1, "check_det_dataset": 1, "fit_report": 3}


def test_a_plan_holds_all_that_a_run_follows_from(checkpoint: Path, shapes: Path, tmp_path: Path) -> None:
    given = {"data": str(shapes), "backbone": str(checkpoint), "epochs": 9, "freeze_epochs": 4, "lr0": 0.5}
    plan = plan_run({**given, "work_dir": str(tmp_path / "run")})
    assert plan.options.freeze_epochs == 4
    assert plan.overrides["lr0"] == 0.5
    assert plan.overrides["momentum"] == 0.937  # of the recipe
    assert plan.overrides["save_dir"] == str(tmp_path / "run")
    assert plan.start.model == plan.overrides["model"] == "kdyolov8n.yaml"
    assert plan.start.description is not None
    assert plan.start.report is not None
    assert plan.start.report.complete
    assert (plan.schedule.epochs, plan.schedule.frozen_epochs) == (9, 4)
    assert plan.data is not None
    assert plan.data["nc"] == 3
    assert not (tmp_path / "run").exists()
    elsewhere = plan.in_folder(tmp_path / "other")
    assert (elsewhere.options.work_dir, elsewhere.overrides["save_dir"]) == (str(tmp_path / "other"),) * 2
    assert plan.overrides["save_dir"] == str(tmp_path / "run")


def test_data_that_a_callback_exchanges_is_checked_anew(shapes: Path) -> None:
    plan = plan_run({"data": str(shapes), "model": "kdyolov8n.yaml"})
    copy = plan.data_of(str(shapes))
    assert copy == plan.data
    assert copy is not plan.data
    assert plan.data_of("another.yaml") is None


@pytest.mark.parametrize(
    ("changes", "serves"),
    [({}, True), ({"freeze_epochs": 3}, True), ({"bn_eps": 1e-5}, False), ({"backbone": "other.pth"}, False)],
)
def test_a_start_serves_the_options_that_ask_for_the_same(
    checkpoint: Path, changes: dict[str, Any], serves: bool
) -> None:
    options = {"backbone": str(checkpoint)}
    start = read_start(TrainOptions(**options))
    assert start.serves(TrainOptions(**{**options, **changes}), None) is serves
    assert start.serves(TrainOptions(**{**options, **changes}), "kdyolov8n.yaml") is serves
    assert not start.serves(TrainOptions(**{**options, **changes}), "kdyolov8s.yaml")


def test_mistakes_of_every_kind_are_told_at_once_and_a_single_one_as_what_it_is(
    checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    given = {"data": "nowhere.yaml", "backbone": str(checkpoint), "model": "kdyolov8s.yaml"}
    data = str(shapes)
    with pytest.raises(ConfigError, match=r"3 mistakes(?s:.*)nowhere(?s:.*)unknown setting(?s:.*)not empty"):
        plan_run({**given, "work_dir": str(full), "lrO": 1})
    with pytest.raises(ConfigError, match=r"4 mistakes(?s:.*)nowhere(?s:.*)not empty(?s:.*)device(?s:.*)use --model"):
        plan_run({**given, "work_dir": str(full), "device": "gpu7"})
    with pytest.raises(ConfigError, match=r"^work dir (?s:.*)exists and is not empty"):
        plan_run({**given, "data": data, "model": "kdyolov8n.yaml", "work_dir": str(full)})
    with pytest.raises(ConfigError, match=r"^work dir .*file: expected a folder, found a file"):
        plan_run({**given, "data": data, "model": "kdyolov8n.yaml", "work_dir": str(full / "file")})
    with pytest.raises(CheckpointError, match=r"a checkpoint of yolov8n, the model is yolov8s(?s:.*)use --model"):
        plan_run({**given, "data": data})
    with pytest.raises(DatasetError, match="nowhere"):
        plan_run({**given, "model": "kdyolov8n.yaml"})


def test_every_mistake_is_found_although_the_checkpoint_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("hello")
    given = {"data": "nowhere.yaml", "backbone": str(tmp_path / "text.pth"), "model": "kdyolov9s.yaml"}
    with pytest.raises(ConfigError) as error:
        plan_with_every_mistake(given)
    assert [word in mistake for word, mistake in zip(("nowhere", "text.pth", "v9s"), error.value.mistakes, strict=True)]


def test_a_model_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="no such model YAML"):
        fit_start(TrainOptions(), "kdyolov7n.yaml", None, None)


def test_trust_of_a_trained_detector_needs_no_checkpoint_to_train_on(
    counts: Counter[str], stock: Path, shapes: Path, tmp_path: Path
) -> None:
    """``KDYOLO("x.pt", trust=True)`` could be made but not trained: its own trust was refused."""
    with pytest.raises(Started):
        KDYOLO(stock, trust=True).train(**{**FAST, "data": str(shapes), "work_dir": tmp_path / "run"})
    assert counts["read_checkpoint"] == 0


def test_no_data_set_is_told_beside_the_other_mistakes():
    with pytest.raises(ConfigError) as error:
        plan_with_every_mistake({"model": "kdyolov8n.yaml", "freeze_epochs": "half"})
    assert "2 mistakes" in str(error.value)
    assert "no data set. Expected data (--data) with a YAML" in str(error.value)
