"""The scheduler of a study with a backend of its own: places, order, one more attempt, failures, Ctrl-C."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from kdyolo.errors import RunError
from kdyolo.experiments.study import scheduler
from kdyolo.experiments.study.live_table import LiveTable
from kdyolo.experiments.study.scheduler import Failure, drive
from kdyolo.experiments.study.study_run import StudyRun
from tests.builders.run_folders import write_run


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(scheduler, "TICK", 0.0)


class Job:
    """A run that ends at the second look, with an exit code and with what it leaves in its folder."""

    def __init__(self, backend: Scripted, code: int, leave: Callable[[], Any]) -> None:
        self.backend, self.code, self.leave, self.looks, self.stopped = backend, code, leave, 0, False

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks < 2:
            return None
        self.leave()
        self.backend.at_work -= 1
        return self.code

    def stop(self) -> None:
        self.stopped = True


class Scripted:
    """A backend whose runs do what a script says: name → (exit code, epochs that are done then) for each attempt."""

    def __init__(self, script: dict[str, list[tuple[int, int]]], places: Sequence[str] = ("here",)) -> None:
        self.places, self.script = places, {name: list(attempts) for name, attempts in script.items()}
        self.started: list[tuple[str, str]] = []
        self.jobs: list[Job] = []
        self.at_work = self.most = 0

    def start(self, run: StudyRun, place: int) -> Job:
        self.started.append((run.name, self.places[place]))
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        code, done = self.script[run.name].pop(0)
        self.jobs.append(Job(self, code, lambda: self._leave(run, done)))
        return self.jobs[-1]

    def _leave(self, run: StudyRun, done: int) -> None:
        for path in sorted(run.folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for path in (run.folder / "weights", run.folder):
            if path.exists():
                path.rmdir()
        write_run(run.folder, [0.1] * done, planned=3)
        if 0 < done < 3:  # else resumable() finds nothing to resume from
            (run.folder / "weights" / "resume.pt").write_bytes(b"state")
            (run.folder / "weights" / "last.pt").touch()

    def close(self) -> None:
        """Nothing is held."""


def run_of(root: Path, name: str) -> StudyRun:
    arm: Any = SimpleNamespace(name=name, options={}, ultralytics={"epochs": 3})
    return StudyRun(arm, 0, root / name / "seed0")


def driven(root: Path, backend: Scripted) -> list[Failure]:
    runs = [run_of(root, name.partition("/")[0]) for name in backend.script]
    table = LiveTable("", {run.name: run.folder for run in runs}, Console(file=io.StringIO()))
    return drive(runs, backend, table)


def test_one_run_at_a_time_in_each_place_in_order(tmp_path):
    backend = Scripted({f"{arm}/seed0": [(0, 3)] for arm in "abc"}, ("one", "two"))
    assert driven(tmp_path, backend) == []
    assert backend.started[:2] == [("a/seed0", "one"), ("b/seed0", "two")]
    assert [name for name, _ in backend.started] == ["a/seed0", "b/seed0", "c/seed0"]
    assert backend.most == 2


def test_what_is_finished_is_not_started(tmp_path):
    write_run(tmp_path / "a" / "seed0")
    backend = Scripted({"a/seed0": [], "b/seed0": [(0, 3)]})
    assert driven(tmp_path, backend) == []
    assert [name for name, _ in backend.started] == ["b/seed0"]


def test_a_run_that_was_killed_after_it_got_further_is_resumed_once(tmp_path):
    backend = Scripted({"a/seed0": [(-9, 1), (-9, 2)], "b/seed0": [(0, 3)]})
    (failure,) = driven(tmp_path, backend)
    assert [name for name, _ in backend.started] == ["a/seed0", "a/seed0", "b/seed0"]
    assert failure.reason == "killed by signal 9"
    assert "resumed on here" in (tmp_path / "a" / "seed0.log").read_text()


@pytest.mark.parametrize(
    ("code", "done", "reason"),
    [
        (130, 1, "stopped from outside; the next call goes on with it"),
        (1, 0, "ended with exit code 1"),
        (0, 0, "ended with exit code 0, but is not finished"),
    ],
)
def test_what_is_not_tried_again(tmp_path, code, done, reason):
    backend = Scripted({"a/seed0": [(code, done)], "b/seed0": [(0, 3)]})
    (failure,) = driven(tmp_path, backend)
    assert (failure.run.name, failure.reason) == ("a/seed0", reason)
    assert [name for name, _ in backend.started] == ["a/seed0", "b/seed0"]


def test_a_run_that_cannot_start_fails_and_the_others_go_on(tmp_path):
    backend = Scripted({"a/seed0": [(0, 3)], "b/seed0": [(0, 3)]})
    (tmp_path / "a" / "seed0").mkdir(parents=True)
    (tmp_path / "a" / "seed0" / "notes.txt").touch()
    (failure,) = driven(tmp_path, backend)
    assert "not a run folder, and not empty" in failure.reason
    assert [name for name, _ in backend.started] == ["b/seed0"]


def test_an_interruption_stops_every_run_that_goes_on(tmp_path, monkeypatch):
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    backend = Scripted({"a/seed0": [(0, 3)], "b/seed0": [(0, 3)]}, ("one", "two"))
    monkeypatch.setattr(scheduler.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        driven(tmp_path, backend)
    assert [job.stopped for job in backend.jobs] == [True, True]


def test_a_failure_shows_the_end_of_the_log(tmp_path):
    run = run_of(tmp_path, "a")
    shown = str(Failure(run, str(RunError("out of memory")), "last line"))
    assert shown == f"a/seed0: out of memory. Its log, {run.log}, ends with:\n    last line"
