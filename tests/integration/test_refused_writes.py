"""A run to which the system refuses a file of its folder, each of them in turn, at once or in the middle of it.

The run ends with one error. Before anything was saved it leaves nothing; later it goes on from what was saved, to the
same end as without the fault.
"""

from __future__ import annotations

import builtins
import csv
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics import YOLO

from kdyolo import KDYOLO
from kdyolo.errors import RunError
from kdyolo.runs.files import resumable
from tests.builders.training import FAST

OPTIONS = {**FAST, "imgsz": 32, "epochs": 3, "freeze_epochs": 1, "coco_eval_period": 0}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


class Refusing:
    """A file that takes the first half of what is written to it, and then an error of the disk."""

    def __init__(self, file: Any, error: OSError) -> None:
        self._file, self._error = file, error

    def write(self, data: Any) -> int:
        self._file.write(data[: len(data) // 2])
        self._file.flush()
        raise self._error

    def __enter__(self) -> Refusing:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Disk:
    """A disk that refuses files of a name, from a moment of the run on.

    Attributes:
        refused: Number of times that it did.
    """

    def __init__(self, name: str, number: int, half: bool, due: Callable[[], bool]) -> None:
        self.name, self.number, self.half, self.due, self.refused = name, number, half, due, 0
        self._open = builtins.open

    def open(self, file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        names = (self.name, f"{self.name}.partial")
        mine = isinstance(file, (str, os.PathLike)) and Path(os.fspath(file)).name in names and set(mode) & set("wax+")
        if not (mine and self.due()):
            return self._open(file, mode, *arguments, **keywords)
        self.refused += 1
        error = OSError(self.number, os.strerror(self.number), os.fspath(file))
        if not self.half:
            raise error
        return Refusing(self._open(file, mode, *arguments, **keywords), error)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in ("time", "memory/GB")} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def whole(checkpoint: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a fault."""
    run = tmp_path_factory.mktemp("whole") / "run"
    KDYOLO(backbone=checkpoint).train(data=str(shapes), work_dir=run, **OPTIONS)
    return run


BEGIN, MIDDLE, END = range(3)
# File → when it is refused: before the first epoch, in the second, or after the last.
FILES = {
    **dict.fromkeys(("args.yaml", "kdyolo.yaml", "train.log", "pid.txt", "process.json"), BEGIN),
    **dict.fromkeys(("results.csv", "last.pt", "best.pt", "resume.pt"), MIDDLE),
    **dict.fromkeys(("coco_metrics.json", "predictions.json", "results.png"), END),
}
CASES = [(name, when, ERRORS[turn % 3], bool(turn % 2)) for turn, (name, when) in enumerate(FILES.items())]


@pytest.mark.parametrize(
    ("name", "when", "number", "half"),
    CASES,
    ids=[f"{name}, {errno.errorcode[number]}, {'half' if half else 'not'} written" for name, _, number, half in CASES],
)
def test_a_refused_file_ends_the_run_clearly_and_loses_nothing(
    whole, checkpoint, shapes, tmp_path, monkeypatch, name, when, number, half
):
    run, model = tmp_path / "run", KDYOLO(backbone=checkpoint)
    options = {**OPTIONS, "plots": name == "results.png"}

    def due() -> bool:
        trainer = model.trainer
        return when == BEGIN or (trainer is not None and trainer.epoch >= when and trainer.save_dir == run)

    disk = Disk(name, number, half, due)
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", disk.open)
        patch.setattr(io, "open", disk.open)
        with pytest.raises((RunError, OSError), match=os.strerror(number)) as caught:  # the command tells both alike
            model.train(data=str(shapes), work_dir=run, **options)
    assert disk.refused
    ended = caught.value
    if when == BEGIN:
        assert not run.exists()
        return
    if name == "results.png":  # drawn when everything else is there
        assert "The training itself had ended" in str(ended)
    else:
        if "training itself had ended" in str(ended):  # the last picture is drawn then
            assert name == "results.png"
            return
        assert f"kdyolo train --resume {run}" in str(ended)
        assert resumable(run)
        KDYOLO(run / "weights/last.pt").train(resume=True)
    assert rows(run) == rows(whole)
    for weights in ("last", "best"):
        own, expected = (YOLO(folder / f"weights/{weights}.pt").model.state_dict() for folder in (run, whole))
        assert all(torch.equal(own[key], expected[key]) for key in expected)
    assert not [path.name for path in run.rglob("*.partial")]
    assert {p.name for p in whole.iterdir()} <= {p.name for p in run.iterdir()}
