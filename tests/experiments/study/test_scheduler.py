"""The scheduler of a study with a backend of its own: order, one more attempt, failures, broken places, Ctrl-C."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from kdyolo.errors import RunError
from kdyolo.experiments.study import scheduler
from kdyolo.experiments.study.distillations import StudyDistillation
from kdyolo.experiments.study.live_table import LiveTable
from kdyolo.experiments.study.scheduler import Failure, Outcome, drive
from kdyolo.experiments.study.study import Study
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
    """A backend whose runs do what a script says: name → (exit code, epochs that are done then) for each attempt.

    In a place among ``broken`` every run dies before its first epoch instead.
    """

    def __init__(
        self,
        script: dict[str, list[tuple[int, int]]],
        places: Sequence[str] = ("here",),
        broken: Sequence[str] = (),
        places_differ: bool = True,
    ) -> None:
        self.broken, self.places_differ = broken, places_differ
        self.places, self.script = places, {name: list(attempts) for name, attempts in script.items()}
        self.started: list[tuple[str, str]] = []
        self.jobs: list[Job] = []
        self.at_work = self.most = 0

    def start(self, run: StudyRun, place: int) -> Job:
        self.started.append((run.name, self.places[place]))
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        code, done = (1, 0) if self.places[place] in self.broken else self.script[run.name].pop(0)
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


def drive_all(root: Path, backend: Scripted) -> tuple[Outcome, str]:
    """The outcome, and the lines that were printed."""
    runs = [run_of(root, name.partition("/")[0]) for name in backend.script]
    shown = io.StringIO()
    return drive(runs, backend, LiveTable("", {run.name: run.folder for run in runs}, Console(file=shown))), (
        shown.getvalue()
    )


def driven(root: Path, backend: Scripted) -> list[Failure]:
    outcome, _ = drive_all(root, backend)
    assert outcome.retired == {}
    assert outcome.left == []
    return outcome.failures


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


def test_a_run_that_kdyolo_stop_had_to_kill_was_stopped_and_is_not_tried_again(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(scheduler, "stopped_by_force", lambda folder: looked.append(folder) is None)
    backend = Scripted({"a/seed0": [(-9, 1)], "b/seed0": [(0, 3)]})
    (failure,) = driven(tmp_path, backend)
    assert failure.reason == "stopped from outside; the next call goes on with it"
    assert [name for name, _ in backend.started] == ["a/seed0", "b/seed0"]
    assert looked == [tmp_path / "a" / "seed0"]


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


def scripted(names: str, *places: str, broken: Sequence[str] = (), **script: list[tuple[int, int]]) -> Scripted:
    """Runs of one letter each, which finish unless said otherwise."""
    return Scripted({f"{name}/seed0": script.get(name, [(0, 3)]) for name in names}, places, broken)


def names(failures: Sequence[Failure]) -> list[str]:
    return [failure.run.name[0] for failure in failures]


def test_a_place_where_runs_die_at_once_does_not_take_the_queue_down(tmp_path):
    backend = scripted("abcdef", "good", "bad", broken=["bad"])
    outcome, shown = drive_all(tmp_path, backend)
    assert outcome.failures == outcome.left == []
    assert list(outcome.retired) == ["bad"]
    assert outcome.retired["bad"].reason == "ended with exit code 1"
    assert {run.history().finished for run in (run_of(tmp_path, name) for name in "abcdef")} == {True}
    assert len([place for _, place in backend.started if place == "bad"]) <= 2
    assert "bad: takes no more runs" in shown
    assert "on bad, before it finished an epoch there; put back" in shown


def test_a_run_that_is_put_back_is_the_next_to_start(tmp_path):
    backend = scripted("abcdef", "good", "bad", broken=["bad"])
    drive_all(tmp_path, backend)
    on_good = [name[0] for name, place in backend.started if place == "good"]
    assert on_good == list("abcdef")  # b died on the bad one


def test_two_different_runs_retire_a_place_before_any_other_has_shown_that_it_works(tmp_path):
    class Slow(Scripted):
        """The good place takes long for its first run."""

        def start(self, run: StudyRun, place: int) -> Job:
            job = super().start(run, place)
            job.looks = -20 if self.places[place] == "good" and len(self.started) < 3 else 0
            return job

    backend = Slow({f"{name}/seed0": [(0, 3)] for name in "abcde"}, ("good", "bad"), ["bad"])
    outcome, _ = drive_all(tmp_path, backend)
    assert [(name[0], place) for name, place in backend.started][:3] == [("a", "good"), ("b", "bad"), ("c", "bad")]
    assert list(outcome.retired) == ["bad"]
    assert outcome.failures == []


def test_a_run_that_dies_in_two_places_is_to_blame_itself(tmp_path):
    backend = scripted("abcdef", "one", "two", c=[(1, 0), (1, 0)])
    outcome, shown = drive_all(tmp_path, backend)
    assert names(outcome.failures) == ["c"]
    assert (outcome.retired, outcome.left) == ({}, [])
    assert {place for name, place in backend.started if name[0] == "c"} == {"one", "two"}
    assert "takes runs again, since c/seed0 died elsewhere too" in shown
    assert {name[0] for name, _ in backend.started} == set("abcdef")


class Dying(Scripted):
    """The good place breaks after its second run."""

    def start(self, run: StudyRun, place: int) -> Job:
        if [name for _, name in self.started].count("good") == 2:
            self.broken = ["good", "bad"]
        return super().start(run, place)


def test_the_last_place_that_is_left_is_retired_by_two_runs_and_then_the_study_ends(tmp_path):
    backend = Dying({f"{name}/seed0": [(0, 3)] for name in "abcdef"}, ("good", "bad"), ["bad"])
    outcome, _ = drive_all(tmp_path, backend)
    assert set(outcome.retired) == {"good", "bad"}
    assert outcome.failures == []
    assert len(outcome.left) == 4
    assert len(backend.started) == 5  # two that finished, one on the bad place, two on the one that broke


def test_the_error_of_a_study_says_which_places_were_given_up_and_what_is_left(tmp_path):
    file: Any = SimpleNamespace(
        name="s", seeds=(0,), path=tmp_path / "study.yaml", content=b"", sha256="", baseline=None, labels=()
    )
    own = {"options": {}, "ultralytics": {"epochs": 3}, "distillation": None}
    arms: Any = [SimpleNamespace(name=name, **own) for name in "abcd"]
    backend = Dying({f"{name}/seed0": [(0, 3)] for name in "abcd"}, ("good", "bad"), ["bad"])
    with pytest.raises(RunError) as error:
        Study(file, tuple(arms), ("good", "bad"), tmp_path).run(backend, report=False)
    text = str(error.value)
    assert "no device is left on which runs train. 0 of 4 runs failed; not finished: " in text
    assert "bad took no more runs after b/seed0: ended with exit code 1. Its log, " in text
    assert "good took no more runs after " in text
    assert "call kdyolo study" in text


@pytest.mark.parametrize("places", [("only",), ("ray 1", "ray 2")])
def test_the_only_place_is_never_to_blame_nor_is_one_that_is_no_device(tmp_path, places):
    script = {"a/seed0": [(1, 0)], "b/seed0": [(1, 0)], "c/seed0": [(0, 3)]}
    backend = Scripted(script, places, places_differ=len(places) == 1)
    assert names(driven(tmp_path, backend)) == ["a", "b"]
    assert len(backend.started) == 3


def test_wrong_options_are_the_fault_of_the_run_wherever_it_is_started(tmp_path):
    backend = scripted("abcd", "one", "two", b=[(2, 0)], c=[(2, 0)])
    assert sorted(names(driven(tmp_path, backend))) == ["b", "c"]
    assert len(backend.started) == 4


def test_a_run_for_which_no_other_place_is_left_has_failed(tmp_path):
    backend = scripted("abcd", "good", "bad", broken=["bad"], d=[(1, 0)])
    outcome, _ = drive_all(tmp_path, backend)
    assert list(outcome.retired) == ["bad"]
    assert names(outcome.failures) == ["d"]
    assert outcome.left == []


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


def chained(root: Path, script: dict[str, list[tuple[int, int]]], places: Sequence[str]) -> tuple[Scripted, Outcome]:
    """``@backbones/d`` first, from which ``b/seed0`` and ``c/seed0`` start; ``a/seed0`` starts from nothing."""
    backend = Scripted(script, places)
    first = StudyDistillation((), "teacher", {"epochs": 3}, root / "@backbones" / "d")
    a, b, c = (run_of(root, name) for name in "abc")
    runs = [first, replace(b, distillation=first), replace(c, distillation=first), a]
    table = LiveTable("", {run.name: run.folder for run in runs}, Console(file=io.StringIO()))
    return backend, drive(runs, backend, table)


def test_a_run_waits_for_what_it_starts_from_and_others_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(StudyDistillation, "_is_finished", lambda self, history: history.finished)
    script = {f"{name}/seed0": [(0, 3)] for name in "abc"} | {"@backbones/d": [(0, 3)]}
    backend, outcome = chained(tmp_path, script, ("one", "two"))
    assert outcome.failures == []
    started = [name for name, _ in backend.started]
    assert started[:2] == ["@backbones/d", "a/seed0"]
    assert sorted(started[2:]) == ["b/seed0", "c/seed0"]


def test_what_starts_from_a_distillation_that_failed_is_not_started(tmp_path, monkeypatch):
    monkeypatch.setattr(StudyDistillation, "_is_finished", lambda self, history: history.finished)
    backend, outcome = chained(tmp_path, {"@backbones/d": [(2, 0)], "a/seed0": [(0, 3)]}, ("one",))
    assert [name for name, _ in backend.started] == ["@backbones/d", "a/seed0"]
    first, *others = outcome.failures
    assert first.run.name == "@backbones/d"
    assert [str(failure) for failure in others] == [
        f"{name}/seed0: not started, because @backbones/d failed, which it starts from." for name in "bc"
    ]
