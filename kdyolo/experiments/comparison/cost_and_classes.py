"""Measures of an arm beside its mAP: speed and memory, time to a given mAP, official metrics, classes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.experiments.comparison.metric_values import Scope, counting
from kdyolo.experiments.comparison.significance import Interval, mean_interval
from kdyolo.metrics.names import NAMES
from kdyolo.runs.files import MAP, MEMORY_COLUMN
from kdyolo.runs.history import Run

_FRACTIONS = (0.25, 0.5, 0.75, 0.9, 1.0)  # of the baseline's value, as targets


@dataclass(frozen=True)
class PhaseTiming:
    """Speed and memory of an arm while the same parts are frozen.

    Attributes:
        arm: Name of the arm.
        phase: Name of the phase: ``"backbone frozen"``, ``"all train"``, …
        epochs: Finished epochs of this phase in one run, the median over the runs that have any.
        seconds_per_epoch: Seconds of an epoch, validation included, the median over epochs and seeds; NaN if unknown.
        memory_gb: GiB reserved at most on a GPU, or held by the process on a CPU, the median likewise; NaN if unknown.
    """

    arm: str
    phase: str
    epochs: int
    seconds_per_epoch: float
    memory_gb: float


@dataclass(frozen=True)
class Target:
    """When an arm first reached a given mAP50-95.

    Attributes:
        arm: Name of the arm.
        value: The mAP50-95 to reach, in 0–1.
        epochs: Epochs until then, the median over the seeds that reached it; NaN if none did.
        seconds: Seconds of training and validation until then, the median likewise.
        reached: Number of seeds that reached it.
        of: Number of all seeds.
    """

    arm: str
    value: float
    epochs: float
    seconds: float
    reached: int
    of: int


@dataclass(frozen=True)
class ClassDifference:
    """One class's official AP in an arm and in the baseline: means over the seeds, in 0–1.

    Attributes:
        name: Name of the class in the annotations.
        arm: Name of the arm.
        baseline_ap: AP in the baseline.
        arm_ap: AP in the arm.
        difference: ``arm_ap − baseline_ap``.
        objects: Number of objects of the class in the validation split.
    """

    name: str
    arm: str
    baseline_ap: float
    arm_ap: float
    difference: float
    objects: int


def find_phases(arms: Sequence[Arm]) -> tuple[PhaseTiming, ...]:
    """Speed and memory of every arm, phase by phase in the order of training, over all of its runs."""
    found = []
    for arm in arms:
        names = dict.fromkeys(run.phase(epoch) for run in arm.runs for epoch in run.epochs)
        found += [_phase(arm, name) for name in names]
    return tuple(found)


def _phase(arm: Arm, name: str) -> PhaseTiming:
    rows = {run: [i for i, epoch in enumerate(run.epochs) if run.phase(epoch) == name] for run in arm.runs}
    return PhaseTiming(
        arm=arm.name,
        phase=name,
        epochs=round(median(len(found) for found in rows.values() if found)),
        seconds_per_epoch=_median(run.seconds[i] for run, found in rows.items() for i in found),
        memory_gb=_median(run.column(MEMORY_COLUMN)[i] for run, found in rows.items() for i in found),
    )


def find_targets(arms: Sequence[Arm], values: Sequence[float], scope: Scope) -> tuple[Target, ...]:
    """When each arm first reached each mAP50-95, over the runs that count."""
    return tuple(_target(arm, value, scope) for value in values for arm in arms)


def automatic_targets(final: float) -> list[float]:
    """A quarter, a half, … of a final mAP50-95, and the whole, rounded down so that its own run reaches it."""
    scale = 1e3 if final > 0.02 else 1e5
    return sorted({value for fraction in _FRACTIONS if (value := math.floor(final * fraction * scale) / scale) > 0})


def _target(arm: Arm, value: float, scope: Scope) -> Target:
    runs = scope.counted(arm)
    rows = {run: _first_row(run, value, scope) for run in runs}
    reached = {run: row for run, row in rows.items() if row is not None}
    return Target(
        arm=arm.name,
        value=value,
        epochs=_median(run.epochs[row] for run, row in reached.items()),
        seconds=_median(math.fsum(run.seconds[: row + 1]) for run, row in reached.items()),
        reached=len(reached),
        of=len(runs),
    )


def _first_row(run: Run, value: float, scope: Scope) -> int | None:
    return next((i for i in range(scope.epochs(run)) if run.column(MAP)[i] >= value), None)


def find_official(arms: Sequence[Arm], scope: Scope) -> dict[str, dict[str, Interval]]:
    """Arm → official metric → mean over the seeds, of arms whose runs all have it; metrics without objects left out."""
    found: dict[str, dict[str, Interval]] = {}
    for arm in arms:
        values = {name: counting(arm, [scope.official(run, name) for run in arm.runs], scope) for name in NAMES}
        known = {name: mean_interval(each) for name, each in values.items() if each and not any(map(math.isnan, each))}
        if known:
            found[arm.name] = known
    return found


def find_class_differences(arms: Sequence[Arm], baseline: Arm, scope: Scope) -> tuple[ClassDifference, ...]:
    """Every class that has objects, in every arm but the baseline, where all runs have an official AP."""
    base = _class_means(baseline, scope)
    found = []
    for arm in arms:
        if arm is baseline:
            continue
        for key, (ap, _) in _class_means(arm, scope).items():
            if key in base:
                base_ap, objects = base[key]
                found.append(ClassDifference(str(key[1]), arm.name, base_ap, ap, ap - base_ap, objects))
    return tuple(found)


def _class_means(arm: Arm, scope: Scope) -> dict[tuple[object, object], tuple[float, int]]:
    """Category id and name → mean official AP over the runs that count, and the number of objects."""
    values: dict[tuple[object, object], list[tuple[float, int]]] = {}
    runs = scope.counted(arm)
    for run in runs:
        if math.isnan(scope.official(run, "AP")):
            return {}
        for each in (run.scores or {}).get("per_class") or ():
            if each["ap"] >= 0:
                values.setdefault((each["category_id"], each["name"]), []).append((each["ap"], each["objects"]))
    complete = {key: found for key, found in values.items() if len(found) == len(runs)}
    return {key: (fmean(ap for ap, _ in found), found[0][1]) for key, found in complete.items()}


def _median(values: Iterable[float]) -> float:
    """Median of the values that are no NaN; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return float(median(known)) if known else math.nan
