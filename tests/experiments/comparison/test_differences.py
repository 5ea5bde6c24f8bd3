"""Differences of arms to the baseline: pairs, intervals, verdicts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from kdyolo import compare
from kdyolo.experiments.compare import RunComparison
from kdyolo.experiments.comparison.differences import find_differences
from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.experiments.comparison.significance import mean_interval
from tests.builders.run_folders import write_run
from tests.builders.studies import OFFSETS, compare_to_first, verdict


def test_means_and_differences_are_scipys(study):
    comparison = compare(study)
    random, frozen = ([0.3 + offset for offset in OFFSETS[arm]] for arm in ("random", "frozen"))
    mean = comparison.arms[0].values["mAP50-95"]
    expected = stats.ttest_1samp(random, 0).confidence_interval(0.95)
    assert (mean.low, mean.high) == pytest.approx((expected.low, expected.high))
    test = stats.ttest_rel(frozen, random)
    found = verdict(comparison, "frozen")
    ends = test.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((ends.low, ends.high))
    assert found.p_value == pytest.approx(test.pvalue)
    assert found.paired


def test_the_verdict_in_words(study):
    comparison = compare(study)
    frozen, low = verdict(comparison, "frozen"), verdict(comparison, "low-lr")
    assert frozen.words == "+0.9 mAP, 95% CI +0.6…+1.2: a significant gain with 3 seeds (p = 0.012)"
    assert frozen.p_adjusted == pytest.approx(2 * frozen.p_value)  # two arms against the baseline
    assert frozen.significant
    begin, end = "+0.1 mAP, 95% CI −0.4…+0.6: not significant with 3 seeds", "seeds would show a gain of this size"
    assert low.words == f"{begin}; about {low.seeds_needed} {end}"
    assert not low.significant
    assert low.seeds_needed > 3
    assert {d.metric for d in comparison.differences} == {"mAP50-95", "mAP50", "official AP"}


def test_a_loss_is_called_one(study):
    words = verdict(compare(study, baseline="frozen"), "random").words
    assert words == "−0.9 mAP, 95% CI −1.2…−0.6: a significant loss with 3 seeds (p = 0.012)"


def test_what_only_several_arms_hide_is_said(tmp_path):
    gains = {"base": (0, 0, 0), "x": (0.010, 0.016, 0.010), "y": (0.011, 0.0, 0.02), "z": (0.0, 0.012, -0.01)}
    noise = (0.0, 0.003, 0.001)
    for arm, offsets in gains.items():
        for seed, offset in enumerate(offsets):
            top, rate = 0.3 + offset + noise[seed], 0.01 * (1 + list(gains).index(arm))
            write_run(tmp_path / arm / f"seed{seed}", [0.1, top], seed=seed, lr0=rate, seconds=1000 * rate)
    comparison = compare(*(tmp_path / arm for arm in gains), baseline="base")
    found = verdict(comparison, "x")
    assert found.p_value < 0.05 < found.p_adjusted
    assert not found.significant
    assert re.search(
        r"not significant with 3 seeds once 3 arms are accounted for \(p = 0\.\d+\); about \d+ seeds", found.words
    )
    assert found.seeds_needed > 3


def test_two_seeds_in_common_are_paired_else_welch(tmp_path):
    def arms(name: str, first: Sequence[int], second: Sequence[int]) -> RunComparison:
        for arm, seeds in (("a", first), ("b", second)):
            for i, seed in enumerate(seeds):
                value = 0.3 + 0.001 * i * i + 0.01 * (arm == "b") + 0.002 * seed
                write_run(tmp_path / name / arm / f"seed{seed}", [0.1, value], seed=seed)
        return compare(tmp_path / name, baseline="a")

    paired, unpaired = arms("p", (0, 1, 2), (1, 2, 3)), arms("u", (0, 1, 2), (3, 4, 5))
    assert verdict(paired, "b").paired
    assert verdict(paired, "b").interval.n == 2
    assert any("over the seeds that both have (1, 2)" in note for note in paired.notes)
    assert not verdict(unpaired, "b").paired
    a, b = ([*arm.points["mAP50-95"]] for arm in unpaired.arms)
    ends = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert verdict(unpaired, "b").interval.low == pytest.approx(ends.low)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0, 1, 2), (3, 4, 5, 6)], ids=["paired", "welch"])
def test_differences_of_arms_cover_the_truth_in_95_percent_of_studies(seeds):
    """The way from values to verdict, 1,000 times: a true gain of 0.7 points, half a point between seeds."""
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(1000):
        arms = []
        for name, gain, own in (("base", 0.0, (0, 1, 2)), ("arm", 0.007, seeds)):
            values = (0.4 + gain + rng.normal(0, 0.005, len(own))).tolist()
            arms.append(Arm(name, (), own, {"mAP50-95": mean_interval(values)}, {"mAP50-95": tuple(values)}))
        (difference,) = find_differences(arms, arms[0], ["mAP50-95"])
        assert difference.paired is (seeds == (0, 1, 2))
        covered += difference.interval.low <= 0.007 <= difference.interval.high
    assert covered / 1000 == pytest.approx(0.95, abs=0.02)


def test_one_run_per_arm_shows_nothing(pair):
    comparison = compare_to_first(*pair())
    assert verdict(comparison, "b").words == (
        "+1.0 mAP: one run per arm shows nothing, since another seed may move it as far; train with three or more seeds"
    )
    assert math.isnan(verdict(comparison, "b").interval.low)
    assert verdict(comparison, "b").seeds_needed is None


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((-0.001, 0.017), "+0.8 mAP, 95% CI −0.1…+1.7: not"),
        ((0.0004, 0.017), "+0.87 mAP, 95% CI +0.04…+1.70: a significant gain"),  # with one digit its end would be 0.0
        ((-0.0007, -0.0003), "−0.05 mAP, 95% CI −0.07…−0.03: a significant loss"),
    ],
)
def test_as_many_digits_as_show_the_side_of_zero(ends, words):
    low, high = ends
    half = (high - low) / 2 / stats.t.ppf(0.975, 2) * math.sqrt(3)  # the deviation of three seeds with this interval
    gains = [(low + high) / 2 + step * half for step in (-1, 0, 1)]
    arms = [
        Arm(name, (), (0, 1, 2), {"mAP50-95": mean_interval(values)}, {"mAP50-95": tuple(values)})
        for name, values in (("base", [0.3, 0.31, 0.305]), ("arm", [0.3 + gains[0], 0.31 + gains[1], 0.305 + gains[2]]))
    ]
    assert find_differences(arms, arms[0], ["mAP50-95"])[0].words.startswith(words)


def test_a_seed_without_effect_is_noticed(tmp_path):
    for arm, value in (("a", 0.2), ("b", 0.3), ("c", 0.2)):
        for seed in range(3):
            seconds = 10 + seed + value if arm != "c" else 20 + seed
            write_run(tmp_path / arm / f"seed{seed}", [0.1, value], seed=seed, seconds=seconds)
    comparison = compare(tmp_path, baseline="a")
    nothing = "which leaves no spread to judge it by; does the seed have any effect?"
    assert verdict(comparison, "b").words == f"+10.0 mAP: the same in all 3 seeds, {nothing}"
    assert verdict(comparison, "c").words == "0.0 mAP: no difference in any of 3 seeds"
    assert any("a and b have the same settings" in note for note in comparison.notes)
