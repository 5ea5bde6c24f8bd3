"""Readers of a run's files: each a mapping whose values have the kinds that its form says, or one error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from kdyolo.errors import RunError
from kdyolo.runs.contents.forms import (
    ArgsForm,
    DistillStateForm,
    ProcessForm,
    RecordForm,
    ScoresForm,
    StateForm,
    StudyForm,
)
from kdyolo.runs.files import ARGS_NAME, PID_NAME, PROCESS_NAME, RECORD_NAME, SCORES_NAME, STUDY_NAME
from kdyolo.utils.plain_files import read_file, read_json
from kdyolo.utils.text import quoted, shell_word
from kdyolo.utils.yaml_files import check_values, read_mapping

_OF_ODD_VALUES = (KeyError, IndexError, TypeError, AttributeError, ValueError)
_STATES: Mapping[type[msgspec.Struct], tuple[str, str]] = {
    StateForm: ("a training", "train"),
    DistillStateForm: ("a distillation", "distill"),
}
_PLAIN = (dict, list, tuple, str, int, float, type(None))
_PID_BYTES = 4096  # of pid.txt, which has a dozen


@contextmanager
def damage_explained(path: Path) -> Iterator[None]:
    """Say that a state is damaged where what it holds does not go into that which it is of.

    Args:
        path: File of the state.

    Raises:
        RunError: In place of what torch or Python raises; an error about memory or the device stays what it is.
    """
    try:
        yield
    except (*_OF_ODD_VALUES, RuntimeError) as e:
        if isinstance(e, RuntimeError) and type(e) is not RuntimeError:
            raise
        raise state_damaged(path, quoted(e)) from e


def check_optimizer_state(optimizer: Any) -> None:
    """Refuse a state of other parameters, which torch takes, and fails on when the optimizer first steps.

    Args:
        optimizer: Optimizer of torch that has loaded it.

    Raises:
        ValueError: A tensor of it has neither the shape of its parameter nor is it one number.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            shape = tuple(getattr(value, "shape", ()))
            if shape not in ((), tuple(parameter.shape)):
                raise ValueError(f"optimizer: {name} of shape {shape} for a parameter of {tuple(parameter.shape)}")


def state_damaged(path: Path, how: str) -> RunError:
    """The error about a file that a run cannot continue from."""
    return RunError(f"{path}: damaged ({how}). The run cannot go on from here.")


def check_state(path: Path, content: Any, form: type[msgspec.Struct]) -> dict[str, Any]:
    """What a run continues from, with values of the kinds that the rest relies on.

    Args:
        path: File that it was read from, for the message.
        content: What the file holds.
        form: A form of :mod:`kdyolo.runs.contents.forms`.

    Raises:
        RunError: It is something else, such as that of another kind of run, lacks something, or a value is of another
            kind.
    """
    if not isinstance(content, dict):
        raise state_damaged(path, f"a {type(content).__name__} instead of a run's state")
    known = msgspec.structs.fields(form)
    for other, (what, command) in _STATES.items():
        if other is not form and content.keys() >= {
            field.name for field in msgspec.structs.fields(other) if field.required
        }:
            run = shell_word(path.parent.parent)
            raise RunError(f"{path}: the state of {what}. Go on with: kdyolo {command} --resume {run}")
    if missing := [field.name for field in known if field.required and field.name not in content]:
        raise state_damaged(path, f"{', '.join(missing)} missing")
    for field in known:  # msgspec takes a tensor for a mapping
        if not isinstance(value := content.get(field.name), _PLAIN):
            raise state_damaged(path, f"{field.name} is a {type(value).__name__}")
    check_values(path, content, form)
    return content


def read_args(folder: Path) -> Mapping[str, Any]:
    """Ultralytics' settings of a run, from ``args.yaml``.

    Raises:
        RunError: The folder has none and so is no run folder, or it is damaged.
    """
    args = read_mapping(folder / ARGS_NAME, ArgsForm)
    if args is None:
        raise RunError(
            f"{folder}: not a run folder, there is no {ARGS_NAME} in it. Expected the work dir of kdyolo train or yolo "
            "train."
        )
    return args


def read_record(folder: Path) -> Mapping[str, Any] | None:
    """How a run came about, from ``kdyolo.yaml``; None for a stock run.

    Raises:
        RunError: The file is damaged.
    """
    return read_mapping(folder / RECORD_NAME, RecordForm)


def read_scores(folder: Path) -> Mapping[str, Any] | None:
    """Official metrics of a run, from ``coco_metrics.json``; None where not kept.

    Raises:
        RunError: The file is damaged.
    """
    path = folder / SCORES_NAME
    content = read_json(path, advice="Run kdyolo val again.")
    if content is not None:
        check_values(path, content, ScoresForm)
    return content


def read_study_file(folder: Path) -> Mapping[str, Any]:
    """The copy of the study file that lies in the folder of a study; empty if there is none.

    Raises:
        RunError: The file is damaged.
    """
    return read_mapping(folder / STUDY_NAME, StudyForm) or {}


def read_results_text(path: Path) -> str | None:
    """The text of a ``results.csv``; None if there is no such file.

    Raises:
        RunError: It is no file, or too large.
    """
    data = read_file(path)
    return None if data is None else data.decode("utf-8", "replace")


def read_process_file(folder: Path) -> ProcessForm | None:
    """The process that ``process.json`` names; None unless ``pid.txt`` beside it has the same number.

    Raises:
        RunError: One of the two is damaged.
    """
    path = folder / PROCESS_NAME
    mend = f"If the run has ended, remove it and {PID_NAME}: no result is in them."
    content = read_json(path, advice=mend)
    number = read_file(folder / PID_NAME, most=_PID_BYTES)
    if content is None or number is None:
        return None
    try:
        process = msgspec.convert(content, ProcessForm)
    except msgspec.ValidationError as e:
        raise RunError(f"{path}: damaged ({quoted(e)}). {mend}") from e
    if not number.strip().isdigit():
        raise RunError(
            f"{folder / PID_NAME}: damaged. Expected the number of a process, found {quoted(number)}. {mend}"
        )
    return process if number.strip() == str(process.pid).encode() else None
