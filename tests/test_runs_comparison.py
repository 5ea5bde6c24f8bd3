"""``kdyolo compare`` and ``compare()``: arms, likeness, differences in words, tables."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import CHECKOUT
from run_files import write_run
from scipy import stats

from kdyolo import compare
from kdyolo.cli import cli, main
from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.arms import Arm
from kdyolo.runs.comparison import Comparison
from kdyolo.runs.differences import find_differences
from kdyolo.runs.run_settings import STOCK
from kdyolo.runs.statistics import mean_interval
from kdyolo.settings import Settings

OFFSETS = {"random": (0.0, 0.004, -0.002), "frozen": (0.010, 0.012, 0.006), "low-lr": (0.001, 0.003, 0.001)}


def curve(top: float, epochs: int = 6) -> list[float]:
    """mAP50-95 that rises to its highest value in the last epoch but one."""
    return [round(top * (1 - 0.5**e), 5) for e in range(1, epochs - 1)] + [top, round(top * 0.99, 5)]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three arms with three seeds each, at mAP50-95 0.3 and a little more."""
    root = tmp_path / "studies" / "does-it-help"
    for arm, offsets in OFFSETS.items():
        for seed, offset in enumerate(offsets):
            own = {"freeze": 3, "settings": {"random_init": False, "backbone": "ckpt.pth"}} if arm == "frozen" else {}
            own = {"settings": {"backbone_lr": 0.1}} if arm == "low-lr" else own
            top, seconds = round(0.3 + offset, 5), 10 + seed
            write_run(root / arm / f"seed{seed}", curve(top), seed=seed, seconds=seconds, ap=top - 0.01, **own)
    content = {"name": "does-it-help", "baseline": "random", "arms": {"random": {}, "frozen": {}, "low-lr": {}}}
    (root / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return root


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """``pair(first={}, second={}, **both)`` → two runs that also differ in their learning rate."""

    def write(first: dict | None = None, second: dict | None = None, **both: object) -> tuple[Path, Path]:
        a = write_run(tmp_path / "a", **{"curve": [0.1, 0.2, 0.3], "lr0": 0.01, **both, **(first or {})})
        b = write_run(tmp_path / "b", **{"curve": [0.1, 0.25, 0.31], "lr0": 0.02, **both, **(second or {})})
        return a, b

    return write


def refusal(*runs: Path, **how: object) -> str:
    with pytest.raises((RunError, ConfigError)) as error:
        compare(*runs, **how)
    return str(error.value)


def verdict(comparison: Comparison, arm: str, metric: str = "mAP50-95"):
    return next(d for d in comparison.differences if (d.arm, d.metric) == (arm, metric))


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


# ---- runs → arms -----------------------------------------------------------------------------------------------------


def test_loose_runs_that_differ_in_their_seed_are_one_arm(tmp_path):
    runs = []
    for seed in (0, 1):
        for name, rate in (("slow", 0.01), ("fast", 0.02)):
            folder = tmp_path / f"{name}-s{seed}"
            runs.append(write_run(folder, [0.1, 0.2 + 0.01 * seed + rate], seed=seed, lr0=rate, device=str(seed)))
    comparison = compare(*runs)
    assert [(arm.name, arm.seeds) for arm in comparison.arms] == [("slow", (0, 1)), ("fast", (0, 1))]
    assert set(comparison.differing) == {"lr0", "device"}
    assert comparison.differing["lr0"] == {"slow": 0.01, "fast": 0.02}
    assert comparison.differing["device"] == {"slow": ["0", "1"], "fast": ["0", "1"]}
    assert comparison.equal["imgsz"] == 64
    assert "save_dir" not in comparison.equal


def test_stock_runs_beside_kdyolos(tmp_path):
    stock = write_run(tmp_path / "stock", [0.1, 0.2], stock=True)
    ours = write_run(tmp_path / "ours", [0.1, 0.3], freeze=1)
    comparison = compare(stock, ours / "weights" / "best.pt")
    assert comparison.differing["trained by"] == {"stock": "ultralytics", "ours": "kdyolo"}
    assert [p.phase for p in comparison.phases] == ["all train", "backbone frozen", "all train"]
    assert comparison.equal["resize"] == "letterbox"
    assert set(comparison.differing) == {"trained by", "freeze_epochs", "random_init"}


def test_stock_training_is_that_with_every_option_off():
    options = Settings().to_dict()
    assert {name: value for name, value in options.items() if name not in ("recipe", "work_dir")} == STOCK


@pytest.mark.parametrize(
    ("names", "arm"),
    [
        (("lots0", "lots1"), "lots"),
        (("frozen50_seed0", "frozen50_seed1"), "frozen50"),
        (("a", "b"), "a + b"),
        (("train", "train-2"), "train"),
    ],
)
def test_an_arm_is_named_by_what_its_folders_share(tmp_path, names, arm):
    runs = [write_run(tmp_path / name, [0.1, 0.2 + seed / 9], seed=seed) for seed, name in enumerate(names)]
    assert [found.name for found in compare(*runs).arms] == [arm]


def test_seeds_that_stock_ultralytics_resumed(tmp_path):
    resumed = {
        "model": "runs/x/weights/last.pt",
        "resume": "runs/x/weights/last.pt",
        "optimizer": "AdamW",
        "lr0": 0.002,
    }
    for place in ("{}-s{}", "{}/seed{}"):
        for seed, args in ((0, {"optimizer": "auto"}), (1, resumed)):
            write_run(tmp_path / place.format("arm", seed), [0.1, 0.2 + seed / 9], stock=True, seed=seed, **args)
    loose, placed = compare(tmp_path / "arm-s0", tmp_path / "arm-s1"), compare(tmp_path / "arm")
    assert [arm.seeds for arm in loose.arms] == [(0,), (1,)]
    assert loose.differing["model"]["arm-s1"] == "not recorded"
    assert any("arm-s1 was resumed by stock Ultralytics" in note for note in loose.notes)
    assert [arm.seeds for arm in placed.arms] == [(0, 1)]
    assert not any("resumed" in note for note in placed.notes)


def test_arms_of_one_name_are_told_apart(tmp_path):
    runs = [write_run(tmp_path / above / "train", [0.1, v], lr0=v) for above, v in (("x", 0.2), ("y", 0.3))]
    assert [arm.name for arm in compare(*runs).arms] == ["x/train", "y/train"]


def test_one_backbone_at_two_places_is_one_arm(tmp_path):
    runs = []
    for seed in (0, 1):
        run = write_run(
            tmp_path / f"r-{seed}", [0.1, 0.2 + seed / 100], seed=seed, settings={"backbone": f"{seed}/b.pth"}
        )
        record = yaml.safe_load((run / "kdyolo.yaml").read_text())
        record["backbone"] = {"path": f"{seed}/b.pth", "sha256": "5b7c" * 16, "matched": 162, "total": 162}
        (run / "kdyolo.yaml").write_text(yaml.safe_dump(record))
        runs.append(run)
    comparison = compare(*runs)
    assert len(comparison.arms) == 1
    assert comparison.equal["backbone"] == "b.pth (SHA-256 5b7c5b7c5b7c…)"
    assert comparison.provenance[0]["backbone tensors"] == "162/162"


def test_two_seeds_in_common_are_paired_else_welch(tmp_path):
    def arms(name: str, first: Sequence[int], second: Sequence[int]) -> Comparison:
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


# ---- like for like ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"imgsz": 64}, {"imgsz": 96}, ["imgsz differs: 64 (a); 96 (b)"]),
        ({"curve": [0.1] * 4}, {"curve": [0.1] * 5}, ["epochs differs: 4 (a); 5 (b)"]),
        ({"settings": {"resize": "stretch"}}, {}, ["resize differs: stretch (a); letterbox (b)"]),
        ({"settings": {"resize": "stretch"}}, {"stock": True}, ["resize differs: stretch (a); letterbox (b)"]),
        ({"data": "coco8.yaml"}, {"data": "coco128.yaml"}, ["the data set differs: coco8.yaml (a); coco128.yaml (b)"]),
        ({"single_cls": True}, {}, ["single_cls differs: True (a); False (b)"]),
        ({"split": "test"}, {}, ["split differs: test (a); val (b)"]),
        ({"fraction": 0.5}, {"fraction": 1}, ["fraction differs: 0.5 (a); 1 (b)"]),
        ({"imgsz": 32, "iou": 0.5}, {"imgsz": 64, "iou": 0.7}, ["imgsz differs", "iou differs: 0.5 (a); 0.7 (b)"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_like_for_like_is_refused_unless_asked_for(pair, first, second, words):
    runs = pair(first, second)
    error = refusal(*runs)
    assert all(word in error for word in [*words, "--anyway", "not like for like"]), error
    comparison = compare(*runs, anyway=True)
    assert len(comparison.unlike) == len(words)
    for shown in (comparison.table(), comparison.to_markdown()):
        assert "LIKE FOR LIKE" in shown.upper()
    assert comparison.to_dict()["unlike"] == list(comparison.unlike)


def test_what_may_differ_is_not_refused(pair):
    comparison = compare(
        *pair({"batch": 8, "device": "0", "fraction": 1}, {"batch": 16, "workers": 2, "fraction": 1.0})
    )
    assert comparison.unlike == ()
    assert {"batch", "device", "workers", "lr0"} == set(comparison.differing)


def test_settings_that_differ_within_an_arm_of_a_study_are_refused(study):
    args = yaml.safe_load((study / "frozen" / "seed1" / "args.yaml").read_text())
    (study / "frozen" / "seed1" / "args.yaml").write_text(yaml.safe_dump({**args, "lr0": 0.5}))
    error = refusal(study)
    assert "within the arm 'frozen', lr0 differs: 0.01 (frozen/seed0, frozen/seed2); 0.5 (frozen/seed1)" in error


def test_a_seed_twice_is_no_other_seed(pair):
    error = refusal(*pair({"lr0": 0.01}, {"lr0": 0.01}))
    assert "seed 0 occurs twice (a, b)" in error


def dataset(folder: Path, names: Sequence[str] = ("cat", "dog"), annotations: str | None = None) -> Path:
    folder.mkdir()
    content = {"path": str(folder), "train": "train.txt", "val": "val.txt", "names": dict(enumerate(names))}
    if annotations is not None:
        content["annotations"] = {"train": "ann.json", "val": "ann.json"}
        (folder / "ann.json").write_text(annotations)
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def test_data_are_told_by_what_is_in_them(tmp_path, pair):
    one, copy = dataset(tmp_path / "one", annotations="{}"), dataset(tmp_path / "copy", annotations="{}")
    (one.parent / "again.yaml").write_text(one.read_text())
    runs = pair({"data": str(one)}, {"data": str(copy)})
    assert compare(*runs).unlike == ()  # at another place, the same annotations
    args = yaml.safe_load((runs[1] / "args.yaml").read_text())

    def with_data(path: Path) -> tuple[Path, Path]:
        (runs[1] / "args.yaml").write_text(yaml.safe_dump({**args, "data": str(path)}))
        return runs

    assert compare(*with_data(one.parent / "again.yaml")).unlike == ()  # another name, the same place
    for name, change in (("names", {"names": ["cat", "cow"]}), ("boxes", {"annotations": '{"a": 1}'}), ("bare", {})):
        other = dataset(tmp_path / name, **{"annotations": "{}" if name == "names" else None, **change})
        assert "the data set differs" in refusal(*with_data(other))


def test_a_data_set_named_from_where_the_run_was_started(tmp_path, pair, monkeypatch):
    data = dataset(tmp_path / "data")
    write = {"path": "elsewhere", "names": ["cat"], "train": "images", "val": "images"}  # in Ultralytics' own folder
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "d.yaml").write_text(yaml.safe_dump(write))
    runs = pair({"data": "data/data.yaml"}, {"data": str(data)})
    monkeypatch.chdir("/")
    assert compare(*runs).unlike == ()
    for run, name in zip(runs, ("one", "two"), strict=True):
        args = yaml.safe_load((run / "args.yaml").read_text())
        (run / "args.yaml").write_text(yaml.safe_dump({**args, "data": str(tmp_path / name / "d.yaml")}))
    assert compare(*runs).unlike == ()


def test_official_metrics_of_other_images_are_noticed(pair):
    runs = pair(ap=0.3, per_class={"cat": 0.3})
    scores = json.loads((runs[1] / "coco_metrics.json").read_text())
    (runs[1] / "coco_metrics.json").write_text(json.dumps({**scores, "images": 5}))
    assert "4 images with 10 objects (a); 5 images with 10 objects (b)" in refusal(*runs)


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


# ---- as data, as text ------------------------------------------------------------------------------------------------


def test_frames(study):
    comparison = compare(study)
    runs = comparison.to_frame()
    assert len(runs) == 9
    assert runs.groupby("arm")["mAP50-95"].mean()["random"] == pytest.approx(
        comparison.arms[0].values["mAP50-95"].estimate
    )
    assert runs["seed"].tolist() == [0, 1, 2] * 3
    differences = comparison.differences_frame()
    assert len(differences) == 6
    assert differences.loc[0, "words"] == comparison.differences[0].words
    assert list(compare(study / "random").differences_frame().columns) == list(differences.columns)


def test_json_and_csv_say_the_same(study):
    comparison = compare(study)
    content = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert content["arms"][0]["values"]["mAP50-95"]["estimate"] == pytest.approx(0.30066667)
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert [float(row["mAP50-95"]) for row in rows[:3]] == [0.3, 0.304, 0.298]


NASTY = 'a|b\n<script>alert(1)</script> `x` *y* [z](u) \\ \x1b[31m,"q"'


def test_names_are_shown_not_obeyed(tmp_path):
    folder = 'a|b <i> *x*,"q"\x1b'
    arms = (tmp_path / folder, tmp_path / "plain")
    for arm, value in zip(arms, (0.2, 0.3), strict=True):
        for seed in (0, 1):
            top = value + seed / 100
            write_run(arm / f"seed{seed}", [0.1, top], seed=seed, ap=top, per_class={NASTY: top})
    comparison = compare(*arms)
    text, md = comparison.table(), comparison.to_markdown()
    assert "\x1b" not in text + md
    assert "a|b\\n<script>" in text
    assert "<script>" not in md
    row = next(line for line in md.splitlines() if "script" in line)
    assert row.count("|") == 7  # six cells and their borders
    for sign in ("\\`x\\`", "\\*y\\*", "\\[z\\]", "\\\\ ", "a&#124;b"):
        assert sign in row
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert [row["arm"] for row in rows] == [folder, folder, "plain", "plain"]
    assert json.loads(json.dumps(comparison.to_dict()))["class_differences"][0]["name"] == NASTY


def test_columns_stand_below_each_other(study):
    lines = compare(study).table().splitlines()
    start = lines.index(next(line for line in lines if line.startswith("mAP50-95, best epoch")))
    table = lines[start + 1 : start + 5]
    assert len({len(line) for line in table}) == 1
    assert table[1].split()[:4] == ["random", "(baseline)", "3", "0.301"]


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
