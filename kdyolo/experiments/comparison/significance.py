"""Significance of differences over seeds: means and differences with confidence intervals, and seeds needed.

Pure functions of numbers. Distributions and tests are SciPy's.

References:
    Student (1908), The probable error of a mean, Biometrika 6(1): interval of a mean, paired differences.
    Welch (1947), The generalization of 'Student's' problem when several different population variances are involved,
        Biometrika 34: unpaired differences.
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2):
        several arms against one baseline.
    Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, 2nd edition: seeds needed, from the power of
        the t test (noncentral t distribution).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval.

    Attributes:
        estimate: The mean, or the difference of means.
        low: Lower end; NaN where there is too little to tell (one value, or no spread at all).
        high: Upper end; NaN where ``low`` is.
        level: Coverage of the interval, e.g. 0.95.
        n: Number of values; of a paired difference the number of pairs, of an unpaired one that of the smaller arm.
    """

    estimate: float
    low: float = math.nan
    high: float = math.nan
    level: float = LEVEL
    n: int = 1

    @property
    def known(self) -> bool:
        """Whether there are ends, not only an estimate."""
        return not math.isnan(self.low)


@dataclass(frozen=True)
class Effect:
    """A difference of two arms.

    Attributes:
        interval: Estimate and interval of the difference, arm − baseline.
        p_value: Two-sided p-value of "no difference"; NaN where the interval has no ends.
        paired: Whether values were subtracted in pairs, one of each arm.
        seeds_needed: Number of seeds per arm with which a difference of the size found would be shown in ``POWER`` of
            the studies; None if that cannot be said, or is more than ``MOST_SEEDS``.
    """

    interval: Interval
    p_value: float
    paired: bool
    seeds_needed: int | None


def mean_interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """The mean and its t interval (Student 1908); without ends for one value, or values that are all the same.

    Args:
        values: One value for each seed, none of them NaN.
        level: Coverage of the interval.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("expected at least one value, found none")
    n, mean = len(values), math.fsum(values) / len(values)
    error = _standard_deviation(values) / math.sqrt(n)
    if error == 0:
        return Interval(mean, level=level, n=n)
    reach = _t_quantile(level, n - 1) * error
    return Interval(mean, mean - reach, mean + reach, level, n)


def paired_effect(
    arm: Sequence[float], baseline: Sequence[float], level: float = LEVEL, alpha: float | None = None
) -> Effect:
    """The mean of the differences and its t interval (Student 1908).

    Args:
        arm: A value for each seed.
        baseline: A value for each of the same seeds, in the same order.
        level: Coverage of the interval.
        alpha: Significance level that the seeds needed are counted for; ``1 − level``, if not given.
    """
    # Values come with five digits; what is left of equal differences by rounding in binary is no spread.
    differences = [round(a - b, 12) for a, b in zip(arm, baseline, strict=True)]
    interval = mean_interval(differences, level)
    if not interval.known:
        return Effect(interval, math.nan, paired=True, seeds_needed=None)
    from scipy import stats

    p_value = float(stats.ttest_1samp(differences, 0.0).pvalue)
    size = interval.estimate / _standard_deviation(differences)
    return Effect(interval, p_value, paired=True, seeds_needed=seeds_needed(size, 1.0, alpha or 1 - level))


def unpaired_effect(
    arm: Sequence[float], baseline: Sequence[float], level: float = LEVEL, alpha: float | None = None
) -> Effect:
    """The difference of the means and Welch's interval (Welch 1947), which does not take the variances for equal.

    Args:
        arm: A value for each seed.
        baseline: A value for each of its seeds, which may be others.
        level: Coverage of the interval.
        alpha: Significance level that the seeds needed are counted for; ``1 − level``, if not given.
    """
    interval = welch_interval(arm, baseline, level)
    if not interval.known:
        return Effect(interval, math.nan, paired=False, seeds_needed=None)
    from scipy import stats

    p_value = float(stats.ttest_ind(arm, baseline, equal_var=False).pvalue)
    variances = [_standard_deviation(values) ** 2 for values in (arm, baseline)]
    freedom = sum(variances) ** 2 / sum(v**2 for v in variances)  # Welch's, per (n − 1), for arms of equal size
    needed = seeds_needed(interval.estimate / math.sqrt(sum(variances)), freedom, alpha or 1 - level)
    return Effect(interval, p_value, paired=False, seeds_needed=needed)


def welch_interval(arm: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Interval:
    """The difference of two means and Welch's interval (Welch 1947); without ends where nothing has a spread.

    Args:
        arm: A value for each seed.
        baseline: A value for each of its seeds, which may be others.
        level: Coverage of the interval.
    """
    n = min(len(arm), len(baseline))
    estimate = math.fsum(arm) / len(arm) - math.fsum(baseline) / len(baseline)
    if n < 2 or not (_standard_deviation(arm) or _standard_deviation(baseline)):
        return Interval(estimate, level=level, n=n)
    from scipy import stats

    ends = stats.ttest_ind(arm, baseline, equal_var=False).confidence_interval(level)
    return Interval(estimate, float(ends.low), float(ends.high), level, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given; NaN stays NaN and is not counted."""
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def seeds_needed(size: float, freedom: float, alpha: float, power: float = POWER) -> int | None:
    """Smallest n with which the two-sided t test shows an effect with the given power (Cohen 1988).

    The statistic then follows the noncentral t distribution with noncentrality ``size · √n``.

    Args:
        size: Difference in units of its standard deviation between seeds.
        freedom: Degrees of freedom for each seed beyond the first.
        alpha: Significance level.
        power: Fraction of studies that should show the effect, in 0–1.
    """
    from scipy import special, stats

    def power_of(n: int) -> float:
        df, shift = freedom * (n - 1), abs(size) * math.sqrt(n)
        critical = stats.t.ppf(1 - alpha / 2, df)
        # scipy.stats.nct is NaN in its far tails, where this is 0.
        return float(1 - special.nctdtr(df, shift, critical) + special.nctdtr(df, shift, -critical))

    low, high = 2, 2
    while power_of(high) < power:  # grows with n
        low, high = high + 1, 2 * high
        if high > 2 * MOST_SEEDS:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= power else (middle + 1, high)
    return low if low <= MOST_SEEDS else None


def _standard_deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample, with n − 1; 0 for one value, or where all are the same."""
    if len(values) < 2 or max(values) == min(values):
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _t_quantile(level: float, freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, freedom))
