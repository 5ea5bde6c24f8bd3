"""Ctrl-C and SIGTERM in every phase of a run: it ends, says how to go on, and can go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil
import pytest
from ultralytics.data import dataset
from ultralytics.engine import trainer as engine_trainer
from ultralytics.utils import LOGGER
from ultralytics.utils.metrics import ConfusionMatrix
from ultralytics.utils.plotting import plot_labels

from kdyolo import KDTrainer
from kdyolo.cli import main
from kdyolo.cli.parsing.exit_codes import INTERRUPTED, TERMINATED
from kdyolo.engine.ranks import rank_training
from kdyolo.engine.resume import ResumeState, read_state
from kdyolo.engine.start import plan
from kdyolo.runs.files import PID_NAME, PROCESS_NAME
from kdyolo.runs.process_control import Terminated
from kdyolo.utils.ultralytics_patches import signals_pass

KINDS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}


def told(number: signal.Signals) -> None:
    """Send this process a signal; also in a thread it is the main thread that gets it."""
    os.kill(os.getpid(), number)


def signalled(function: Callable[..., Any], *numbers: signal.Signals) -> Callable[..., Any]:
    """The function, called after signals for this process."""

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        for number in numbers:
            told(number)
        return function(*arguments, **keywords)

    return call


# Phase of a run → the function in it that is called just after the signal.
PHASES: dict[str, tuple[object, str]] = {
    "checking": (plan, "check_for_ultralytics"),
    "setting up": (engine_trainer, "init_seeds"),
    "scanning labels": (dataset, "verify_image_label"),  # in threads
    "plotting labels": (plt, "subplots"),  # where Ultralytics drops every exception
    "the first batch": (KDTrainer, "preprocess_batch"),
    "evaluation": (KDTrainer, "validate"),
    "saving": (ResumeState, "save"),
    "final evaluation": (rank_training, "finish_checkpoints"),
}
SAVED = ("saving", "final evaluation")
CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
TRAIN = ("--epochs", "1", "--imgsz", "32", "--batch", "4", "--device", "cpu", "--random-init", "--work-dir", "run")


@pytest.fixture(autouse=True)
def _handlers_come_back():
    before = {number: signal.getsignal(number) for number in KINDS}
    handlers = [signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL for number in KINDS]
    for number, handler in zip(KINDS, handlers, strict=True):
        signal.signal(number, handler)
    yield
    assert [signal.getsignal(number) for number in KINDS] == handlers
    for number, old in before.items():
        signal.signal(number, old)


@pytest.mark.parametrize(("phase", "number"), [(phase, signal.SIGTERM) for phase in PHASES]
                         + [("plotting labels", signal.SIGINT), ("final evaluation", signal.SIGINT)])  # fmt: skip
def test_the_command_ends_in_every_phase_with_one_message_and_its_code(
    three, shapes, monkeypatch, tmp_path, capsys, caplog, phase, number
):
    monkeypatch.chdir(tmp_path)
    if phase == "scanning labels":
        for cache in shapes.parent.rglob("*.cache"):
            cache.unlink()
    others = psutil.Process().children(recursive=True)
    settings = ("workers=0", "val=False", f"plots={phase == 'plotting labels'}")
    owner, name = PHASES[phase]
    with monkeypatch.context() as patched:
        patched.setattr(LOGGER, "propagate", True)  # to where caplog listens
        patched.setattr(owner, name, signalled(getattr(owner, name), number))
        with pytest.raises(SystemExit) as ended:
            main(["train", "--data", str(shapes), "--model", str(three), *TRAIN, *settings])
    assert ended.value.code == CODES[number]
    out, err = capsys.readouterr()
    assert not any(word in out + err + said(caplog) for word in ("Traceback", "Error"))
    assert psutil.Process().children(recursive=True) == others
    assert no_process_recorded(tmp_path)
    if phase in SAVED:
        assert said(caplog).count("Interrupted. Resume with: kdyolo train --resume") == 1
        main(["train", "--resume", "run"])
        assert (tmp_path / "run/weights/best.pt").is_file()
        assert not (tmp_path / "run/weights/resume.pt").exists()
    else:
        assert said(caplog).count("Interrupted") == (phase not in ("checking", "setting up"))
        assert not (tmp_path / "run").exists()


def test_while_saving_the_epoch_is_saved_first(train, monkeypatch, tmp_path):
    with monkeypatch.context() as patched:
        patched.setattr(ResumeState, "save", signalled(ResumeState.save, signal.SIGTERM, signal.SIGINT))
        with pytest.raises(Terminated):
            train(epochs=3)
    assert "Interrupted. Resume with: kdyolo train --resume" in log_of(tmp_path)
    assert read_state(tmp_path / "run/weights/last.pt").epoch == 0
    assert no_process_recorded(tmp_path)


def test_in_the_final_evaluation_and_again_while_cleaning_up(train, monkeypatch, tmp_path):
    """The run is then finished by a resume, which trains nothing more."""
    with monkeypatch.context() as patched:
        patched.setattr(rank_training, "finish_checkpoints", signalled(rank_training.finish_checkpoints, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt) as caught:
            train(callbacks={"teardown": lambda trainer: told(signal.SIGTERM)})
    assert type(caught.value) is KeyboardInterrupt
    assert log_of(tmp_path).count("Interrupted. Resume with: kdyolo train --resume") == 1
    assert no_process_recorded(tmp_path)
    last = str(tmp_path / "run/weights/last.pt")
    KDTrainer(overrides={"resume": last, "model": last, "task": "detect", "mode": "train"}).train()
    assert (tmp_path / "run/weights/best.pt").is_file()
    assert not (tmp_path / "run/weights/resume.pt").exists()


def test_a_signal_that_somebody_drops_ends_the_run_at_its_next_step(train, tmp_path):
    batches = []

    def drop(trainer: Any) -> None:
        batches.append(trainer.epoch)
        try:
            told(signal.SIGTERM)
        except BaseException:
            return

    with pytest.raises(Terminated):
        train(callbacks={"on_train_batch_start": drop})
    assert batches == [0]


def test_a_worker_that_gets_the_same_signal_does_not_hide_it(train, monkeypatch, caplog):
    """A scheduler signals every process of a job, and torch's loader raises an error when a worker has died of it."""

    def both(trainer: Any) -> None:
        try:
            told(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.") from None

    monkeypatch.setattr(LOGGER, "propagate", True)
    with pytest.raises(Terminated):
        train(callbacks={"on_train_batch_start": both})
    assert "Interrupted" in said(caplog)


def test_ultralytics_plots_drop_errors_but_no_signals(monkeypatch, tmp_path):
    names = {0: "disc", 1: "square"}
    matrix = ConfusionMatrix(names)
    plots = (
        lambda: plot_labels(np.array([[0.5, 0.5, 0.1, 0.1]]), np.array([0.0]), names, tmp_path),
        lambda: matrix.plot(save_dir=tmp_path),
    )
    for plot in plots:
        for raised, passes in ((ValueError("odd data"), False), (KeyboardInterrupt(), True), (Terminated(), True)):
            monkeypatch.setattr(plt, "subplots", raising(raised))
            with signals_pass():
                if passes:
                    with pytest.raises(KeyboardInterrupt):
                        plot()
                else:
                    plot()
            plot()  # as Ultralytics has it, nothing passes


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in dict.fromkeys(caplog.records))


def log_of(folder: Path) -> str:
    return (folder / "run/train.log").read_text()


def no_process_recorded(folder: Path) -> bool:
    return not any((folder / "run" / name).exists() for name in (PID_NAME, PROCESS_NAME))
