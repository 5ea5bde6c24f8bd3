"""Runs side by side: arms with their spread over seeds, and what can be said of their differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdyolo.runs.arms import Arm
from kdyolo.runs.measures import ClassDifference, Phase, Target
from kdyolo.runs.statistics import Interval

__all__ = ["Arm", "ClassDifference", "Comparison", "Difference", "Interval", "Phase", "Target"]


@dataclass(frozen=True)
class Difference:
    """An arm against the baseline, in one metric.

    Attributes:
        arm: Name.
        baseline: Name.
        metric: ``"mAP50-95"``, ``"mAP50"``, ``"official AP"``, …
        interval: Of arm − baseline, in 0–1; without ends where the seeds are too few.
        paired: Whether runs of the same seed were subtracted; else Welch's interval.
        p_value: Two-sided, of "no difference", as if this were the only comparison; NaN where the interval has no ends.
        p_adjusted: The same, adjusted for the number of arms (Holm).
        shown: Whether ``p_adjusted`` is below 1 − level.
        seeds_needed: Seeds per arm that would show a difference of this size in 80 % of studies; None if unknown.
        words: The same as a sentence.
    """

    arm: str
    baseline: str
    metric: str
    interval: Interval
    paired: bool
    p_value: float
    p_adjusted: float
    shown: bool
    seeds_needed: int | None
    words: str


@dataclass(frozen=True)
class Comparison:
    """Arms side by side.

    Attributes:
        title: The study's name, else the arms'.
        arms: In the order given; the runs in them may have been left out of the values (see ``notes``).
        baseline: Name of the arm that the others are compared with; None if there is one arm only.
        metric: What was asked for: the first among the differences.
        at: ``"best"``: at the epoch with the highest mAP50-95, which ``best.pt`` holds; ``"last"``: at the last one.
        differences: For each metric, each other arm against the baseline.
        equal: Setting → the value that all runs have.
        differing: Setting → arm → value; a list where the runs of an arm differ.
        unlike: What is not like for like, a sentence each; empty unless it was asked for anyway.
        phases: Speed and memory.
        targets: Epochs and time to given mAP50-95.
        official: Arm → official metric (``AP``, …) → mean over seeds; only arms whose runs all keep them.
        class_differences: For each other arm, every class that has objects.
        provenance: For each run, its facts: name → value.
        notes: What a reader should know.
        method: The statistics, named and cited.
    """

    title: str
    arms: tuple[Arm, ...]
    baseline: str | None
    metric: str
    at: str
    differences: tuple[Difference, ...]
    equal: Mapping[str, Any]
    differing: Mapping[str, Mapping[str, Any]]
    unlike: tuple[str, ...]
    phases: tuple[Phase, ...]
    targets: tuple[Target, ...]
    official: Mapping[str, Mapping[str, Interval]]
    class_differences: tuple[ClassDifference, ...]
    provenance: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    method: str
