"""Readers of a run's files: each a mapping whose values have the kinds that its form says, or one error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kdyolo.errors import RunError
from kdyolo.runs.contents.forms import ArgsForm, ProcessForm, RecordForm, ScoresForm, StudyForm
from kdyolo.runs.files import ARGS_NAME, PID_NAME, PROCESS_NAME, RECORD_NAME, SCORES_NAME, STUDY_NAME
from kdyolo.utils.plain_files import read_file, read_json
from kdyolo.utils.text import quoted
from kdyolo.utils.yaml_files import check_values, read_mapping

_PID_BYTES = 4096  # of pid.txt, which has a dozen


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
