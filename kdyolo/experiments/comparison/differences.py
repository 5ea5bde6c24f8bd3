"""Differences of arms to the baseline: the test of each, and its verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.experiments.comparison.significance import (
    LEVEL,
    MOST_SEEDS,
    POWER,
    Effect,
    Interval,
    holm,
    paired_effect,
    unpaired_effect,
)
from kdyolo.utils.text import decimal

METHOD = (
    f"Means over seeds have Student's t interval ({LEVEL:.0%}; Student 1908, Biometrika 6:1–25). Differences to the "
    "baseline are taken seed by seed and have the paired t interval and test (ibid.) where two or more seeds are "
    "common to both arms; else Welch's interval and test (Welch 1947, Biometrika 34:28–35). Intervals are of one "
    "difference at a time; p-values are adjusted for the number of arms within each metric (Holm 1979, Scandinavian "
    "Journal of Statistics 6:65–70), and a difference counts as significant if its adjusted p-value is below "
    f"{1 - LEVEL:.2f}. Seeds needed: the fewest per arm with which a true difference of the size found would be "
    f"significant in {POWER:.0%} of studies (Cohen 1988, Statistical Power Analysis for the Behavioral Sciences; "
    "noncentral t, level divided by the number of arms compared); the size found is itself uncertain, so it is a rough "
    "number. Seeds are taken for a sample of all that could be drawn, their values for normally distributed; images "
    "are the same in all runs, so nothing is said about other images. Computed with SciPy."
)


@dataclass(frozen=True)
class Difference:
    """An arm against the baseline, in one metric.

    Attributes:
        arm: Name of the arm.
        baseline: Name of the baseline.
        metric: Name of the metric: ``"mAP50-95"``, ``"mAP50"``, ``"official AP"``, …
        interval: Estimate and interval of arm − baseline, in 0–1; without ends where the seeds are too few.
        paired: Whether runs of the same seed were subtracted; else Welch's interval.
        p_value: Two-sided p-value of "no difference", as if there were no other arm; NaN if the interval has no ends.
        p_adjusted: The p-value adjusted for the number of arms (Holm).
        significant: Whether ``p_adjusted`` is below 1 − level.
        seeds_needed: Seeds per arm that would show a difference of this size in 80 % of studies; None if unknown.
        words: The verdict as a sentence.
    """

    arm: str
    baseline: str
    metric: str
    interval: Interval
    paired: bool
    p_value: float
    p_adjusted: float
    significant: bool
    seeds_needed: int | None
    words: str


def find_differences(arms: Sequence[Arm], baseline: Arm, metrics: Sequence[str]) -> tuple[Difference, ...]:
    """Compare every other arm with the baseline, metric by metric.

    Args:
        arms: All arms, with their values.
        baseline: One of the arms.
        metrics: Names of metrics; an arm without values of one is passed over.
    """
    found: list[Difference] = []
    for metric in metrics:
        others = [arm for arm in arms if arm is not baseline and metric in arm.values and metric in baseline.values]
        effects = [_effect(arm, baseline, metric, len(others)) for arm in others]
        adjusted = holm([effect.p_value for effect in effects])
        for arm, effect, p in zip(others, effects, adjusted, strict=True):
            significant = p < 1 - effect.interval.level  # NaN is not
            difference = Difference(
                arm=arm.name,
                baseline=baseline.name,
                metric=metric,
                interval=effect.interval,
                paired=effect.paired,
                p_value=effect.p_value,
                p_adjusted=p,
                significant=significant,
                seeds_needed=effect.seeds_needed,
                words="",
            )
            found.append(replace(difference, words=_verdict(difference, _counts(arm, baseline, metric), len(others))))
    return tuple(found)


def common_seeds(arm: Arm, baseline: Arm, metric: str) -> dict[int, tuple[float, float]]:
    """Seed → value in the arm and in the baseline, of seeds that both have once; empty if a seed is not known."""
    mine, theirs = (_by_seed(a, metric) for a in (arm, baseline))
    return {seed: (mine[seed], theirs[seed]) for seed in mine if seed in theirs} if mine and theirs else {}


def _by_seed(arm: Arm, metric: str) -> dict[int, float]:
    counted = [(s, v) for s, v in zip(arm.seeds, arm.points[metric], strict=True) if not math.isnan(v)]
    by_seed = {seed: value for seed, value in counted if seed is not None}
    return by_seed if len(by_seed) == len(counted) else {}


def _effect(arm: Arm, baseline: Arm, metric: str, arms: int) -> Effect:
    """The effect, paired over the seeds that both have if these are two or more, whatever comes out."""
    alpha = (1 - LEVEL) / arms
    pairs = list(common_seeds(arm, baseline, metric).values())
    alone = arm.values[metric].n == 1 and baseline.values[metric].n == 1
    if len(pairs) > 1 or (pairs and alone):
        return paired_effect([a for a, _ in pairs], [b for _, b in pairs], alpha=alpha)
    mine, theirs = ([v for v in each.points[metric] if not math.isnan(v)] for each in (arm, baseline))
    return unpaired_effect(mine, theirs, alpha=alpha)


def _counts(arm: Arm, baseline: Arm, metric: str) -> tuple[int, int]:
    return arm.values[metric].n, baseline.values[metric].n


def _verdict(difference: Difference, counts: tuple[int, int], arms: int) -> str:
    """``+0.8 mAP, 95% CI −0.1…+1.7: not significant with 3 seeds; about 7 seeds would show a gain of this size``."""
    interval = difference.interval
    unit = "mAP" if difference.metric == "mAP50-95" else difference.metric
    if not interval.known:
        return f"{points(interval.estimate)} {unit}: {_without_interval(difference, counts)}"
    digits = _digits(interval)
    low, high = (points(end, digits) for end in (interval.low, interval.high))
    text = f"{points(interval.estimate, digits)} {unit}, {interval.level:.0%} CI {low}…{high}: "
    seeds = (
        f"{interval.n} seeds" if difference.paired or counts[0] == counts[1] else f"{counts[0]} and {counts[1]} seeds"
    )
    kind = "gain" if interval.estimate > 0 else "loss"
    if difference.significant:
        return f"{text}a significant {kind} with {seeds} ({_p(difference)})"
    text += f"not significant with {seeds}"
    if difference.p_value < 1 - interval.level:
        text += f" once {arms} arms are accounted for ({_p(difference)})"
    if difference.seeds_needed is None:
        return f"{text}; a {kind} of this size would need more than {MOST_SEEDS} seeds" if interval.estimate else text
    return f"{text}; about {difference.seeds_needed} seeds would show a {kind} of this size"


def _without_interval(difference: Difference, counts: tuple[int, int]) -> str:
    if min(counts) == 1:
        lacking = "one run per arm shows" if max(counts) == 1 else "one run of an arm shows"
        return f"{lacking} nothing, since another seed may move it as far; train with three or more seeds"
    n = difference.interval.n
    if difference.interval.estimate == 0:
        return f"no difference in any of {n} seeds"
    return f"the same in all {n} seeds, which leaves no spread to judge it by; does the seed have any effect?"


def _digits(interval: Interval) -> int:
    """Fewest decimals that show the width of an interval, and on which side of zero its ends are."""
    for digits in (1, 2):
        step = 10.0**-digits / 100
        if interval.high - interval.low >= 2 * step and min(abs(interval.low), abs(interval.high)) >= step / 2:
            return digits
    return 3


def _p(difference: Difference) -> str:
    """``"p < 0.001"`` or ``"p = 0.006"``, adjusted for the number of arms."""
    text = format_p(difference.p_adjusted)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def points(value: float, digits: int = 1) -> str:
    """A difference in 0–1 as signed points of 0–100, with a true minus sign: ``+0.8``, ``−0.1``, ``0.0``."""
    return decimal(value * 100, digits, "+")


def format_p(value: float) -> str:
    """A p-value: ``"0.006"``, or ``"< 0.001"``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
