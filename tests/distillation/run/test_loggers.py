"""Loggers: Ultralytics' own get every column of an epoch, and one that fails ends nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from ultralytics.utils import LOGGER, SETTINGS
from ultralytics.utils.callbacks import tensorboard

from kdyolo.distillation.run.loggers import LoggedRun

ROW = {"epoch": 2.0, "time": 1.0, "train/loss": 0.5, "val/loss": 0.6, "cosine/P3": 0.4, "lr/pg0": 0.01}


class Writer:
    """What TensorBoard's writer gets."""

    def __init__(self, folder: str) -> None:
        self.folder, self.scalars, self.closed = folder, list[tuple[str, float, int]](), False

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((name, value, step))

    def close(self) -> None:
        self.closed = True


class Broken(Writer):
    """A writer whose disk is full."""

    asked = 0

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.asked += 1
        raise OSError("No space left on device")


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ultralytics' TensorBoard callbacks, which it leaves out under pytest, with a writer of our own."""
    for name, value in {"SummaryWriter": Writer, "WRITER": None, "PREFIX": "", "LOGGER": LOGGER}.items():
        monkeypatch.setattr(tensorboard, name, value, raising=False)
    events = ("on_pretrain_routine_start", "on_train_epoch_end", "on_fit_epoch_end", "teardown")
    monkeypatch.setattr(tensorboard, "callbacks", {event: getattr(tensorboard, event) for event in events})
    dict.update(SETTINGS, tensorboard=True)
    yield tensorboard
    dict.update(SETTINGS, tensorboard=False)


def test_every_column_reaches_tensorboard(board: Any, tmp_path: Path) -> None:
    run = LoggedRun(tmp_path, {"lr": 0.01}, nn.Identity(), resumed=False)
    run.begin()
    writer = board.WRITER
    run.log_epoch(ROW)
    run.end(finished=True)
    assert writer.folder == str(tmp_path)
    assert sorted(writer.scalars) == sorted((k, v, 2) for k, v in ROW.items() if k not in ("epoch", "time"))
    assert writer.closed


def test_a_logger_that_fails_gets_nothing_more_and_ends_nothing(board: Any, tmp_path: Path) -> None:
    run = LoggedRun(tmp_path, {}, nn.Identity(), resumed=False)
    run.begin()
    board.WRITER = Broken(str(tmp_path))
    run.log_epoch(ROW)
    run.log_epoch(ROW)
    assert board.WRITER.asked == 1
    assert not any(run.callbacks.values())


def test_what_is_not_switched_on_is_not_asked(tmp_path: Path) -> None:
    assert not LoggedRun(tmp_path, {}, nn.Identity(), resumed=False).callbacks
