"""Scheduler of a study: its runs in order, on the places that a backend offers.

A backend starts a run in one of its places and says when it has ended; :func:`drive` does the rest for every backend:
the order, one more attempt for a run that was killed, places that are broken, the ends of logs, stopping everything.
"""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kdyolo.errors import KDYOLOError
from kdyolo.experiments.study.job import Job
from kdyolo.experiments.study.live_table import LiveTable
from kdyolo.runs.files import resumable
from kdyolo.runs.log_reader import last_lines
from kdyolo.runs.pid_file import read_process, refuse_running, stopped_by_force

TICK = 0.5  # seconds between two looks at everything
PATIENCE = 30.0  # seconds that a run gets to end by itself after each signal
LOG_LINES = 15  # of a failed run, shown
_STOPPED = (130, -2, 143, -15)  # exit codes of a run that somebody ended on purpose: Ctrl-C, kdyolo stop
_MISTAKE = 2  # exit code of a run whose options are wrong, wherever it is started


class Handle(Protocol):
    """A run that was started."""

    def poll(self) -> int | None:
        """Exit code of the run's process; None while the run goes on."""

    def stop(self) -> None:
        """End the run so that it can be resumed, and wait until it has ended."""


class Backend(Protocol):
    """Where the runs of a study are computed.

    Attributes:
        places_differ: Whether a place is always the same device, so that one can be broken while others work.
    """

    places_differ: bool

    @property
    def places(self) -> Sequence[str]:
        """Names of the places, each of which takes one run at a time."""

    def start(self, run: Job, place: int) -> Handle:
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

    run: Job
    reason: str
    log: str = ""

    def __str__(self) -> str:
        if not self.log:
            return f"{self.run.name}: {self.reason}."
        tail = "".join(f"\n    {line}" for line in self.log.splitlines())
        return f"{self.run.name}: {self.reason}. Its log, {self.run.log}, ends with:{tail}"


@dataclass(frozen=True)
class Outcome:
    """What became of the runs of a study.

    Attributes:
        failures: A failure for each run that failed.
        retired: Place that was given up → how the last run ended there.
        left: Runs that were not finished because no place was left.
    """

    failures: list[Failure]
    retired: dict[str, Failure]
    left: list[Job]


@dataclass
class _Active:
    run: Job
    handle: Handle
    epochs: int  # done when it was started
    attempt: int
    works: bool = False  # whether it has finished an epoch here


def drive(runs: Sequence[Job], backend: Backend, table: LiveTable) -> Outcome:
    """Finish all runs, as far as they can be finished. On Ctrl-C every run that goes on is stopped.

    A run that dies after it got further, as one does that is killed when memory runs out, is resumed once. A run that
    fails does not stop the others.

    A run that dies before it finishes an epoch may be wrong itself, or the place may be: :class:`_Blame` says which.
    Such a run goes back to the front of the queue, and on to another place.

    Args:
        runs: Runs in the order in which to start them; finished ones are left alone.
        backend: Where the runs are computed.
        table: Table that shows the runs.

    Returns:
        The failures, the places that were given up, and the runs for which no place was left.
    """
    jobs = _Schedule(runs, backend, table)
    try:
        while jobs.active or jobs.can_go_on:
            jobs.start_waiting()
            jobs.collect_ended()
            table.update(jobs.states)
            if jobs.active:
                time.sleep(TICK)
    except BaseException:
        _stop([job.handle for job in jobs.active.values()])
        raise
    return jobs.outcome()


class _Blame:
    """Whether the run or the place is to blame where a run dies before it finishes an epoch there.

    - Where there was one place from the beginning, or places are no devices of their own, it is the run: bad options
      must not retire the only place.
    - A run that dies so in two places is to blame itself, and no longer counts against either of them.
    - A place is retired if a run dies so while another place works, that is, has finished an epoch of some run; or if
      two different runs die so one after the other. It comes back once the runs that speak against it are to blame.
    - The last place that is left is retired by two different runs only. Then the study ends.

    Args:
        places: Number of places.
        differ: Whether a place is always the same device.
    """

    def __init__(self, places: int, differ: bool) -> None:
        self._places, self._judges = range(places), differ and places > 1
        self._working: set[int] = set()  # places where some run has finished an epoch
        self._died: dict[Job, set[int]] = {}
        self._against: dict[int, list[Job]] = {place: [] for place in self._places}  # since an epoch there
        self.retired: set[int] = set()

    def places_for(self, run: Job) -> set[int]:
        """Places where a run may be started: those that are not retired and where it has not died."""
        return set(self._places) - self.retired - self._died.get(run, set())

    def works(self, place: int) -> None:
        """Note that a run has finished an epoch in a place."""
        self._working.add(place)
        self._against[place].clear()

    def died(self, run: Job, place: int) -> bool:
        """Note that a run has died in a place before it finished an epoch there, and return whether it is to blame."""
        if not self._judges:
            return True
        self._died.setdefault(run, set()).add(place)
        if len(self._died[run]) > 1:
            for acquitted in (place for place in self._places if run in self._against[place]):
                self._against[acquitted].remove(run)
                if not self._is_broken(acquitted):
                    self.retired.discard(acquitted)
            return True
        self._against[place].append(run)
        if self._is_broken(place):
            self.retired.add(place)
        return False

    def _is_broken(self, place: int) -> bool:
        others_work = self._working - self.retired - {place}
        return len(self._against[place]) > 1 or bool(self._against[place] and others_work)


class _Schedule:
    """The runs of a study: which wait, which go on in which place, and which have failed."""

    def __init__(self, runs: Sequence[Job], backend: Backend, table: LiveTable) -> None:
        self._backend, self._table = backend, table
        self._blame = _Blame(len(backend.places), backend.places_differ)
        self._reasons: dict[str, Failure] = {}  # of runs that wait for another place: why they died in the first
        self._retired: dict[int, Failure] = {}  # place → how the last run ended there
        self.states = {run.name: "finished" if run.state() == "finished" else "waiting" for run in runs}
        self.waiting = deque((run, 0) for run in runs if self.states[run.name] == "waiting")
        self.active: dict[int, _Active] = {}
        self.failures: list[Failure] = []

    @property
    def can_go_on(self) -> bool:
        """Whether a run waits for which there is a place."""
        return any(self._blame.places_for(run) for run, _ in self.waiting if self._is_ready(run))

    def _is_ready(self, run: Job) -> bool:
        """Whether what a run starts from is there."""
        return run.needs is None or self.states[run.needs.name] == "finished"

    def start_waiting(self) -> None:
        """Start a waiting run in every free place, each time the first that may be started there."""
        for place, name in enumerate(self._backend.places):
            if place in self.active:
                continue
            startable = (job for job in self.waiting if self._is_ready(job[0]))
            next_one = next((job for job in startable if place in self._blame.places_for(job[0])), None)
            if next_one is None:
                continue
            self.waiting.remove(next_one)
            run, attempt = next_one
            try:
                job = self.active[place] = _start(run, attempt, self._backend, place)
                self.states[run.name] = f"{'resumed' if job.epochs else 'runs'} on {name}"
            except KDYOLOError as e:
                self._fail(Failure(run, str(e).rstrip(".")))

    def collect_ended(self) -> None:
        """Judge every run whose process has ended: it is finished, gets one more attempt, or has failed."""
        for place, job in list(self.active.items()):
            code = job.handle.poll()
            if not job.works and _got_further(job):
                job.works = True
                self._blame.works(place)
            if code is None:
                continue
            if code == -signal.SIGKILL and stopped_by_force(job.run.folder):
                code = -signal.SIGTERM  # somebody wanted it to end, and it did not listen
            del self.active[place]
            failure = _failure(job, code)
            if failure is None:
                self.states[job.run.name] = "finished"
            elif code in (*_STOPPED, _MISTAKE):
                self._fail(failure)
            elif not job.works:
                self._judge(job, place, failure)
            elif job.attempt == 0 and resumable(job.run.folder):
                self._put_back(job.run, 1, "waiting")
            else:
                self._fail(failure)

    def _judge(self, job: _Active, place: int, failure: Failure) -> None:
        """What follows from a run that died before it finished an epoch in a place."""
        run, name = job.run, self._backend.places[place]
        if self._blame.died(run, place):
            self._fail(failure)
        else:
            self._reasons[run.name] = failure
            self._put_back(run, job.attempt, f"waiting, died on {name}")
            self._table.say(f"{run.name}: {failure.reason} on {name}, before it finished an epoch there; put back")
        for back in sorted(self._retired.keys() - self._blame.retired):
            del self._retired[back]
            self._table.say(f"{self._backend.places[back]}: takes runs again, since {run.name} died elsewhere too")
        for new in sorted(self._blame.retired - self._retired.keys()):
            self._retired[new] = failure
            self._table.say(f"{self._backend.places[new]}: takes no more runs, since they die there at once")

    def _put_back(self, run: Job, attempt: int, state: str) -> None:
        self.waiting.appendleft((run, attempt))
        self.states[run.name] = state

    def outcome(self) -> Outcome:
        """What became of the runs, once nothing can go on: a run that died in the one place left to it has failed."""
        left = []
        for run, _ in list(self.waiting):
            if self.states[run.name] == "failed":  # with what it needs
                continue
            if len(self._blame.retired) < len(self._backend.places) and run.name in self._reasons:
                self._fail(self._reasons[run.name])
            else:
                left.append(run)
        retired = {self._backend.places[place]: failure for place, failure in self._retired.items()}
        return Outcome(self.failures, retired, left)

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.states[failure.run.name] = "failed"
        for waiting in [job for job in self.waiting if job[0].needs is not None and job[0].needs == failure.run]:
            self.waiting.remove(waiting)
            self._fail(Failure(waiting[0], f"not started, because {failure.run.name} failed, which it starts from"))


def _start(run: Job, attempt: int, backend: Backend, place: int) -> _Active:
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


def _epochs(run: Job) -> int:
    history = run.history()
    return len(history.epochs) if history else 0


def _got_further(job: _Active) -> bool:
    """Whether a run has finished an epoch since it was started."""
    try:
        return _epochs(job.run) > job.epochs
    except KDYOLOError:  # its files are damaged, or being written right now
        return False


def _stop(handles: Sequence[Handle]) -> None:
    if handles:
        with ThreadPoolExecutor(len(handles)) as pool:
            list(pool.map(lambda handle: handle.stop(), handles))


def log_end(path: Path) -> str:
    """The last lines of a log that say something, as a person would have seen them."""
    lines = last_lines(path, 2 * LOG_LINES) if path.is_file() else []
    return "\n".join([line.rstrip() for line in lines if line.strip()][-LOG_LINES:])
