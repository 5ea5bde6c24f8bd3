"""Early ends of a training: what is said of each, and what stays as it was."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ultralytics.utils import LOGGER

from kdyolo.engine.early_ends import (
    how_to_resume,
    images_explained,
    loggers_forgiven,
    refusals_of_files_explained,
    small_images_explained,
)
from kdyolo.errors import ConfigError, DatasetError, RunError


def test_advice_depends_on_whether_an_epoch_was_saved(tmp_path):
    last = tmp_path / "run/weights/last.pt"
    assert "before the first epoch was saved" in how_to_resume(last)
    last.parent.mkdir(parents=True)
    for path in (last.with_name("resume.pt"), last):  # killed while the first epoch was saved
        path.touch()
        assert "before the first epoch was saved" in how_to_resume(last)
    last.with_name("resume.pt").write_bytes(b"state")
    assert how_to_resume(last).endswith(f"kdyolo train --resume {tmp_path / 'run'}")
    last.with_name("resume.pt").unlink()
    assert "had ended" in how_to_resume(last)


def test_a_logger_that_fails_at_the_end_only_warns_and_others_are_raised(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(LOGGER, "propagate", True)
    heard = []

    def logger(trainer):
        raise TypeError("DummyModel has no upload")

    def mine(trainer):
        heard.append(trainer)

    logger.__module__ = "ultralytics.utils.callbacks.clearml"
    given = {"on_train_end": [logger, mine], "on_fit_epoch_end": [logger]}
    callbacks = loggers_forgiven(given, tmp_path / "run")
    for callback in callbacks["on_train_end"]:
        callback("trainer")
    assert heard == ["trainer"], "callbacks behind it are called"
    told = "the logger clearml failed after the training had ended (TypeError: DummyModel has no upload)"
    assert told in caplog.text
    assert str(tmp_path / "run") in caplog.text
    assert callbacks["on_fit_epoch_end"] == [logger], "before the end, it is an error"
    assert given["on_train_end"] == [logger, mine], "the model's own callbacks stay"
    logger.__module__ = "my_loggers"
    with pytest.raises(TypeError):
        loggers_forgiven(given, tmp_path)["on_train_end"][0]("trainer")


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.pt")
LOCKED = OSError(errno.EROFS, os.strerror(errno.EROFS), "pid.txt")
TORCH = RuntimeError("[enforce fail at inline_container.cc:783] . PytorchStreamWriter failed writing file data/0")
WORKER = FileNotFoundError(
    "Caught FileNotFoundError in DataLoader worker process 0.\nTraceback:\nImage Not Found a.jpg"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [(FULL, "No space left on device: 'last.pt'"), (TORCH, "failed writing file data/0"), (WORKER, "Not Found a.jpg.")],
)
def test_what_the_system_refuses_ends_a_run_with_one_error_and_advice(tmp_path, error, expected):
    with (
        pytest.raises(RunError, match=r"the same command starts anew") as caught,
        refusals_of_files_explained(tmp_path / "weights/last.pt"),
    ):
        raise error
    assert expected in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_error_while_cleaning_up_does_not_hide_the_one_before(tmp_path):
    def train():
        with refusals_of_files_explained(tmp_path / "weights/last.pt"):
            try:
                raise FULL
            finally:
                raise LOCKED

    with pytest.raises(RunError, match=r"No space .*'last.pt'; then .*Read-only file system: 'pid.txt'"):
        train()


@pytest.mark.parametrize("error", [BrokenPipeError(), ConnectionResetError(), RuntimeError("CUDA error"), ValueError()])
def test_errors_that_are_not_about_files_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, refusals_of_files_explained(tmp_path / "weights/last.pt"):
        raise error
    assert caught.value is error


def test_a_rank_whose_own_errors_nobody_prints_keeps_the_systems(tmp_path, monkeypatch):
    monkeypatch.setattr("kdyolo.engine.early_ends.RANK", 1)
    with pytest.raises(OSError, match="No space"), refusals_of_files_explained(tmp_path / "weights/last.pt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_batch_of_one_image_is_explained_and_other_errors_stay_what_they_are():
    args = SimpleNamespace(batch=1, imgsz=32)
    one = "Expected more than 1 value per channel when training, got input size torch.Size([1, 64, 1, 1])"
    with (
        pytest.raises(ConfigError, match="batch=1 at imgsz=32 gives BatchNorm one value"),
        small_images_explained(args),
    ):
        raise ValueError(one)
    with pytest.raises(ValueError, match=r"^another$"), small_images_explained(args):
        raise ValueError("another")
    args = SimpleNamespace(batch=4, imgsz=32)
    with pytest.raises(ConfigError, match="imgsz=32 is too small for this model"), small_images_explained(args):
        torch.topk(torch.zeros(6), 10)
    with pytest.raises(RuntimeError, match=r"^another$"), small_images_explained(args):
        raise RuntimeError("another")


def test_images_that_are_not_there_are_one_error_of_the_data_set():
    expected = r"^val images: (val: no images|File name too long)\. Expected a folder"
    for error in (FileNotFoundError("val: no images\nSee a page."), OSError(errno.ENAMETOOLONG, "File name too long")):
        with pytest.raises(DatasetError, match=expected), images_explained("val"):
            raise error
    with pytest.raises(DatasetError, match="named without their folder"), images_explained("val"):
        Path("a.txt").parent.with_suffix(".cache")
    with pytest.raises(ValueError, match=r"^another$"), images_explained("val"):
        raise ValueError("another")
