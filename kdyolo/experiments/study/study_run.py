"""Run of a study: its work dir, what the folder holds, and the command that starts or resumes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdyolo.data.training_subset import LabelSubset
from kdyolo.engine.options.train_options import OPTION_NAMES, names_of
from kdyolo.experiments.study.arm_checks import StudyArm, full_settings
from kdyolo.experiments.study.distillations import StudyDistillation
from kdyolo.experiments.study.job import Job
from kdyolo.utils.hashing import sha256_of_file
from kdyolo.utils.text import shortened

_COMPARED = names_of(lambda found: found.in_study)  # kdyolo's options whose words make a run what it is


@dataclass(frozen=True)
class StudyRun(Job):
    """One arm with one seed.

    Attributes:
        arm: The arm that the run trains.
        seed: Seed of everything random in the run.
        folder: Work dir of the run, an absolute path.
        distillation: Distillation whose backbone the run starts from; None without one.
        subset: Images that the run is trained on; None for all of the data set's.
    """

    arm: StudyArm
    seed: int
    folder: Path
    distillation: StudyDistillation | None = None
    subset: LabelSubset | None = None

    def __hash__(self) -> int:
        return hash(self.folder)

    @property
    def needs(self) -> Job | None:
        """The distillation."""
        return self.distillation

    @property
    def data(self) -> str:
        """Data set YAML of the run."""
        return str(self.subset.yaml if self.subset else self.arm.options["data"])

    @property
    def epochs(self) -> int:
        """Number of epochs that the run is to train."""
        return int(self.arm.ultralytics["epochs"])

    def arguments(self, device: str) -> list[str]:
        """Arguments of the ``kdyolo`` command that starts the run, or resumes it."""
        if self.state() == "resumable":
            return ["train", "--resume", str(self.folder), "--device", device]
        own = {"data": self.data, "seed": self.seed, "device": device, "work_dir": self.folder}
        if self.distillation:
            own["backbone"] = str(self.distillation.backbone)
        return ["train", *(word for key, value in {**self.arm.options, **own}.items() for word in _words(key, value))]

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
        pairs["backbone sha256"] = ((record.get("backbone") or {}).get("sha256"), self._backbone_sha256())
        pairs["data"] = (str(Path(str(record.get("data"))).resolve()), str(Path(self.data).resolve()))
        if not self.arm.model.endswith(".pt"):
            pairs["model"] = (_bare(record.get("model")), _bare(self.arm.model))
        return [f"{key}: {_short(a)} there, {_short(b)} in the file" for key, (a, b) in pairs.items() if a != b]

    def _backbone_sha256(self) -> str | None:
        """Digest of what the run starts from; None where nothing was distilled yet."""
        if self.distillation is None:
            return self.arm.sha256
        return sha256_of_file(self.distillation.backbone) if self.distillation.state() == "finished" else None


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
