"""Label efficiency: what each arm reaches with each share of the labels, and from where on a gain is significant.

Each share is compared on its own, with the same runs' seeds and images on both sides; p-values are adjusted for the
number of arms and shares together (Holm 1979), so that many shares make no gain more likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from kdyolo.data.fingerprint import SUBSET
from kdyolo.experiments.comparison.differences import Difference, find_differences, points
from kdyolo.experiments.comparison.grouping import Arm, data_file
from kdyolo.experiments.comparison.label_shares import arm_and_share, share_name
from kdyolo.experiments.comparison.significance import Interval, holm
from kdyolo.utils.yaml_files import read_mapping


@dataclass(frozen=True)
class LabelPoint:
    """An arm at one share of the labels.

    Attributes:
        arm: Name of the arm.
        share: Share of the training images, in 0–1.
        images: Number of the training images; None where the data set's YAML is not on this machine.
        value: Mean over seeds of the metric, with its interval.
        difference: Difference to the baseline at the same share; None for the baseline, or where it has no runs.
    """

    arm: str
    share: float
    images: int | None
    value: Interval
    difference: Difference | None

    @property
    def labels(self) -> str:
        """``"5% of the images (5,914)"``."""
        return f"{share_name(self.share)} of the images" + (f" ({self.images:,})" if self.images else "")


@dataclass(frozen=True)
class LabelCurves:
    """The metric over the number of labels.

    Attributes:
        metric: Name of the metric.
        baseline: Name of the arm that the others are compared with; None if there is only one.
        points: Points by arm, then ascending by share.
        gains: Arm → a sentence on the shares with which a gain is significant.
    """

    metric: str
    baseline: str | None
    points: tuple[LabelPoint, ...]
    gains: Mapping[str, str]


def by_share(arms: Sequence[Arm]) -> dict[float, tuple[Arm, ...]]:
    """Share in 0–1, ascending → the arms trained with it, under their bare names; empty where arms have no shares."""
    found: dict[float, list[Arm]] = {}
    for arm in arms:
        if named := arm_and_share(arm.name):
            found.setdefault(named[1], []).append(replace(arm, name=named[0]))
    return {share: tuple(found[share]) for share in sorted(found)}


def label_curves(shares: Mapping[float, Sequence[Arm]], metric: str, baseline: str | None) -> LabelCurves:
    """Compare arms at each share of the labels.

    Args:
        shares: Share in 0–1, ascending → arms with their values.
        metric: Name of the metric.
        baseline: Name of the arm that others are compared with; None if there is only one.
    """
    found: list[Difference] = []
    at: list[float] = []
    for share, arms in shares.items():
        base = next((arm for arm in arms if arm.name == baseline), None)
        differences = find_differences(arms, base, [metric]) if base else ()
        found += differences
        at += [share] * len(differences)
    adjusted = holm([difference.p_value for difference in found])
    judged = {
        (difference.arm, share): _judged(difference, p)
        for difference, share, p in zip(found, at, adjusted, strict=True)
    }
    images = _images(shares)
    names = dict.fromkeys(arm.name for arms in shares.values() for arm in arms)
    by_arm = {
        name: [
            LabelPoint(name, share, images.get(share), arm.values[metric], judged.get((name, share)))
            for share, arms in shares.items()
            for arm in arms
            if arm.name == name and metric in arm.values
        ]
        for name in names
    }
    gains = {name: gain_verdict(points_of) for name, points_of in by_arm.items() if name != baseline and baseline}
    return LabelCurves(metric, baseline, tuple(point for points_of in by_arm.values() for point in points_of), gains)


def gain_verdict(found: Sequence[LabelPoint]) -> str:
    """With which shares of the labels an arm is significantly better than the baseline, as a sentence.

    Args:
        found: Points of the arm, ascending by share.
    """
    known = [point for point in found if point.difference]
    if not known:
        return "there is nothing to compare with"
    gained = [bool(p.difference and p.difference.significant and p.difference.interval.estimate > 0) for p in known]
    lost = [bool(p.difference and p.difference.significant and p.difference.interval.estimate < 0) for p in known]
    first = gained.index(True) if any(gained) else 0
    count = sum(gained)
    if not count:
        text = "no significant gain with any number of labels"
    elif count == len(known):
        text = f"a significant gain with every number of labels, from {known[0].labels} on"
    elif all(gained[:count]):
        text = f"a significant gain with up to {known[count - 1].labels}, none from {known[count].labels} on"
    elif all(gained[-count:]):
        text = f"a significant gain from {known[first].labels} on, none with fewer"
    else:
        text = f"a significant gain with {', '.join(p.labels for p, shown in zip(known, gained, strict=True) if shown)}"
    if any(lost):
        text += f"; a loss with {', '.join(p.labels for p, shown in zip(known, lost, strict=True) if shown)}"
    return text


def _judged(difference: Difference, p_adjusted: float) -> Difference:
    interval = difference.interval
    significant = p_adjusted < 1 - interval.level  # NaN is not
    kind = ("gain" if interval.estimate > 0 else "loss") if significant else "not significant"
    ends = f" [{points(interval.low)}…{points(interval.high)}]" if interval.known else ""
    words = f"{points(interval.estimate)}{ends}: {kind}"
    return replace(difference, p_adjusted=p_adjusted, significant=significant, words=words)


def _images(shares: Mapping[float, Sequence[Arm]]) -> dict[float, int]:
    """Share → number of its images, from the YAMLs of the subsets; all images where a subset says of how many it is."""
    found: dict[float, int] = {}
    for share, arms in shares.items():
        for file in filter(None, (data_file(run) for arm in arms for run in arm.runs)):
            subset = (read_mapping(file) or {}).get(SUBSET)
            if not isinstance(subset, Mapping):
                continue
            images, of_images = subset.get("images"), subset.get("of_images")
            if isinstance(images, int) and isinstance(of_images, int):
                found[share], found[1.0] = images, of_images
                break
    return found
