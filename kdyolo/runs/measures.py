"""What an arm is measured by beside its mAP: speed and memory, time to a given mAP, official metrics, classes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Speed and memory of an arm while the same parts are frozen.

    Attributes:
        arm: Name.
        phase: ``"backbone frozen"``, ``"all train"``, …
        epochs: Number of finished epochs of this phase in one run: the median over the runs that have any.
        seconds_per_epoch: Median over epochs and seeds, validation included; NaN if unknown.
        memory_gb: GiB: the most reserved on a GPU, or held by the process on a CPU; median likewise, NaN if unknown.
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
        arm: Name.
        value: The mAP50-95 to reach, in 0–1.
        epochs: Median over the seeds that reached it; NaN if none did.
        seconds: Of training and validation until then, likewise.
        reached: Number of seeds that did.
        of: Number of seeds.
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
        name: Of the class, as the annotations have it.
        arm: Name.
        baseline_ap: Mean over the baseline's seeds.
        arm_ap: Mean over the arm's.
        difference: ``arm_ap − baseline_ap``.
        objects: Number of its objects in the validation split.
    """

    name: str
    arm: str
    baseline_ap: float
    arm_ap: float
    difference: float
    objects: int
