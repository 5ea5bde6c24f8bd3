"""A run folder → what happened in it, epoch by epoch; kdyolo's and stock Ultralytics' alike. No torch."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import yaml

from kdyolo.errors import ConfigError, RunError
from kdyolo.models.freeze_schedule import FreezeSchedule

MAP = "metrics/mAP50-95(B)"
MAP50 = "metrics/mAP50(B)"
RESULTS_NAME = "results.csv"
SCORES_NAME = "coco_metrics.json"
RECORD_NAME = "kdyolo.yaml"

_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it: kdyolo ps reads many files
_FIRST_EPOCH = 5  # times the usual duration: what the first epoch of a process takes at most


class _Args(msgspec.Struct):
    """What is relied on in ``args.yaml``; anything else may be there too."""

    epochs: int | float | None = None
    patience: int | float | None = None
    time: int | float | None = None


class _Record(msgspec.Struct):
    """Likewise in ``kdyolo.yaml``."""

    settings: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    backbone: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None


class _ClassScore(msgspec.Struct):
    category_id: int
    name: str
    objects: int
    ap: float


class _Scores(msgspec.Struct):
    """Likewise in ``coco_metrics.json``."""

    AP: float
    images: int | None = None
    objects: int | None = None
    per_class: list[_ClassScore] | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """What a run folder holds.

    Attributes:
        path: The folder.
        args: ``args.yaml``: Ultralytics' settings.
        record: ``kdyolo.yaml``: how the run came about; None for a stock run.
        columns: Column of ``results.csv`` → its values, one for each finished epoch; NaN where there is none. ``epoch``
            counts from 1.
        scores: ``coco_metrics.json``: the official metrics of ``best.pt``, per class too; None where not kept.
        notes: What a person should know about the files, e.g. that a cut-off line was left out.
    """

    path: Path
    args: Mapping[str, Any]
    record: Mapping[str, Any] | None
    columns: Mapping[str, list[float]]
    scores: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    _seconds: list[float] = field(default_factory=list, repr=False)

    @property
    def epochs(self) -> list[int]:
        """The finished epochs, from 1."""
        return [int(epoch) for epoch in self.columns["epoch"]]

    @property
    def planned_epochs(self) -> int:
        """Length of the run as it was asked for."""
        return int(self._planned.get("epochs") or self.args.get("epochs") or 0)

    @property
    def _planned(self) -> Mapping[str, Any]:
        return (self.record or {}).get("schedule") or {}

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train: all epochs are done, or patience has ended it."""
        weights = self.path / "weights"
        return (weights / "best.pt").is_file() and not (weights / "resume.pt").is_file() and self._has_ended

    @property
    def trained(self) -> bool:
        """Whether training is over, as far as the epochs tell, even where the weights are gone or not yet evaluated."""
        return self.finished or self._trained_to_the_end

    @property
    def _has_ended(self) -> bool:
        # A kdyolo run keeps resume.pt until it has ended; a stock one leaves no such mark.
        return self.record is not None or self._trained_to_the_end

    @property
    def _trained_to_the_end(self) -> bool:
        """All epochs are done, or a stock run's patience or hours are used up."""
        if not self.epochs:
            return False
        if self.epochs[-1] >= self.planned_epochs > 0:
            return True
        if self.record is not None:  # its patience counts otherwise: see resume.pt
            return False
        hours, patience = self.args.get("time"), self.args.get("patience") or math.inf
        best = self.best_epoch() or self.epochs[-1]
        return self.epochs[-1] - best >= patience or bool(hours and math.fsum(self.seconds) >= hours * 3600)

    @cached_property
    def schedule(self) -> FreezeSchedule:
        """The freeze schedule; of a stock run one that freezes nothing."""
        known = {k: v for k, v in self._planned.items() if k != "thaws"}
        try:
            return FreezeSchedule(**known) if known else FreezeSchedule(epochs=max(self.planned_epochs, 1))
        except (TypeError, ConfigError) as e:
            raise RunError(f"{self.path / RECORD_NAME}: its schedule is none that this version knows ({e}).") from e

    def phase(self, epoch: int) -> str:
        """What was frozen in an epoch (from 1), e.g. ``"backbone frozen"``."""
        return self.schedule.phase(epoch - 1)

    def column(self, name: str) -> list[float]:
        """A column of ``results.csv``; all NaN if there is none of this name."""
        return self.columns.get(name) or [math.nan] * len(self.epochs)

    @property
    def seconds(self) -> list[float]:
        """Seconds that each epoch took, validation included.

        NaN for an epoch whose duration is unknown: the clock went back in it, or rows before it are missing. The first
        after a resume is counted from the start of that process.
        """
        return self._seconds

    def best_epoch(self, metric: str = MAP) -> int | None:
        """The epoch (from 1) with the highest value, the first of several; None without any value."""
        values = [(-value, epoch) for value, epoch in zip(self.column(metric), self.epochs, strict=True)]
        known = [pair for pair in values if not math.isnan(pair[0])]
        return min(known)[1] if known else None

    def value(self, metric: str = MAP, at: str = "best") -> float:
        """A metric at the epoch with the best mAP50-95 (what ``best.pt`` is), or at the last; NaN if there is none."""
        if not self.epochs:
            return math.nan
        epoch = self.best_epoch() if at == "best" else self.epochs[-1]
        return math.nan if epoch is None else self.column(metric)[self.epochs.index(epoch)]


def read_run(path: str | Path) -> Run:
    """Read a run folder, of a run that is finished, interrupted or going on.

    Args:
        path: The folder, or a checkpoint in its ``weights/``.

    Returns:
        The run; with no epochs, if none is finished.

    Raises:
        RunError: No run folder, or a file in it is damaged beyond a cut-off last line.
    """
    folder = Path(path)
    if folder.suffix == ".pt":
        folder = folder.parent.parent
    if not folder.is_dir():
        raise RunError(f"{path}: no such run folder.")
    args = read_mapping(folder / "args.yaml", _Args)
    if args is None:
        raise RunError(
            f"{folder}: not a run folder, there is no args.yaml in it. Expected the work dir of kdyolo train or yolo "
            "train."
        )
    columns, notes = _read_results(folder / RESULTS_NAME)
    seconds, time_notes = _durations(columns["epoch"], columns.get("time") or [math.nan] * len(columns["epoch"]))
    return Run(
        path=folder,
        args=args,
        record=read_mapping(folder / RECORD_NAME, _Record),
        columns=columns,
        scores=_scores(folder / SCORES_NAME),
        notes=(*notes, *time_notes),
        _seconds=seconds,
    )


def is_run(path: Path) -> bool:
    """Whether a folder looks like that of a run."""
    return (path / "args.yaml").is_file()


def read_mapping(path: Path, form: type | None = None) -> dict[str, Any] | None:
    """A YAML file of names and values; None if there is no such file.

    Args:
        path: To read.
        form: A ``msgspec`` type that says of which kind some values are.

    Raises:
        RunError: Something else is in it.
    """
    if not path.is_file():
        return None
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise RunError(f"{path}: damaged ({str(e).splitlines()[0]}). Expected 'name: value' lines.") from e
    if not isinstance(content, dict):
        raise RunError(f"{path}: damaged. Expected 'name: value' lines, found {type(content).__name__}.")
    if form is not None:
        _check(path, content, form)
    return content


def _check(path: Path, content: dict[str, Any], form: type) -> None:
    """Refuse a file whose values are not of the kind that the rest relies on."""
    try:
        msgspec.convert(content, form)
    except msgspec.ValidationError as e:
        raise RunError(f"{path}: damaged ({e}). Restore it, or leave the run out.") from e


def _scores(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise RunError(f"{path}: damaged ({e}). Expected the official metrics as JSON; run kdyolo val again.") from e
    if not isinstance(content, dict) or "AP" not in content:
        raise RunError(f"{path}: expected the official metrics, found no AP in it.")
    _check(path, content, _Scores)
    return content


def _read_results(path: Path) -> tuple[dict[str, list[float]], list[str]]:
    """Columns of ``results.csv``, and what is to be said about it.

    A process that is killed while it writes leaves a last line without its end; anything else that is wrong with a line
    is damage.
    """
    if not path.is_file():
        return {"epoch": []}, []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    notes = []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        notes.append(f"{path.name}: its last line is cut off and was left out")
    rows = list(csv.reader(lines))
    if not rows:
        return {"epoch": []}, notes
    header = [name.strip() for name in rows[0]]
    if "epoch" not in header:
        raise RunError(f"{path}: expected a column 'epoch', found {', '.join(header[:5])}, …")
    at = header.index("epoch")
    values: list[list[float]] = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        found = _numbers(path, number, row, len(header), at)
        if values and found[at] == 1:
            raise RunError(f"{path}: line {number}: epoch 1 again. Expected the results of one run, found two.")
        if values and found[at] <= values[-1][at]:
            # Killed between the row and the checkpoint: a resumed run did these epochs again, from older weights.
            values = [row for row in values if row[at] < found[at]]
            notes.append(f"{path.name}: epoch {found[at]:.0f} on was done again after a resume; the later rows count")
        values.append(found)
    return {name: [row[i] for row in values] for i, name in enumerate(header)}, notes


def _numbers(path: Path, number: int, row: list[str], columns: int, epoch_at: int) -> list[float]:
    """A row of ``results.csv`` as numbers."""
    mend = "If a kill cut it off, remove that line; else restore the file."
    try:
        values = [float(cell.strip() or "nan") for cell in row]
    except ValueError:
        raise RunError(f"{path}: line {number}: expected numbers, found {','.join(row)[:60]!r}. {mend}") from None
    if len(values) != columns:
        raise RunError(f"{path}: line {number}: expected {columns} values, found {len(values)}. {mend}")
    epoch = values[epoch_at]
    if not (epoch >= 0 and epoch.is_integer()):
        raise RunError(f"{path}: line {number}: expected the number of an epoch, found {row[epoch_at]!r}. {mend}")
    return values


def _durations(epochs: list[float], time: list[float]) -> tuple[list[float], list[str]]:
    """Seconds of each epoch from ``time``, seconds since the process began, which starts anew after a resume.

    The file does not say where a process resumed; see :func:`_began_anew`.
    """
    steps = [now - before for now, before in zip(time, [0.0, *time], strict=False)]
    seconds, notes, anew = [], [], True
    for i, (epoch, now, step) in enumerate(zip(epochs, time, steps, strict=True)):
        anew = _began_anew(i, now, steps, anew)
        if anew:
            seconds.append(now)
        elif i > 0 and step >= 0 and epoch == epochs[i - 1] + 1:
            seconds.append(step)
        else:
            seconds.append(math.nan)
            if step < 0:
                notes.append(f"epoch {epoch:.0f}: the clock went back, its duration is unknown")
    return seconds, notes


def _began_anew(i: int, now: float, steps: list[float], after_first: bool) -> bool:
    """Whether epoch ``i`` is the first of a process: its ``time`` is that of an epoch, not of the whole run.

    Mostly it is less than the one before, and about an epoch's. After a process of a single epoch (``after_first``) it
    may be more; then the step is far smaller than those beside it.
    """
    if i == 0:
        return now >= 0
    if steps[i] < 0:
        return 0 < now <= _FIRST_EPOCH * median([step for step in steps if step > 0] or [0.0])
    if not after_first or i + 1 == len(steps):
        return False
    before = now - steps[i]
    return steps[i] < min(before, steps[i + 1]) / 2 and now < 2 * before
