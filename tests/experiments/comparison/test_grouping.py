"""Which runs are one arm, and what it is called."""

from __future__ import annotations

import shutil

import pytest
import yaml

from kdyolo import compare
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.experiments.comparison.run_settings import STOCK
from tests.builders.run_folders import write_run
from tests.builders.studies import compare_to_first, refusal


def test_loose_runs_that_differ_in_their_seed_are_one_arm(tmp_path):
    runs = []
    for seed in (0, 1):
        for name, rate in (("slow", 0.01), ("fast", 0.02)):
            folder = tmp_path / f"{name}-s{seed}"
            runs.append(write_run(folder, [0.1, 0.2 + 0.01 * seed + rate], seed=seed, lr0=rate, device=str(seed)))
    comparison = compare_to_first(*runs)
    assert [(arm.name, arm.seeds) for arm in comparison.arms] == [("slow", (0, 1)), ("fast", (0, 1))]
    assert set(comparison.differing) == {"lr0", "device"}
    assert comparison.differing["lr0"] == {"slow": 0.01, "fast": 0.02}
    assert comparison.differing["device"] == {"slow": ["0", "1"], "fast": ["0", "1"]}
    assert comparison.equal["imgsz"] == 64
    assert "save_dir" not in comparison.equal


def test_stock_runs_beside_kdyolos(tmp_path):
    stock = write_run(tmp_path / "stock", [0.1, 0.2], stock=True)
    ours = write_run(tmp_path / "ours", [0.1, 0.3], freeze=1)
    comparison = compare_to_first(stock, ours / "weights" / "best.pt")
    assert comparison.differing["trained by"] == {"stock": "ultralytics", "ours": "kdyolo"}
    assert [p.phase for p in comparison.phases] == ["all train", "backbone frozen", "all train"]
    assert comparison.equal["resize"] == "letterbox"
    assert set(comparison.differing) == {"trained by", "freeze_epochs", "random_init"}


def test_stock_training_is_that_with_every_option_off():
    options = TrainOptions().to_dict()
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
    assert [found.name for found in compare_to_first(*runs).arms] == [arm]


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
    assert [arm.name for arm in compare_to_first(*runs).arms] == ["x/train", "y/train"]


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
    comparison = compare_to_first(*runs)
    assert len(comparison.arms) == 1
    assert comparison.equal["backbone"] == "b.pth (SHA-256 5b7c5b7c5b7c…)"
    assert comparison.provenance[0]["backbone tensors"] == "162/162"


def test_a_seed_of_a_study_that_has_not_begun_is_left_out(study):
    (study / "random" / "seed2" / "results.csv").unlink()
    comparison = compare(study)
    assert comparison.arms[0].seeds == (0, 1)
    assert "random/seed2 has no finished epoch yet and is left out" in comparison.notes


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
