"""Distillations that backbones come from: told with their proof, where the file is still the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from kdyolo.experiments.compare import compare_runs
from kdyolo.utils.hashing import sha256_of_file
from tests.builders.run_folders import write_run

COLUMNS = {"cosine": 0.6, "floor": 0.1, "rank": 20.0, "dead": 0.0}


def write_distillation(folder: Path) -> Path:
    """A distillation's run folder without the distilling."""
    folder.mkdir(parents=True)
    settings = {"task": "distill", "teacher": "resnet18", "teacher_licence": "apache-2.0", "taps": "p3:layer2"}
    record = {"settings": {**settings, "train_images": 1234}, "schedule": {"epochs": 2}}
    (folder / "kdyolo.yaml").write_text(yaml.safe_dump(record))
    (folder / "args.yaml").write_text(yaml.safe_dump({"task": "distill", "epochs": 2}))
    rows = [",".join(["epoch", "time", "val/loss", *(f"{name}/P3" for name in COLUMNS)])]
    rows += [",".join(map(str, [epoch, 40 * epoch, 1 / epoch, *COLUMNS.values()])) for epoch in (1, 2)]
    (folder / "results.csv").write_text("\n".join(rows) + "\n")
    cv2.imwrite(str(folder / "features.png"), np.zeros((20, 2000, 3), np.uint8))
    (folder / "backbone.safetensors").write_bytes(b"backbone")
    return folder / "backbone.safetensors"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two arms with two seeds, one of which starts from a distilled backbone."""
    root = tmp_path / "study"
    backbone = write_distillation(root / "@backbones" / "resnet18-n")
    for seed in (0, 1):
        write_run(root / "random" / f"seed{seed}", [0.1, 0.2], seed=seed, seconds=5 + seed)
        run = write_run(root / "frozen" / f"seed{seed}", [0.1, 0.25 + seed / 100], seed=seed, lr0=0.02)
        record: dict[str, Any] = yaml.safe_load((run / "kdyolo.yaml").read_text())
        record["backbone"] = {"path": str(backbone), "sha256": sha256_of_file(backbone)}
        (run / "kdyolo.yaml").write_text(yaml.safe_dump(record))
    return root


def test_teacher_time_and_proof_are_told_apart_from_the_arms(study: Path, tmp_path: Path) -> None:
    comparison = compare_runs(study)
    (found,) = comparison.distillations
    assert (found.arms, found.teacher, found.images, found.epochs, found.seconds) == (
        *(("frozen",), "resnet18", 1234, 2, 80.0),
    )
    assert (found.cosines, found.floors) == ({"P3": 0.6}, {"P3": 0.1})
    assert found.verdict.startswith("learned (P3 centred cosine 0.60 (position alone 0.10)")
    assert comparison.to_frame()["seconds"].max() < 80
    assert "distillations (their time is in none of the arms' own)" in comparison.table()
    page = comparison.write_report(tmp_path / "report").read_text(encoding="utf-8")
    assert '<section id="distillations">' in page
    assert "data:image/jpeg;base64" in page


def test_it_is_found_in_a_study_that_was_moved(study: Path, tmp_path: Path) -> None:
    moved = study.rename(tmp_path / "elsewhere")
    assert [d.teacher for d in compare_runs(moved).distillations] == ["resnet18"]


def test_another_file_in_its_place_is_not_taken_for_it(study: Path) -> None:
    (study / "@backbones" / "resnet18-n" / "backbone.safetensors").write_bytes(b"another")
    assert compare_runs(study).distillations == ()
