"""Who computes the runs of a study: child processes here, one per device at a time, or whatever an engine offers.

An engine starts a run in one of its places and says when it has ended; :func:`drive` does the rest for every engine:
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
        """Its exit code; None while it goes on."""

    def stop(self) -> None:
        """End it so that it can be resumed, and wait until it has ended."""


class Backend(Protocol):
    """Where runs are computed."""

    @property
    def places(self) -> Sequence[str]:
        """One run at a time in each; what they are called."""

    def start(self, run: StudyRun, place: int) -> Handle:
        """Start or resume a run in a place, by its number."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass(frozen=True)
class Failure:
    """A run that did not finish.

    Attributes:
        run: Which.
        reason: In words.
        log: The last lines that it printed.
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


def drive(runs: Sequence[StudyRun], engine: Backend, table: LiveTable) -> list[Failure]:
    """Finish all runs, as far as they can be finished. On Ctrl-C every one that goes on is stopped.

    A run that dies after it got further, as one does that is killed for want of memory, is resumed once. Others go on
    whatever happens to it.

    Args:
        runs: In the order in which to start them; finished ones are left alone.
        engine: Computes them.
        table: Shows them.

    Returns:
        Those that are not finished, and why.
    """
    states = {run.name: "finished" if run.state() == "finished" else "waiting" for run in runs}
    waiting = deque((run, 0) for run in runs if states[run.name] == "waiting")
    active: dict[int, _Active] = {}
    failures = []

    def failed(failure: Failure) -> None:
        failures.append(failure)
        states[failure.run.name] = "failed"

    try:
        while waiting or active:
            for place in range(len(engine.places)):
                if place not in active and waiting:
                    run, attempt = waiting.popleft()
                    try:
                        active[place] = _start(run, attempt, engine, place)
                        states[run.name] = (
                            "resumed" if active[place].epochs else "runs"
                        ) + f" on {engine.places[place]}"
                    except KDYOLOError as e:
                        failed(Failure(run, str(e).rstrip(".")))
            for place, job in list(active.items()):
                if (code := job.handle.poll()) is None:
                    continue
                del active[place]
                verdict = _verdict(job, code)
                if verdict is None:
                    states[job.run.name] = "finished"
                elif job.attempt == 0 and code not in _STOPPED and _got_further(job):
                    waiting.appendleft((job.run, 1))
                    states[job.run.name] = "waiting"
                else:
                    failed(verdict)
            table.update(states)
            if active:
                time.sleep(TICK)
    except BaseException:
        _stop([job.handle for job in active.values()])
        raise
    return failures


def _start(run: StudyRun, attempt: int, engine: Backend, place: int) -> _Active:
    _wait_for_leftover(run.folder)
    run.clear()
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    epochs = _epochs(run)
    with run.log.open("a", encoding="utf-8") as log:
        verb = "resumed" if run.state() == "resumable" else "started"
        log.write(f"---- {verb} on {engine.places[place]}, {time.strftime('%Y-%m-%d %H:%M:%S')} ----\n")
    return _Active(run, engine.start(run, place), epochs, attempt)


def _wait_for_leftover(folder: Path) -> None:
    """Wait for the process of a study that was killed, which is about to end.

    Raises:
        RunError: Somebody else's goes on in that folder.
    """
    leftover = read_process(folder)
    until = time.monotonic() + PATIENCE
    while leftover and leftover.where == "running" and time.monotonic() < until:
        time.sleep(TICK)
    refuse_running(folder)


def _verdict(job: _Active, code: int) -> Failure | None:
    """What became of a run whose process has ended; None: it is finished."""
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
