"""``kdyolo compare`` and ``compare()``: verdicts, differences, unfinished runs, mistakes, metrics, the command."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from kdyolo import compare
from kdyolo.cli import cli, main
from kdyolo.experiments.compare import RunComparison
from kdyolo.experiments.comparison.differences import find_differences
from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.experiments.comparison.significance import mean_interval
from tests.builders.commands import CHECKOUT
from tests.builders.run_folders import write_run
from tests.builders.studies import OFFSETS, refusal, verdict

# ---- a study ---------------------------------------------------------------------------------------------------------


def test_a_study_as_arms_in_the_order_of_its_file(study):
    comparison = compare(study)
    assert comparison.title == "does-it-help"
    assert [arm.name for arm in comparison.arms] == ["random", "frozen", "low-lr"]
    assert comparison.baseline == "random"
    assert all(arm.seeds == (0, 1, 2) for arm in comparison.arms)
    assert comparison.arms[1].points["mAP50-95"] == (0.31, 0.312, 0.306)


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
    assert frozen.words == "+0.9 mAP, 95% CI +0.6…+1.2: a gain, shown with 3 seeds (p = 0.012)"
    assert frozen.p_adjusted == pytest.approx(2 * frozen.p_value)  # two arms against the baseline
    assert frozen.shown
    begin, end = "+0.1 mAP, 95% CI −0.4…+0.6: not shown with 3 seeds", "seeds would show a gain of this size"
    assert low.words == f"{begin}; about {low.seeds_needed} {end}"
    assert not low.shown
    assert low.seeds_needed > 3
    assert {d.metric for d in comparison.differences} == {"mAP50-95", "mAP50", "official AP"}


def test_the_readme_shows_what_is_printed(study):
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## Comparing runs") : readme.index("## Numbers")]
    comparison = compare(study)
    for arm in ("frozen", "low-lr"):
        assert f"{arm:<6}  {verdict(comparison, arm).words}\n" in section
    for parameter in cli.commands["compare"].params:
        option = parameter.opts[0]
        assert option in ("runs", "--debug") or f"`{option}" in section or f", `{option}" in section, option


def test_a_loss_is_called_one(study):
    words = verdict(compare(study, baseline="frozen"), "random").words
    assert words == "−0.9 mAP, 95% CI −1.2…−0.6: a loss, shown with 3 seeds (p = 0.012)"


def test_what_only_several_arms_hide_is_said(tmp_path):
    gains = {"base": (0, 0, 0), "x": (0.010, 0.016, 0.010), "y": (0.011, 0.0, 0.02), "z": (0.0, 0.012, -0.01)}
    noise = (0.0, 0.003, 0.001)
    for arm, offsets in gains.items():
        for seed, offset in enumerate(offsets):
            top, rate = 0.3 + offset + noise[seed], 0.01 * (1 + list(gains).index(arm))
            write_run(tmp_path / arm / f"seed{seed}", [0.1, top], seed=seed, lr0=rate, seconds=1000 * rate)
    comparison = compare(*(tmp_path / arm for arm in gains))
    found = verdict(comparison, "x")
    assert found.p_value < 0.05 < found.p_adjusted
    assert not found.shown
    assert re.search(
        r"not shown with 3 seeds once 3 arms are accounted for \(p = 0\.\d+\); about \d+ seeds", found.words
    )
    assert found.seeds_needed > 3


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


def test_one_arm_has_no_difference(study):
    comparison = compare(study / "random")
    assert [arm.name for arm in comparison.arms] == ["random"]
    assert comparison.baseline is None
    assert comparison.differences == ()
    assert any("only one arm" in note for note in comparison.notes)


def test_the_baseline_by_name_run_or_folder(study):
    for wanted in ("low-lr", study / "low-lr", study / "low-lr" / "seed1", study / "low-lr" / "seed1/weights/best.pt"):
        assert compare(study, baseline=wanted).baseline == "low-lr"
    error = refusal(study, baseline="low-rl")
    assert "Did you mean 'low-lr'" in error
    assert "random, frozen, low-lr" in error


# ---- differences -----------------------------------------------------------------------------------------------------


def test_two_seeds_in_common_are_paired_else_welch(tmp_path):
    def arms(name: str, first: Sequence[int], second: Sequence[int]) -> RunComparison:
        for arm, seeds in (("a", first), ("b", second)):
            for i, seed in enumerate(seeds):
                value = 0.3 + 0.001 * i * i + 0.01 * (arm == "b") + 0.002 * seed
                write_run(tmp_path / name / arm / f"seed{seed}", [0.1, value], seed=seed)
        return compare(tmp_path / name)

    paired, unpaired = arms("p", (0, 1, 2), (1, 2, 3)), arms("u", (0, 1, 2), (3, 4, 5))
    assert verdict(paired, "b").paired
    assert verdict(paired, "b").interval.n == 2
    assert any("over the seeds that both have (1, 2)" in note for note in paired.notes)
    assert not verdict(unpaired, "b").paired
    a, b = ([*arm.points["mAP50-95"]] for arm in unpaired.arms)
    ends = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert verdict(unpaired, "b").interval.low == pytest.approx(ends.low)


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
    comparison = compare(*pair())
    assert verdict(comparison, "b").words == (
        "+1.0 mAP: one run per arm shows nothing, since another seed may move it as far; train with three or more seeds"
    )
    assert math.isnan(verdict(comparison, "b").interval.low)
    assert verdict(comparison, "b").seeds_needed is None


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((-0.001, 0.017), "+0.8 mAP, 95% CI −0.1…+1.7: not"),
        ((0.0004, 0.017), "+0.87 mAP, 95% CI +0.04…+1.70: a gain"),  # with one digit its end would be 0.0
        ((-0.0007, -0.0003), "−0.05 mAP, 95% CI −0.07…−0.03: a loss"),
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
    comparison = compare(tmp_path)
    nothing = "which leaves no spread to judge it by; does the seed have any effect?"
    assert verdict(comparison, "b").words == f"+10.0 mAP: the same in all 3 seeds, {nothing}"
    assert verdict(comparison, "c").words == "0.0 mAP: no difference in any of 3 seeds"
    assert any("a and b have the same settings" in note for note in comparison.notes)


# ---- runs that are not finished ------------------------------------------------------------------------------------


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
    comparison = compare(*pair(first, {"curve": [0.1, 0.3], "planned": 4}))
    assert [arm.points["mAP50-95"] for arm in comparison.arms] == [(0.2,), (0.3,)]
    assert comparison.official == {}  # best.pt is of a later epoch
    assert any(note.startswith("provisional: not finished are b (2 of 4 epochs)") for note in comparison.notes)
    assert max(t.epochs for t in comparison.targets if t.reached) <= 2


def test_a_run_that_ended_early_counts_and_is_named(pair):
    second = {"curve": [0.1, 0.3, 0.2, 0.2], "planned": 9, "stock": True, "patience": 2}
    comparison = compare(*pair({"curve": [0.1] * 8 + [0.4]}, second))
    assert comparison.arms[1].points["mAP50-95"] == (0.3,)
    assert "b ended early, at epoch 4 of 9" in comparison.notes


def test_a_seed_of_a_study_that_has_not_begun_is_left_out(study):
    (study / "random" / "seed2" / "results.csv").unlink()
    comparison = compare(study)
    assert comparison.arms[0].seeds == (0, 1)
    assert "random/seed2 has no finished epoch yet and is left out" in comparison.notes


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_runs_without_results_and_what_is_no_run_all_at_once(tmp_path, pair):
    a, b = pair()
    (b / "results.csv").unlink()
    error = refusal(a, b, tmp_path / "nowhere")
    assert "2 mistakes" in error
    assert f"{b}: a run without results" in error
    assert f"{tmp_path / 'nowhere'}: no run" in error


def test_the_same_run_twice_and_a_copy(tmp_path, pair):
    a, b = pair()
    assert f"{a} is given twice" in refusal(a, b, a)
    shutil.copytree(a, tmp_path / "copy")
    assert "are the same run" in refusal(a, tmp_path / "copy")


def test_damaged_files_are_named(pair):
    a, b = pair()
    (b / "results.csv").write_text("epoch,time\n1,abc\n")
    assert f"{b / 'results.csv'}: line 2" in refusal(a, b)


def test_a_damaged_study_file_or_data_set_is_named(study, tmp_path, pair):
    (study / "study.yaml").write_text("- arms\n")
    assert "study.yaml: damaged. Expected 'name: value' lines, found list" in refusal(study)
    (tmp_path / "d.yaml").write_text("names: [")
    assert f"{tmp_path / 'd.yaml'}: damaged" in refusal(*pair(data=str(tmp_path / "d.yaml")))


def test_a_line_cut_off_is_noted(pair):
    a, b = pair({"planned": 4}, {"planned": 4})
    with (b / "results.csv").open("a") as file:
        file.write("4,40,0.")
    assert "b: results.csv: its last line is cut off and was left out" in compare(a, b).notes


def test_options_that_cannot_be(study):
    error = refusal(study, metric="mAP5095", at="end")
    assert "2 mistakes" in error
    assert "'mAP50-95'" in error
    assert "at must be best or last" in error
    assert "official AP" in refusal(study, metric="official AP", at="last")
    assert "found 35" in refusal(study, targets=[0.1, 35])
    assert "nothing to compare" in refusal()


def test_a_metric_that_runs_lack(pair, study):
    a, b = pair({"ap": 0.3})
    assert f"no official AP in {b}" in refusal(a, b, metric="official AP")
    assert compare(a, b).metrics == ("mAP50-95", "mAP50")
    assert "val=False" in refusal(a, b, metric="recall")


# ---- beside mAP ------------------------------------------------------------------------------------------------------


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
    comparison = compare(tmp_path / "a", tmp_path / "b")
    classes = {c.name: c for c in comparison.class_differences}
    assert set(classes) == {"cat", "dog"}
    assert (classes["cat"].baseline_ap, classes["cat"].arm_ap) == pytest.approx((0.45, 0.55))
    assert classes["dog"].difference == pytest.approx(-0.1)
    assert classes["cat"].objects == 10
    assert comparison.official["a"]["AP"].estimate == pytest.approx(0.25)
    assert "AP_small" not in comparison.official["a"]  # no small object


def test_provenance(study):
    facts = compare(study).provenance
    assert len(facts) == 9
    assert facts[0]["run"] == "random/seed0"
    assert facts[0]["state"] == "finished: 6 of 6 epochs"
    assert facts[0]["training time (s)"] == 60
    assert facts[0]["versions"] == "kdyolo 0.1.0, ultralytics 8.4.190"


def test_the_method_is_named_and_cited(study):
    comparison = compare(study)
    for name in ("Student 1908", "Welch 1947", "Holm 1979", "Cohen 1988", "SciPy"):
        assert name in comparison.method
        assert name in comparison.to_markdown()


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "start"),
    [("table", "does-it-help"), ("md", "# does-it-help"), ("json", "{"), ("csv", "arm,baseline,seed")],
)
def test_the_command_prints_what_was_asked_for(study, form, start):
    result = CliRunner().invoke(cli, ["compare", str(study), "--format", form])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(start)
    assert result.stdout.endswith("\n")


def test_the_command_writes_the_report(study, tmp_path):
    result = CliRunner().invoke(cli, ["compare", str(study), "--out", "report", "--format", "json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["title"] == "does-it-help"
    assert "shown with 3 seeds" in (tmp_path / "report" / "report.html").read_text()


def test_options_of_the_command_arrive(study):
    arguments = [
        "--baseline",
        "frozen",
        "--metric",
        "mAP50",
        "--at",
        "last",
        "--targets",
        "0.2,0.25",
        "--format",
        "json",
    ]
    content = json.loads(CliRunner().invoke(cli, ["compare", str(study), *arguments]).stdout)
    assert (content["baseline"], content["metric"], content["at"]) == ("frozen", "mAP50", "last")
    assert {target["value"] for target in content["targets"]} == {0.2, 0.25}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 1, "nowhere: no run"),
        (["a", "b"], 1, "imgsz differs: 32 (a); 64 (b)"),
        (["a", "--targets", "much"], 2, "--targets: expected numbers"),
        (["a", "--metric", "speed"], 2, "no metric 'speed'"),
        (["a", "--baseline", "c"], 2, "baseline c is none of the arms"),
    ],
)
def test_mistakes_end_the_command_with_one_message(tmp_path, capsys, pair, arguments, code, words):
    pair({"imgsz": 32}, {"imgsz": 64})
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments, "--out", "report"])
    assert end.value.code == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "report").exists()


def test_comparing_needs_no_torch(study):
    code = (
        "import sys, kdyolo\n"
        f"comparison = kdyolo.compare({str(study)!r})\n"
        "comparison.table(), comparison.to_markdown(), comparison.to_csv()\n"
        "assert not {'torch', 'ultralytics', 'matplotlib', 'plotly'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_run_that_training_left(train, tmp_path):
    for seed in (0, 1):
        for arm, freeze in (("thawed", 0), ("frozen", 1)):
            train(work_dir=tmp_path / arm / f"seed{seed}", seed=seed, freeze_epochs=freeze)
    comparison = compare(tmp_path / "thawed", tmp_path / "frozen")
    assert comparison.unlike == ()
    assert comparison.differing == {"freeze_epochs": {"thawed": 0, "frozen": 1}}
    assert "official AP" in comparison.metrics
    assert [p.phase for p in comparison.phases] == ["all train", "backbone frozen", "all train"]
    assert all(p.memory_gb > 0 and p.seconds_per_epoch > 0 for p in comparison.phases)
