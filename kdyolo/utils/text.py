"""Time, in words and ahead: how long something took, and how long a run will go on. No torch."""

from __future__ import annotations

import math
import statistics

from kdyolo.runs.history import Run


def duration(seconds: float) -> str:
    """``"0.4 s"``, ``"42 s"``, ``"7.5 min"``, ``"3.1 h"``; a dash for NaN."""
    if math.isnan(seconds):
        return "–"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def seconds_left(run: Run, since: float = 0.0) -> float:
    """Time that the epochs still to come will take, each as long as the usual one of its phase.

    A phase that has not come yet is taken to be as slow as the slowest that has: before a thaw the estimate is low.

    Args:
        run: The run.
        since: Seconds since its last epoch ended.

    Returns:
        Seconds; NaN before the first epoch has ended.
    """
    by_phase: dict[str, list[float]] = {}
    for epoch, seconds in zip(run.epochs, run.seconds, strict=True):
        if not math.isnan(seconds):
            by_phase.setdefault(run.phase(epoch), []).append(seconds)
    usual = {phase: statistics.median(values) for phase, values in by_phase.items()}
    if not usual:
        return math.nan
    to_come = range(run.epochs[-1] + 1, run.planned_epochs + 1)
    durations = [usual.get(run.phase(epoch), max(usual.values())) for epoch in to_come]
    return math.fsum(durations) - min(max(since, 0.0), durations[0]) if durations else 0.0
