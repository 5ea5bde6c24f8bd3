"""Metric values: the epoch that counts, unfinished runs, metrics that runs lack."""

from __future__ import annotations

import math
import shutil

import pytest

from kdyolo import compare
from tests.builders.run_folders import write_run
from tests.builders.studies import compare_to_first, refusal, verdict


def test_at_the_last_epoch(study):
    best, last = compare(study), compare(study, at="last")
    assert last.arms[0].points["mAP50-95"][0] == pytest.approx(0.3 * 0.99)
    assert best.arms[0].points["mAP50-95"][0] == 0.3
    assert "official AP" not in last.metrics  # they are of best.pt
    assert any("chosen on the same images" in note for note in best.notes)
    assert not any("chosen on the same images" in note for note in last.notes)


def test_other_metrics(study):
    official = compare(study, metric="official AP")
    assert official.metrics[0] == "official AP"
    assert official.arms[1].points["official AP"] == pytest.approx((0.3, 0.302, 0.296))
    assert official.differences[0].words.startswith("+0.9 official AP")
    assert compare(study, metric="mAP50").arms[0].points["mAP50"][0] == pytest.approx(0.45)


def test_a_metric_that_runs_lack(pair, study):
    a, b = pair({"ap": 0.3})
    assert f"no official AP in {b}" in refusal(a, b, metric="official AP")
    assert compare_to_first(a, b).metrics == ("mAP50-95", "mAP50")
    assert "val=False" in refusal(a, b, metric="recall")


def test_unfinished_runs_are_left_out_where_every_arm_has_a_finished_one(study):
    shutil.rmtree(study / "random" / "seed2")
    write_run(study / "random" / "seed2", [0.05, 0.1], planned=6, seed=2)
    comparison = compare(study)
    assert comparison.arms[0].values["mAP50-95"].n == 2
    assert math.isnan(comparison.arms[0].points["mAP50-95"][2])
    assert len(comparison.arms[0].runs) == 3  # the curves are there to see
    assert verdict(comparison, "frozen").interval.n == 2
    assert any("left out of all values" in n and "random/seed2 (2 of 6 epochs)" in n for n in comparison.notes)
    assert next(t for t in comparison.targets if t.arm == "random").of == 2
    assert comparison.to_frame()["mAP50-95"].isna().sum() == 1


def test_while_an_arm_has_no_finished_run_all_are_taken_up_to_the_same_epoch(pair):
    first = {"curve": [0.1, 0.2, 0.5, 0.6], "ap": 0.5}
    comparison = compare_to_first(*pair(first, {"curve": [0.1, 0.3], "planned": 4}))
    assert [arm.points["mAP50-95"] for arm in comparison.arms] == [(0.2,), (0.3,)]
    assert comparison.official == {}  # best.pt is of a later epoch
    assert any(note.startswith("provisional: not finished are b (2 of 4 epochs)") for note in comparison.notes)
    assert max(t.epochs for t in comparison.targets if t.reached) <= 2


def test_a_run_that_ended_early_counts_and_is_named(pair):
    second = {"curve": [0.1, 0.3, 0.2, 0.2], "planned": 9, "stock": True, "patience": 2}
    comparison = compare_to_first(*pair({"curve": [0.1] * 8 + [0.4]}, second))
    assert comparison.arms[1].points["mAP50-95"] == (0.3,)
    assert "b ended early, at epoch 4 of 9" in comparison.notes
