"""Runs → arms: the runs of one set of settings, which differ in their seed only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdyolo.runs.history import Run
from kdyolo.runs.statistics import Interval


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seed.

    Attributes:
        name: Of the arm in its study, else of the folder or folders.
        runs: A run for each seed.
        seeds: Theirs, in the same order; None where not recorded.
        values: Metric → mean over the seeds, with its interval.
        points: Metric → the value of each run, in the same order; NaN for a run that is left out (see the notes).
    """

    name: str
    runs: tuple[Run, ...]
    seeds: tuple[int | None, ...]
    values: Mapping[str, Interval] = field(default_factory=dict)
    points: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
