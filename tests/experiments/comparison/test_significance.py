"""Intervals, tests and seeds needed: against published numbers, and against the truth of simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kdyolo.experiments.comparison.significance import (
    LEVEL,
    POWER,
    holm,
    mean_interval,
    paired_effect,
    seeds_needed,
    unpaired_effect,
)

# Student (1908), Biometrika 6: additional hours of sleep of ten patients with two drugs. The results are those that R
# documents for t.test(…, data = sleep).
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
STUDIES = 1000
TOLERANCE = 3 * math.sqrt(LEVEL * (1 - LEVEL) / STUDIES)  # three standard errors of a share: 2 points


def test_students_sleep_data_paired():
    effect = paired_effect(SECOND, FIRST)
    assert effect.interval.estimate == pytest.approx(1.58)
    assert effect.interval.low == pytest.approx(0.7001142, abs=1e-7)
    assert effect.interval.high == pytest.approx(2.4598858, abs=1e-7)
    assert effect.p_value == pytest.approx(0.002833, abs=1e-6)
    assert effect.interval.n == 10
    assert effect.paired


def test_students_sleep_data_by_welch():
    effect = unpaired_effect(SECOND, FIRST)
    assert effect.interval.estimate == pytest.approx(1.58)
    assert effect.interval.low == pytest.approx(-0.2054832, abs=1e-7)
    assert effect.interval.high == pytest.approx(3.3654832, abs=1e-7)
    assert effect.p_value == pytest.approx(0.07939, abs=1e-5)
    assert not effect.paired


def test_the_other_way_round_is_the_negative():
    for effect in (paired_effect, unpaired_effect):
        there, back = effect(SECOND, FIRST), effect(FIRST, SECOND)
        assert back.interval.low == pytest.approx(-there.interval.high)
        assert back.p_value == pytest.approx(there.p_value)
        assert back.seeds_needed == there.seeds_needed


def test_nist_example_of_a_mean():
    # NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.5.2: N = 195, mean 9.261460, standard deviation 0.022789.
    # With 97 values a deviation above the mean, 97 below and one on it, the sample has just these.
    mean, deviation = 9.261460, 0.022789
    interval = mean_interval([mean - deviation] * 97 + [mean] + [mean + deviation] * 97)
    assert (interval.low, interval.high) == pytest.approx((9.258242, 9.264679), abs=1e-6)


def test_holms_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust(…, "holm")
    assert holm([0.5, math.nan, 0.9])[1:] == pytest.approx([math.nan, 1.0], nan_ok=True)
    assert holm([]) == []


@pytest.mark.parametrize(("d", "paired", "unpaired"), [(0.2, 199, 394), (0.5, 34, 64), (0.8, 15, 26)])
def test_seeds_needed_as_tables_have_them(d, paired, unpaired):
    # Small, medium and large effects of Cohen (1988) at power 0.8, level 0.05, two-sided; G*Power (Faul et al. 2007).
    assert seeds_needed(d, 1, 0.05) == paired
    assert seeds_needed(d / math.sqrt(2), 2, 0.05) == unpaired


@pytest.mark.parametrize(("size", "needed"), [(0, None), (1e-3, None), (0.0888, 998), (3, 4), (-3, 4), (1e6, 2)])
def test_seeds_needed_at_its_ends(size, needed):
    assert seeds_needed(size, 1, 0.05) == needed


def test_more_is_needed_for_a_stricter_level():
    assert (seeds_needed(0.5, 1, 0.05 / 3) or 0) > (seeds_needed(0.5, 1, 0.05) or 0)


def test_too_little_to_tell():
    one = mean_interval([0.3])
    assert one.estimate == 0.3
    assert not one.known
    assert one.n == 1
    assert not mean_interval([0.3, 0.3, 0.3]).known  # no spread is no certainty
    for effect in (paired_effect([0.3], [0.2]), unpaired_effect([0.3], [0.2]), unpaired_effect([0.3, 0.4], [0.2])):
        assert not effect.interval.known
        assert math.isnan(effect.p_value)
        assert effect.seeds_needed is None
    same = paired_effect([0.3, 0.5, 0.1], [0.2, 0.4, 0.0])  # differ by 0.1 each, up to binary rounding
    assert same.interval.estimate == pytest.approx(0.1)
    assert not same.interval.known
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


# ---- simulated studies: mAP around 0.4, 0.5 points between seeds, of which pairs share a part -----------------------


def studies(
    seeds: int, gain: float, spreads: tuple[float, float], shared: float = 0.0
) -> list[tuple[list[float], ...]]:
    """Values of an arm and a baseline for each study."""
    rng = np.random.default_rng(7)
    common = rng.normal(0, shared, (STUDIES, seeds))
    arm = 0.4 + gain + common + rng.normal(0, spreads[0], (STUDIES, seeds))
    baseline = 0.4 + common + rng.normal(0, spreads[1], (STUDIES, seeds))
    return list(zip(arm.tolist(), baseline.tolist(), strict=True))


def coverage(effects, truth: float) -> float:
    return sum(effect.interval.low <= truth <= effect.interval.high for effect in effects) / STUDIES


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_paired_intervals_cover_the_truth_in_95_percent_of_studies(seeds):
    effects = [paired_effect(*study) for study in studies(seeds, 0.007, (0.005, 0.005), shared=0.01)]
    assert coverage(effects, 0.007) == pytest.approx(LEVEL, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("spreads", [(0.005, 0.005), (0.003, 0.008)])
def test_welch_intervals_cover_the_truth_in_95_percent_of_studies(spreads):
    effects = [unpaired_effect(*study) for study in studies(5, 0.007, spreads)]
    assert coverage(effects, 0.007) == pytest.approx(LEVEL, abs=TOLERANCE)


@pytest.mark.slow
def test_mean_intervals_cover_the_truth_in_95_percent_of_studies():
    intervals = [mean_interval(arm) for arm, _ in studies(3, 0.0, (0.005, 0.005))]
    covered = sum(interval.low <= 0.4 <= interval.high for interval in intervals) / STUDIES
    assert covered == pytest.approx(LEVEL, abs=TOLERANCE)


@pytest.mark.slow
def test_without_a_difference_one_study_in_twenty_shows_one():
    shown = [paired_effect(*study).p_value < 1 - LEVEL for study in studies(3, 0.0, (0.005, 0.005))]
    assert sum(shown) / STUDIES == pytest.approx(1 - LEVEL, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "freedom"), [(paired_effect, 1), (unpaired_effect, 2)])
def test_with_the_seeds_needed_four_studies_in_five_show_the_gain(effect, freedom):
    spread, gain = 0.005, 0.008
    needed = seeds_needed(gain / (spread * math.sqrt(2)), freedom, 1 - LEVEL)
    shown = [effect(*study).p_value < 1 - LEVEL for study in studies(needed, gain, (spread, spread))]
    power = sum(shown) / STUDIES
    # Of whole numbers of seeds this is the first that reaches the power, so it may be some points above.
    assert POWER - 0.03 < power < POWER + 0.1


def test_several_arms_are_accounted_for():
    rng = np.random.default_rng(3)
    p_values = rng.uniform(size=(STUDIES, 4))  # four arms without any effect
    wrong = sum(min(holm(row)) < 0.05 for row in p_values.tolist()) / STUDIES
    assert wrong == pytest.approx(0.05, abs=TOLERANCE)
    assert sum(min(row) < 0.05 for row in p_values.tolist()) / STUDIES > 0.15
