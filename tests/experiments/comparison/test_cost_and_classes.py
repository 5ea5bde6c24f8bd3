"""Speed, memory, time to a given mAP, official metrics and classes."""

from __future__ import annotations

import math

import pytest

from kdyolo import compare
from tests.builders.run_folders import write_run
from tests.builders.studies import compare_to_first


def test_time_to_given_map(study):
    comparison = compare(study, targets=[0.2, 0.309, 0.9])
    found = {(t.arm, t.value): t for t in comparison.targets}
    assert (found["frozen", 0.2].epochs, found["frozen", 0.2].seconds) == (2, 22)  # medians of 20, 22 and 24 s
    assert (found["frozen", 0.309].reached, found["frozen", 0.309].of) == (2, 3)
    assert found["frozen", 0.309].epochs == 5
    assert found["random", 0.9].reached == 0
    assert math.isnan(found["random", 0.9].epochs)
    assert "never" in comparison.table()


def test_targets_follow_from_the_baseline(study):
    values = sorted({target.value for target in compare(study).targets})
    assert values == [0.075, 0.15, 0.225, 0.27, 0.3]


def test_speed_and_memory_by_phase(tmp_path):
    run = write_run(tmp_path / "run", [0.1] * 5, freeze=2)
    times, memory = [10, 20, 50, 80, 110], [1.0, 1.2, 3.0, 3.2, 3.4]
    rows = [f"{e},{t},0.1,0.1,{m}\n" for e, t, m in zip(range(1, 6), times, memory, strict=True)]
    header = "epoch,time,metrics/mAP50(B),metrics/mAP50-95(B),memory/GB\n"
    (run / "results.csv").write_text(header + "".join(rows))
    frozen, thawed = compare(run).phases
    assert (frozen.phase, frozen.epochs, frozen.seconds_per_epoch) == ("backbone frozen", 2, 10)
    assert frozen.memory_gb == pytest.approx(1.1)
    assert (thawed.phase, thawed.epochs, thawed.seconds_per_epoch, thawed.memory_gb) == ("all train", 3, 30, 3.2)


def test_classes_and_official_metrics(tmp_path):
    for arm, gain in (("a", 0.0), ("b", 0.1)):
        for seed in (0, 1):
            classes = {"cat": 0.4 + gain + seed / 10, "dog": 0.5 - gain, "unseen": -1.0}
            folder, values = tmp_path / arm / f"seed{seed}", [0.1, 0.2 + gain + seed / 20]
            write_run(folder, values, seed=seed, ap=0.2 + seed / 10, per_class=classes)
    comparison = compare_to_first(tmp_path / "a", tmp_path / "b")
    classes = {c.name: c for c in comparison.class_differences}
    assert set(classes) == {"cat", "dog"}
    assert (classes["cat"].baseline_ap, classes["cat"].arm_ap) == pytest.approx((0.45, 0.55))
    assert classes["dog"].difference == pytest.approx(-0.1)
    assert classes["cat"].objects == 10
    assert comparison.official["a"]["AP"].estimate == pytest.approx(0.25)
    assert "AP_small" not in comparison.official["a"]  # no small object
