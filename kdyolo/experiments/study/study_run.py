"""Run of a study: its work dir, what the folder holds, and the command that starts or resumes it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdyolo.engine.options.train_options import OPTION_NAMES, names_of
from kdyolo.errors import RunError
from kdyolo.experiments.study.arm_checks import StudyArm, full_settings
from kdyolo.runs.files import STATE_NAME, is_run, resumable, weights_file
from kdyolo.runs.history import Run, read_run
from kdyolo.utils.plain_files import is_file, is_folder
from kdyolo.utils.text import shortened

State = Literal["new", "begun", "resumable", "finished"]

_COMPARED = names_of(lambda found: found.in_study)  # kdyolo's options whose words make a run what it is


@dataclass(frozen=True)
class StudyRun:
    """One arm with one seed.

    Attributes:
        arm: The arm that the run trains.
        seed: Seed of everything random in the run.
        folder: Work dir of the run, an absolute path.
    """

    arm: StudyArm
    seed: int
    folder: Path

    def __hash__(self) -> int:
        return hash(self.folder)

    @property
    def name(self) -> str:
        """``"frozen50/seed1"``."""
        return f"{self.arm.name}/{self.folder.name}"

    @property
    def log(self) -> Path:
        """Log of all that the run's processes printed, beside the work dir, which is empty when a run starts."""
        return self.folder.parent / f"{self.folder.name}.log"

    @property
    def epochs(self) -> int:
        """Number of epochs that the run is to train."""
        return int(self.arm.ultralytics["epochs"])

    def history(self) -> Run | None:
        """History of the run, read from its folder; None if nothing has been trained."""
        return read_run(self.folder) if is_run(self.folder) else None

    def state(self) -> State:
        """State of the run: new, begun (no epoch was saved: all again), resumable, or finished."""
        if not os.path.lexists(self.folder):
            return "new"
        if not is_folder(self.folder):
            raise RunError(f"{self.folder}: expected a folder, found something else. Move it away: a run goes here.")
        if not any(self.folder.iterdir()):
            return "new"
        history = self.history()
        if history and history.finished:
            return "finished"
        return "resumable" if resumable(self.folder) else "begun"

    def arguments(self, device: str) -> list[str]:
        """Arguments of the ``kdyolo`` command that starts the run, or resumes it."""
        if self.state() == "resumable":
            return ["train", "--resume", str(self.folder), "--device", device]
        own = {"seed": self.seed, "device": device, "work_dir": self.folder}
        return ["train", *(word for key, value in {**self.arm.options, **own}.items() for word in _words(key, value))]

    def clear(self) -> None:
        """Remove what the run left if it ended before its first epoch was saved, so that it can start again.

        Raises:
            RunError: The folder holds something else, which is left alone.
        """
        if self.state() != "begun":
            return
        state = weights_file(self.folder, STATE_NAME)
        killed_in_first_epoch = is_file(state) and not state.stat().st_size
        if any(self.folder.glob("weights/*.pt")) and not killed_in_first_epoch:
            raise RunError(
                f"{self.folder}: it holds weights, but is neither finished nor can it be resumed. Expected "
                f"weights/{STATE_NAME}, or nothing. Move the folder away, and its run is trained anew."
            )
        if not is_run(self.folder) and any(path.is_file() for path in self.folder.rglob("*")):
            raise RunError(
                f"{self.folder}: not a run folder, and not empty. Move it away: a run of the study goes here."
            )
        shutil.rmtree(self.folder)

    def differences(self) -> list[str]:
        """Settings in which the run in the folder differs from what the study file asks for now."""
        history = self.history()
        if history is None or history.record is None:
            return []  # it never got as far as training
        record = history.record
        then = {**(record.get("settings") or {}), **full_settings(record.get("asked") or history.args)}
        now = {**{key: getattr(self.arm.settings, key) for key in _COMPARED}, **self.arm.ultralytics}
        pairs = {key: (then.get(key), now[key]) for key in now}
        pairs["seed"] = (record.get("seed"), self.seed)
        pairs["backbone sha256"] = ((record.get("backbone") or {}).get("sha256"), self.arm.sha256)
        pairs["data"] = (str(Path(str(record.get("data"))).resolve()), str(Path(self.arm.options["data"]).resolve()))
        if not self.arm.model.endswith(".pt"):
            pairs["model"] = (_bare(record.get("model")), _bare(self.arm.model))
        return [f"{key}: {_short(a)} there, {_short(b)} in the file" for key, (a, b) in pairs.items() if a != b]


def _words(key: str, value: Any) -> list[str]:
    """An option as words of a command line: ``--backbone-lr 0.1``, ``--random-init``, ``lr0=0.02``."""
    if key in OPTION_NAMES or key in ("data", "model", "seed", "device"):
        if value is True:
            return [f"--{key.replace('_', '-')}"]
        return [] if value is False else [f"--{key.replace('_', '-')}", str(value)]
    return [f"{key}={value}"]


def _bare(model: Any) -> str:
    """A model YAML's name; ``yolov8s.yaml`` is built as ``kdyolov8s.yaml``."""
    return Path(str(model)).name.removeprefix("kd")


def _short(value: Any) -> str:
    return shortened(str(value), 200)
