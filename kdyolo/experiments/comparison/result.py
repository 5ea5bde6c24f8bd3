"""Result of a comparison as data: arms, differences, settings, costs, notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdyolo.experiments.comparison.cost_and_classes import ClassDifference, PhaseTiming, Target
from kdyolo.experiments.comparison.differences import Difference
from kdyolo.experiments.comparison.findings.distillation_facts import DistillationFacts
from kdyolo.experiments.comparison.findings.label_efficiency import LabelCurves
from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.experiments.comparison.significance import Interval


@dataclass(frozen=True)
class ComparisonResult:
    """Arms side by side.

    Attributes:
        title: Name of the study, else the names of the arms.
        arms: Arms in the order given; runs in them may have been left out of the values (see ``notes``).
        baseline: Name of the arm that the others are compared with; None if there is only one arm.
        metric: The metric asked for, which is the first among the differences.
        at: Epoch that runs are judged by: ``"best"``, that with the highest mAP50-95, which ``best.pt`` holds; or
            ``"last"``.
        differences: Differences of each other arm to the baseline, metric by metric.
        equal: Setting → the value that all runs have.
        differing: Setting → arm → value; a list where the runs of an arm differ.
        unlike: Sentences on what is not like for like; empty unless such a comparison was asked for.
        phases: Speed and memory of each arm in each phase.
        targets: Epochs and time that each arm took to given mAP50-95.
        official: Arm → official metric (``AP``, …) → mean over seeds; only arms whose runs all have them.
        class_differences: Difference of each other arm to the baseline for every class that has objects.
        provenance: Facts of each run: name → value.
        notes: Sentences that a reader of the values should know.
        method: The statistics, named and cited.
        distillations: Distillations that backbones of the arms come from; their time is in none of the others.
        labels: The metric over the number of labels; None unless arms were trained with several shares of them. All
            else is then of the runs with the largest share.
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
    phases: tuple[PhaseTiming, ...]
    targets: tuple[Target, ...]
    official: Mapping[str, Mapping[str, Interval]]
    class_differences: tuple[ClassDifference, ...]
    provenance: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    method: str
    distillations: tuple[DistillationFacts, ...] = ()
    labels: LabelCurves | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that every arm has, the one asked for first."""
        common = [name for name in self.arms[0].values if all(name in arm.values for arm in self.arms)]
        return tuple(sorted(common, key=lambda name: name != self.metric))
