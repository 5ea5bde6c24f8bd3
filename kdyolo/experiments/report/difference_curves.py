"""Difference to the baseline over the epochs: for each arm, epoch by epoch, the mean and its interval over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.experiments.comparison.significance import Interval, mean_interval, welch_interval
from kdyolo.runs.files import MAP


@dataclass(frozen=True)
class DifferenceCurve:
    """Difference of an arm to the baseline, over the epochs.

    Attributes:
        arm: Name of the arm.
        epochs: Epochs, from 1, that enough runs of both arms have finished.
        intervals: Difference in mAP50-95, in 0–1, at each of these epochs; without ends where one seed is all there is.
        paired: Whether runs of the same seed were subtracted.
    """

    arm: str
    epochs: tuple[int, ...]
    intervals: tuple[Interval, ...]
    paired: bool


def difference_curves(arms: Sequence[Arm], baseline: str | None) -> tuple[DifferenceCurve, ...]:
    """The difference of every other arm to the baseline, as far as all their runs have come.

    Runs are subtracted seed by seed where two or more seeds are common to both arms, as the verdict does it.

    Args:
        arms: All arms.
        baseline: Name of the arm that is subtracted; None where there is none, which gives no curves.
    """
    base = next((arm for arm in arms if arm.name == baseline), None)
    found = [_difference(arm, base) for arm in arms if arm is not base] if base else []
    return tuple(curve for curve in found if curve.epochs)


def _difference(arm: Arm, base: Arm) -> DifferenceCurve:
    seeds = [seed for seed in arm.seeds if seed is not None and seed in base.seeds]
    paired = len(seeds) > 1 and len(set(arm.seeds)) == len(arm.seeds) and len(set(base.seeds)) == len(base.seeds)
    mine, theirs = (_columns(each, seeds if paired else list(each.seeds), paired) for each in (arm, base))
    epochs = sorted(set.intersection(*map(set, (*mine, *theirs)))) if mine and theirs else []
    intervals = []
    for epoch in epochs:
        a, b = [column[epoch] for column in mine], [column[epoch] for column in theirs]
        if paired:
            intervals.append(mean_interval([round(x - y, 12) for x, y in zip(a, b, strict=True)]))
        else:
            intervals.append(welch_interval(a, b))
    return DifferenceCurve(arm.name, tuple(epochs), tuple(intervals), paired)


def _columns(arm: Arm, seeds: Sequence[int | None], paired: bool) -> list[dict[int, float]]:
    """Epoch → mAP50-95, for the runs of some seeds in their order, or for all runs."""
    runs = [arm.runs[arm.seeds.index(seed)] for seed in seeds] if paired else arm.runs
    tables = [dict(zip(run.epochs, run.column(MAP), strict=True)) for run in runs]
    return [{epoch: value for epoch, value in table.items() if not math.isnan(value)} for table in tables]
