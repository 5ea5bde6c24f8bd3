"""Runs as bytes, as they travel between machines of a Ray cluster; the cluster itself is in ``tests/system``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kdyolo.data.training_subset import LabelSubset
from kdyolo.errors import ConfigError
from kdyolo.experiments.study import ray_backend
from kdyolo.experiments.study.ray_backend import PROGRESS, RayBackend, pack, unpack
from kdyolo.experiments.study.study_run import StudyRun
from tests.builders.run_folders import write_run


@pytest.fixture
def run(tmp_path: Path) -> StudyRun:
    arm: Any = SimpleNamespace(name="a", options={}, ultralytics={"epochs": 3})
    here = StudyRun(arm, 0, tmp_path / "here" / "a" / "seed0")
    write_run(here.folder, [0.1], planned=3)
    here.log.write_text("first\n")
    (here.folder / "weights" / "best.pt.partial").touch()
    return here


def files(run: StudyRun) -> set[str]:
    return {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}


def test_a_whole_run_replaces_what_was_there_and_adds_to_the_log(run, tmp_path):
    there = replace(run, folder=tmp_path / "there" / "a" / "seed0")
    (there.folder / "weights").mkdir(parents=True)
    (there.folder / "weights" / "gone.pt").touch()
    there.log.write_text("before\n")
    unpack(pack(run), there)
    assert files(there) == files(run) - {"weights/best.pt.partial"}
    assert there.log.read_text() == "before\nfirst\n"


def test_progress_alone_leaves_all_other_files(run, tmp_path):
    there = replace(run, folder=tmp_path / "there" / "a" / "seed0")
    there.folder.mkdir(parents=True)
    (there.folder / "kept.pt").touch()
    unpack(pack(run, PROGRESS), there)
    assert files(there) == {*PROGRESS, "kept.pt"}
    assert not there.log.exists()


def test_devices_that_need_different_things_are_refused(tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="all entries need the same"):
        RayBackend(["0", "1,2"], tmp_path)


@pytest.fixture
def elsewhere(run: StudyRun, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyRun:
    """A run with half of the labels, on a machine that has the data but not the study's folder."""
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    return replace(run, subset=LabelSubset(shapes, 0.5, 0, tmp_path / "study/@labels/50%/seed0"))


def train_elsewhere(run: StudyRun) -> tuple[int, bytes | None]:
    return ray_backend._train(run, "no token", False, [], [], None)


def test_a_machine_without_the_studys_folder_links_its_own_images(elsewhere, monkeypatch):
    monkeypatch.setattr(ray_backend, "_watch", lambda run, *_, **__: int(not Path(run.data).is_file()))
    code, _ = train_elsewhere(elsewhere)
    assert code == 0
    assert len(list((elsewhere.subset.folder / "images/train").iterdir())) == 4


def test_a_machine_that_cannot_link_them_is_one_error_in_the_runs_log(elsewhere, tmp_path):
    (tmp_path / "study").write_text("a file where the folder should be")
    code, files = train_elsewhere(elsewhere)
    assert code == 1
    unpack(files, elsewhere)
    assert "@labels/50%/seed0: cannot be made" in elsewhere.log.read_text().splitlines()[-1]
