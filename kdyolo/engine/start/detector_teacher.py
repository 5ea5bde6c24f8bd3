"""Teacher of a detector: the trained detector that ``distill_model`` names, read safely and found to fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel

from kdyolo.engine.start.detector_start import load_weights
from kdyolo.errors import CheckpointError, KDYOLOError, ModelError, RunError
from kdyolo.models.model_yaml import Yaml
from kdyolo.utils.hashing import sha256_of_file

SETTING = "distill_model"  # Ultralytics' name of it


@dataclass(frozen=True)
class DetectorTeacher:
    """A trained detector from whose neck another one learns.

    Attributes:
        path: Its file, absolute.
        sha256: Hex digest of the file.
        classes: Number of its classes, which need not be the student's: its scores only say where there is something.
        model: The detector.
    """

    path: str
    sha256: str
    classes: int
    model: nn.Module = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """What a record keeps of it, as plain data."""
        return {"path": self.path, "sha256": self.sha256, "classes": self.classes}


def read_teacher(path: Any, student: Yaml | None) -> DetectorTeacher:
    """Read a teacher, of which nothing runs but Ultralytics' own layers, and refuse one that cannot teach.

    Args:
        path: An Ultralytics checkpoint.
        student: Resolved description of the detector that learns; None: only the teacher itself is looked at.

    Raises:
        CheckpointError: The file cannot be read, or is no checkpoint of a detector.
        ModelError: Its head is of another kind than the student's, or reads another number of levels.
    """
    name = str(path)
    if not isinstance(path, (str, Path)) or Path(name).suffix != ".pt":
        raise CheckpointError(f"distill_model takes a trained detector (.pt), found {name!r}.")
    try:
        model: Any = load_weights(name, trust=False)
    except KDYOLOError as e:
        raise CheckpointError(f"distill_model: {e}") from e
    head = model.model[-1] if isinstance(model, DetectionModel) else None
    if not isinstance(head, Detect):
        found = type(model if head is None else head).__name__
        raise CheckpointError(f"distill_model {name}: expected a detector with a head of class Detect, found {found}.")
    if student is not None:
        _check_head(name, head, student)
    file = Path(model.pt_path).resolve()  # of an official name, where it was fetched to
    return DetectorTeacher(str(file), sha256_of_file(file), int(head.nc), model)


def _check_head(name: str, head: Any, student: Yaml) -> None:
    sources, _, kind, *_ = student["head"][-1]
    kind = kind.rpartition(".")[2]
    if (type(head).__name__, len(head.f)) != (kind, len(sources)):
        raise ModelError(
            f"distill_model {name}: its head is {type(head).__name__} with {len(head.f)} levels, that of "
            f"{student['yaml_file']} is {kind} with {len(sources)}. Expected a detector with the same head."
        )


def teacher_of_run(last: Path, args: Mapping[str, Any], description: Yaml) -> DetectorTeacher | None:
    """The teacher of an interrupted run: the very file that it has learned from so far; None if it has none.

    Args:
        last: The run's ``last.pt``, for messages.
        args: Ultralytics' settings of the run.
        description: The model's resolved description, which records the teacher.

    Raises:
        RunError: The file is not there, or another one.
        CheckpointError: It cannot be read.
    """
    if not (name := args.get(SETTING)):
        return None
    path, known = Path(str(name)), ((description.get("kd") or {}).get(SETTING) or {}).get("sha256")
    if not path.is_file():
        raise RunError(f"{last} cannot be resumed: its teacher {path} is not there. Put it back.")
    if sha256_of_file(path) != known:
        raise RunError(
            f"{last} cannot be resumed: its teacher {path} is another file than the run began with. Put that one back, "
            "or start a new run."
        )
    return read_teacher(path, description)
