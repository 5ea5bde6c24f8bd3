"""Scheduler of a study: its runs in order, on the places that a backend offers.

A backend starts a run in one of its places and says when it has ended; :func:`drive` does the rest for every backend:
the order, one more attempt for a run that was killed, the ends of logs, stopping everything.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kdyolo.errors import KDYOLOError
from kdyolo.experiments.study.live_table import LiveTable
from kdyolo.experiments.study.study_run import StudyRun
from kdyolo.runs.log_reader import last_lines
from kdyolo.runs.pid_file import read_process, refuse_running

TICK = 0.5  # seconds between two looks at everything
PATIENCE = 30.0  # seconds that a run gets to end by itself after each signal
LOG_LINES = 15  # of a failed run, shown
_STOPPED = (130, -2, 143, -15)  # exit codes of a run that somebody ended on purpose: Ctrl-C, kdyolo stop


class Handle(Protocol):
    """A run that was started."""

    def poll(self) -> int | None:
        """Exit code of the run's process; None while the run goes on."""

    def stop(self) -> None:
        """End the run so that it can be resumed, and wait until it has ended."""


class Backend(Protocol):
    """Where the runs of a study are computed."""

    @property
    def places(self) -> Sequence[str]:
        """Names of the places, each of which takes one run at a time."""

    def start(self, run: StudyRun, place: int) -> Handle:
        """Start or resume a run in a place, by its number."""

    def close(self) -> None:
        """Give back everything that the backend holds."""


@dataclass(frozen=True)
class Failure:
    """A run that did not finish.

    Attributes:
        run: The run that failed.
        reason: Reason for which it failed, in words.
        log: The last lines that the run printed.
    """

    run: StudyRun
    reason: str
    log: str = ""

    def __str__(self) -> str:
        tail = "".join(f"\n    {line}" for line in self.log.splitlines())
        return f"{self.run.name}: {self.reason}. Its log, {self.run.log}, ends with:{tail}"


@dataclass
class _Active:
    run: StudyRun
    handle: Handle
    epochs: int  # done when it was started
    attempt: int


def drive(runs: Sequence[StudyRun], backend: Backend, table: LiveTable) -> list[Failure]:
    """Finish all runs, as far as they can be finished. On Ctrl-C every run that goes on is stopped.

    A run that dies after it got further, as one does that is killed when memory runs out, is resumed once. A run that
    fails does not stop the others.

    Args:
        runs: Runs in the order in which to start them; finished ones are left alone.
        backend: Where the runs are computed.
        table: Table that shows the runs.

    Returns:
        A failure for each run that is not finished.
    """
    jobs = _Schedule(runs, backend)
    try:
        while jobs.waiting or jobs.active:
            jobs.start_waiting()
            jobs.collect_ended()
            table.update(jobs.states)
            if jobs.active:
                time.sleep(TICK)
    except BaseException:
        _stop([job.handle for job in jobs.active.values()])
        raise
    return jobs.failures


class _Schedule:
    """The runs of a study: which wait, which go on in which place, and which have failed."""

    def __init__(self, runs: Sequence[StudyRun], backend: Backend) -> None:
        self._backend = backend
        self.states = {run.name: "finished" if run.state() == "finished" else "waiting" for run in runs}
        self.waiting = deque((run, 0) for run in runs if self.states[run.name] == "waiting")
        self.active: dict[int, _Active] = {}
        self.failures: list[Failure] = []

    def start_waiting(self) -> None:
        """Start a waiting run in every free place."""
        for place, name in enumerate(self._backend.places):
            if place in self.active or not self.waiting:
                continue
            run, attempt = self.waiting.popleft()
            try:
                job = self.active[place] = _start(run, attempt, self._backend, place)
                self.states[run.name] = f"{'resumed' if job.epochs else 'runs'} on {name}"
            except KDYOLOError as e:
                self._fail(Failure(run, str(e).rstrip(".")))

    def collect_ended(self) -> None:
        """Judge every run whose process has ended: it is finished, gets one more attempt, or has failed."""
        for place, job in list(self.active.items()):
            if (code := job.handle.poll()) is None:
                continue
            del self.active[place]
            failure = _failure(job, code)
            if failure is None:
                self.states[job.run.name] = "finished"
            elif job.attempt == 0 and code not in _STOPPED and _got_further(job):
                self.waiting.appendleft((job.run, 1))
                self.states[job.run.name] = "waiting"
            else:
                self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.states[failure.run.name] = "failed"


def _start(run: StudyRun, attempt: int, backend: Backend, place: int) -> _Active:
    _wait_for_leftover(run.folder)
    run.clear()
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    epochs = _epochs(run)
    with run.log.open("a", encoding="utf-8") as log:
        verb = "resumed" if run.state() == "resumable" else "started"
        log.write(f"---- {verb} on {backend.places[place]}, {time.strftime('%Y-%m-%d %H:%M:%S')} ----\n")
    return _Active(run, backend.start(run, place), epochs, attempt)


def _wait_for_leftover(folder: Path) -> None:
    """Wait for the process of a study that was killed, which is about to end.

    Raises:
        RunError: Another process goes on in that folder.
    """
    leftover = read_process(folder)
    until = time.monotonic() + PATIENCE
    while leftover and leftover.where == "running" and time.monotonic() < until:
        time.sleep(TICK)
    refuse_running(folder)


def _failure(job: _Active, code: int) -> Failure | None:
    """Failure of a run whose process has ended; None if the run is finished."""
    try:
        if job.run.state() == "finished":
            return None
    except KDYOLOError as e:  # its files are damaged
        return Failure(job.run, str(e).rstrip("."), log_end(job.run.log))
    if code in _STOPPED:
        reason = "stopped from outside; the next call goes on with it"
    elif code < 0:
        reason = f"killed by signal {-code}"
    else:
        reason = f"ended with exit code {code}" + ("" if code else ", but is not finished")
    return Failure(job.run, reason, log_end(job.run.log))


def _epochs(run: StudyRun) -> int:
    history = run.history()
    return len(history.epochs) if history else 0


def _got_further(job: _Active) -> bool:
    try:
        return job.run.state() == "resumable" and _epochs(job.run) > job.epochs
    except KDYOLOError:  # its files are damaged
        return False


def _stop(handles: Sequence[Handle]) -> None:
    if handles:
        with ThreadPoolExecutor(len(handles)) as pool:
            list(pool.map(lambda handle: handle.stop(), handles))


def log_end(path: Path) -> str:
    """The last lines of a log that say something, as a person would have seen them."""
    lines = last_lines(path, 2 * LOG_LINES) if path.is_file() else []
    return "\n".join([line.rstrip() for line in lines if line.strip()][-LOG_LINES:])
