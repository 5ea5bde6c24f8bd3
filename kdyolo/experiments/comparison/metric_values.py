"""Metric values: which runs count up to which epoch, and the one number of each for a metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdyolo.errors import ConfigError, RunError
from kdyolo.experiments.comparison.grouping import Arm, run_name
from kdyolo.experiments.comparison.significance import mean_interval
from kdyolo.metrics.names import NAMES
from kdyolo.runs.files import MAP, MAP50
from kdyolo.runs.history import Run
from kdyolo.utils.text import did_you_mean, plural

BEST, LAST = "best", "last"
MAIN = "mAP50-95"
OFFICIAL_AP = "official AP"
COLUMNS = {
    MAIN: MAP,
    "mAP50": MAP50,
    "precision": "metrics/precision(B)",
    "recall": "metrics/recall(B)",
}
OFFICIAL = {f"official {name}": name for name in NAMES}
METRICS = (*COLUMNS, *OFFICIAL)


@dataclass(frozen=True)
class Scope:
    """Which runs and epochs are compared.

    Attributes:
        at: Epoch that a run is judged by, ``"best"`` or ``"last"``.
        left_out: Runs whose values do not count.
        until: Last epoch that counts, in every run; None for all epochs.
        notes: Reasons for leaving runs or epochs out.
    """

    at: str
    left_out: frozenset[Run] = frozenset()
    until: int | None = None
    notes: tuple[str, ...] = ()

    def counted(self, arm: Arm) -> list[Run]:
        """The runs of an arm that count."""
        return [run for run in arm.runs if run not in self.left_out]

    def epochs(self, run: Run) -> int:
        """Number of rows of a run that count."""
        return len([epoch for epoch in run.epochs if self.until is None or epoch <= self.until])

    def row(self, run: Run) -> int | None:
        """Row that a run is judged by: the first epoch with the highest mAP50-95, or the last; None without rows."""
        rows = range(self.epochs(run))
        if self.at == LAST:
            return rows[-1] if rows else None
        known = [(-value, row) for row, value in zip(rows, run.column(MAP), strict=False) if not math.isnan(value)]
        return min(known)[1] if known else None

    def value(self, run: Run, metric: str) -> float:
        """A metric of a run, in 0–1; NaN where the run has none, or does not count."""
        row = self.row(run)
        if run in self.left_out or row is None:
            return math.nan
        return self.official(run, OFFICIAL[metric]) if metric in OFFICIAL else run.column(COLUMNS[metric])[row]

    def official(self, run: Run, name: str) -> float:
        """An official metric of ``best.pt``; NaN where not recorded, without objects, or of another epoch."""
        value = (run.scores or {}).get(name, -1)
        meant = self.at == BEST and self.until is None and run not in self.left_out
        return float(value) if meant and isinstance(value, (int, float)) and value >= 0 else math.nan


def find_scope(arms: Sequence[Arm], at: str) -> Scope:
    """Decide which runs count while some are unfinished.

    A value from the middle of a run is no substitute for a final one. If every arm has a run that is trained to the
    end, only such runs count. Else all are compared over the epochs that all have, which is said to be provisional.
    """
    unfinished = [run for arm in arms for run in arm.runs if not run.trained]
    early = [
        f"{run_name(run)} ended early, at epoch {run.epochs[-1]} of {run.planned_epochs}"
        for arm in arms
        for run in arm.runs
        if run.trained and run.epochs[-1] < run.planned_epochs
    ]
    if not unfinished:
        return Scope(at, notes=tuple(early))
    progress = ", ".join(
        f"{run_name(run)} ({run.epochs[-1]} of {plural(run.planned_epochs, 'epoch')})" for run in unfinished
    )
    if all(any(run.trained for run in arm.runs) for arm in arms):
        note = f"left out of all values, because they are not finished: {progress}"
        return Scope(at, frozenset(unfinished), notes=(note, *early))
    until = min(run.epochs[-1] for run in unfinished)
    note = (
        f"provisional: not finished are {progress}; every run is taken up to epoch {until} only, with learning rates "
        "that have not come down yet, so this is not the result"
    )
    return Scope(at, until=until, notes=(note, *early))


def check_metric(metric: str, at: str) -> None:
    """Refuse a metric or an epoch that does not exist.

    Raises:
        ConfigError: The metric or the epoch is unknown; the error lists the known ones.
    """
    mistakes = []
    if metric not in METRICS:
        mistakes.append(f"no metric {metric!r}.{did_you_mean(metric, METRICS)} There are: {', '.join(METRICS)}.")
    if at not in (BEST, LAST):
        mistakes.append(f"at must be {BEST} or {LAST}; found {at!r}.")
    elif at == LAST and metric in OFFICIAL:
        mistakes.append(f"{metric} is of best.pt, so at={LAST} has none of it. Expected at={BEST}.")
    if mistakes:
        raise ConfigError(mistakes)


def with_values(arm: Arm, scope: Scope) -> Arm:
    """The arm with the values of all metrics that all its counted runs have."""
    points = {metric: tuple(scope.value(run, metric) for run in arm.runs) for metric in METRICS}
    counted = {metric: counting(arm, values, scope) for metric, values in points.items()}
    complete = [metric for metric, values in counted.items() if values and not any(map(math.isnan, values))]
    return replace(
        arm,
        values={metric: mean_interval(counted[metric]) for metric in complete},
        points={metric: points[metric] for metric in complete},
    )


def counting(arm: Arm, values: Sequence[float], scope: Scope) -> list[float]:
    """Values of the runs that count, from a value for each run."""
    return [value for run, value in zip(arm.runs, values, strict=True) if run not in scope.left_out]


def require_metric(arms: Sequence[Arm], metric: str, scope: Scope) -> None:
    """Refuse to compare by a metric that a run has no value of.

    Raises:
        RunError: Some runs have no value; the error names all of them.
    """
    lacking = [str(run.path) for arm in arms for run in scope.counted(arm) if math.isnan(scope.value(run, metric))]
    if not lacking:
        return
    if metric not in OFFICIAL:
        why = "results.csv has none (val=False, or a training that diverged?). Evaluate in training, or leave them out."
    elif scope.until is not None:
        why = "official metrics are of finished runs, and some are not. Wait for them, or compare mAP50-95."
    else:
        why = "kdyolo train keeps it for data sets with COCO annotations. Leave them out, or compare mAP50-95."
    raise RunError(f"no {metric} in {', '.join(lacking)}: {why}")
