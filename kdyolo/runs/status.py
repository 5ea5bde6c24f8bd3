"""Status of runs: which there are, how far each is, time left, and how to stop one."""

from __future__ import annotations

import math
import operator
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from kdyolo.arguments import checked
from kdyolo.errors import KDYOLOError, RunError
from kdyolo.runs.contents.readers import read_args
from kdyolo.runs.files import ARGS_NAME, LOG_NAME, PID_NAME, RESULTS_NAME, ever_saved, is_run, resumable
from kdyolo.runs.history import Run, read_run
from kdyolo.runs.pid_file import RecordedProcess, forget_process, note_forced_stop, read_process, stopped_by_force
from kdyolo.runs.process_control import end
from kdyolo.utils.plain_files import is_file, is_folder, read_json
from kdyolo.utils.tables import ShownInOneLine
from kdyolo.utils.text import format_duration, shell_word

FOLDERS = ("runs", "studies")
SIGNS_OF_LIFE = (RESULTS_NAME, LOG_NAME, ARGS_NAME)

# "elsewhere": on another machine, where it may run or not. "died": before anything was saved. "unfinished": it has
# epochs but nothing to resume from, or is one of plain Ultralytics, which leaves no sign of whether it goes on.
# "damaged": its files cannot be read.
State = Literal["running", "finished", "interrupted", "died", "elsewhere", "unfinished", "damaged"]


@dataclass(frozen=True, repr=False)
class RunStatus(ShownInOneLine):
    """How far a run is.

    Attributes:
        path: The run folder.
        state: What the run does now; see :data:`State`.
        phase: What is frozen in the epoch that runs, or ran last.
        epoch: The number of finished epochs.
        epochs: The number of epochs asked for.
        best: The highest mAP50-95 so far, 0–1; NaN if there is none.
        process: The process that ``pid.txt`` stands for. Unless it is running or elsewhere, it is stale.
        seconds_left: An estimate for a run that is running; NaN if nothing is known.
        changed: The time of the last sign of life, in seconds since 1970.
        problem: A description of the damage; None if there is none.
        forced: Whether ``kdyolo stop`` had to kill its process, which had not ended otherwise.
    """

    path: Path
    state: State
    phase: str = ""
    epoch: int = 0
    epochs: int = 0
    best: float = math.nan
    process: RecordedProcess | None = None
    seconds_left: float = math.nan
    changed: float = 0.0
    problem: str | None = None
    forced: bool = False

    def headline(self) -> str:
        """The folder, what the run does, and how far it is."""
        where = f"epoch {self.epoch}/{self.epochs}" if self.problem is None else self.problem
        return f"{self.path}, {self.summary}, {where}"

    def facts(self) -> dict[str, str]:
        """What ``kdyolo ps`` shows of the run."""
        return {
            "run": str(self.path),
            "status": self.summary,
            "phase": self.phase,
            "epoch": f"{self.epoch}/{self.epochs}",
            "best mAP50-95": "–" if math.isnan(self.best) else f"{self.best:.3f}",
            "time left": format_duration(self.seconds_left),
            **({"problem": self.problem} if self.problem else {}),
        }

    @property
    def stale(self) -> bool:
        """Whether there is a ``pid.txt`` of a process that is gone: it was killed."""
        return self.process is not None and self.process.where == "gone"

    @property
    def summary(self) -> str:
        """The state for a person."""
        host = self.process.host if self.process else ""
        said = {"interrupted": "interrupted (resumable)", "elsewhere": f"on {host}, unseen from here",
                "died": "died before its first epoch was saved"}.get(self.state, self.state)  # fmt: skip
        return f"{said}, stopped by SIGKILL" if self.forced and self.state != "running" else said

    def to_dict(self) -> dict[str, Any]:
        """The status as plain data, for JSON; what is unknown is None."""
        return {
            "run": str(self.path),
            "status": self.state,
            "phase": self.phase or None,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "mAP50-95": None if math.isnan(self.best) else self.best,
            "pid": self.process.pid if self.process else None,
            "host": self.process.host if self.process else None,
            "stale_pid": self.stale,
            "seconds_left": None if math.isnan(self.seconds_left) else self.seconds_left,
            "changed": self.changed,
            "problem": self.problem,
            "stopped_by_sigkill": self.forced,
        }


def run_status(path: Path, now: float | None = None) -> RunStatus:
    """How far the run in a folder is; damage is reported, not raised, so that one bad folder hides no other.

    Args:
        path: The run folder.
        now: The present time in seconds since 1970; None: the clock's.
    """
    changed = max(_changed(path / name) for name in SIGNS_OF_LIFE)
    try:
        process = read_process(path)
        run = read_run(path)
        state = _state(run, process)
        epoch = run.epochs[-1] if run.epochs else 0
        ahead = min(epoch + (state in ("running", "elsewhere")), run.planned_epochs)
        phase = run.phase(max(ahead, 1)) if run.record else ""
    except KDYOLOError as e:
        return RunStatus(path, "damaged", changed=changed, problem=str(e))
    since = (time.time() if now is None else now) - changed
    left = seconds_left(run, since) if state == "running" else math.nan
    forced = stopped_by_force(path)
    return RunStatus(path, state, phase, epoch, run.planned_epochs, run.value(), process, left, changed, forced=forced)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime if is_file(file) else 0.0
    except OSError:  # gone between the two looks
        return 0.0


def _state(run: Run, process: RecordedProcess | None) -> State:
    if process is not None and process.where != "gone":
        return "running" if process.where == "running" else "elsewhere"
    if run.finished:
        return "finished"
    if resumable(run.path):
        return "interrupted"
    if run.trained:
        return "finished"  # though its weights are gone
    ours = run.record is not None or is_file(run.path / LOG_NAME)
    return "died" if ours and not ever_saved(run.path) else "unfinished"


# ---- all of them -----------------------------------------------------------------------------------------------------


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """All run folders in and below some folders, the one with the last sign of life first."""
    found: dict[Path, Path] = {}
    for path in (path for folder in folders for path in _walk(folder)):
        found.setdefault(path.resolve(), path)  # under its first name: the short one, where Ultralytics' folder is ours
    return list(found.values())


def _walk(folder: Path) -> Iterator[Path]:
    waiting = [folder]
    while waiting:  # not os.walk, which before Python 3.12 calls itself for every level
        place = waiting.pop()
        try:
            entries = list(os.scandir(place))
        except OSError:  # another's, or gone meanwhile
            continue
        if any(entry.name == ARGS_NAME for entry in entries):  # a folder of this name is a damaged run
            yield place
        else:  # not below a run: weights, images of errors
            waiting += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]


def default_folders() -> list[Path]:
    """``runs/`` and ``studies/`` here, and where Ultralytics puts runs, which may be another folder's ``runs/``."""
    configured = _ultralytics_runs()
    folders = [Path(name) for name in FOLDERS] + ([configured] if configured else [])
    return [folder for folder in folders if is_folder(folder)]


def _ultralytics_runs() -> Path | None:
    """The ``runs_dir`` of Ultralytics' settings; read from their file, because importing Ultralytics takes seconds."""
    home = os.environ.get("YOLO_CONFIG_DIR") or os.environ.get("XDG_CONFIG_HOME")
    usual = "Library/Application Support" if sys.platform == "darwin" else ".config"
    path = (Path(home).expanduser() if home else Path.home() / usual) / "Ultralytics" / "settings.json"
    try:
        place = (read_json(path) or {}).get("runs_dir")
    except RunError:  # Ultralytics replaces settings that are damaged
        return None
    return Path(place) if isinstance(place, str) else None


@checked
def list_runs(folders: Sequence[str | Path] = ()) -> list[RunStatus]:
    """How far every run is, the last sign of life first.

    Args:
        folders: Folders to look in, or runs themselves; empty: those of :func:`default_folders`.

    Raises:
        RunError: A folder that was named does not exist.

    Examples:
        >>> from kdyolo import list_runs
        >>> [(run.path.name, run.state) for run in list_runs(["runs"])]
        [('train', 'finished')]
    """
    places = list(map(Path, folders))
    if missing := [str(place) for place in places if not is_folder(place)]:
        raise RunError(f"no such folder: {', '.join(missing)}. Expected run folders, or folders with runs in them.")
    return sorted(map(run_status, find_runs(places or default_folders())), key=lambda run: -run.changed)


# ---- stopping --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stopped:
    """What came of an attempt to stop a run.

    Attributes:
        path: The run folder.
        summary: What happened, and how to continue.
        failed: Whether the run may still be going on.
    """

    path: Path
    summary: str
    failed: bool = False


def stop_runs(folders: Sequence[Path], timeout: float) -> list[Stopped]:
    """End runs, at the same time, so that each can be resumed.

    Args:
        folders: Run folders, or folders of studies.
        timeout: Seconds that each run gets after Ctrl-C and again after SIGTERM, before it is killed.

    Raises:
        RunError: A folder is not that of a run; then no run is stopped.
    """
    mistakes = [f"{path}: no run folder." for path in folders if not _is_known(path)]
    if mistakes:
        raise RunError(" ".join([*mistakes, "Nothing was stopped. See kdyolo ps."]))
    with ThreadPoolExecutor(len(folders) or 1) as pool:
        return list(pool.map(lambda path: _stop(path, timeout), folders))


def _is_known(path: Path) -> bool:
    """Whether a folder is that of a run, however damaged, or of a study, which has a process and a log as well."""
    return any(os.path.lexists(path / name) for name in (ARGS_NAME, PID_NAME, LOG_NAME))


def _stop(path: Path, timeout: float) -> Stopped:
    try:
        return _end(path, timeout)
    except RunError as e:
        return Stopped(path, str(e), failed=True)
    except OSError as e:
        return Stopped(path, f"cannot be stopped from here ({e.strerror}).", failed=True)


def _end(path: Path, timeout: float) -> Stopped:
    process = read_process(path)
    if process is None:
        note = f" (its {PID_NAME} is not kdyolo's and was left alone)" if is_file(path / PID_NAME) else ""
        return Stopped(path, f"was not running{note}.{_next_step(path)}")
    if process.where == "elsewhere":
        summary = f"runs on {process.host}, if at all, and can be stopped only there: "
        summary += f"kdyolo stop {shell_word(path.resolve())}"
        return Stopped(path, summary, failed=True)
    root = process.root()
    if root is None:
        forget_process(path)
        return Stopped(path, f"was not running: process {process.pid} had been killed, its {PID_NAME} was stale."
                             f"{_next_step(path)}")  # fmt: skip
    sent = end(root, timeout, partial(note_forced_stop, path, process))
    if process.find() is not None:
        return Stopped(path, f"process {process.pid} does not end, even after SIGKILL. It hangs in the kernel.", True)
    if read_process(path) == process:  # killed, or ended between two of its own steps
        forget_process(path)
    how = "ended by itself" if sent is None else "stopped" if sent.name == "SIGINT" else f"ended by {sent.name}"
    return Stopped(path, f"{how}.{_next_step(path)}")


def _next_step(path: Path) -> str:
    if not is_run(path):
        return ""
    status = run_status(path)
    if status.state == "damaged":
        return f" It is damaged: {status.problem}"
    if status.state == "interrupted":
        return f" Resume with: kdyolo {task_of(path)} --resume {shell_word(path)}"
    if status.state == "died":
        return " Nothing had been saved yet: start it again with --exist-ok."
    return f" It is {status.state}."


def task_of(path: Path) -> Literal["train", "distill"]:
    """The command that a run is of."""
    return "distill" if read_args(path).get("task") == "distill" else "train"


def seconds_left(run: Run, since: float = 0.0) -> float:
    """Seconds that the epochs still to come will take, each as long as the usual one of its phase.

    A phase that has not come yet is taken to be as slow as the slowest that has: before a thaw the estimate is low.

    Args:
        run: The run, with the epochs that it has finished.
        since: Seconds since its last epoch ended.

    Returns:
        Seconds; NaN before the first epoch has ended.
    """
    by_phase: dict[str, list[float]] = {}
    for epoch, seconds in zip(run.epochs, run.seconds, strict=True):
        if not math.isnan(seconds):
            by_phase.setdefault(run.phase(epoch), []).append(seconds)
    usual = {phase: statistics.median(values) for phase, values in by_phase.items()}
    if not usual:
        return math.nan
    begin, end_ = run.epochs[-1] + 1, run.planned_epochs + 1
    if begin >= end_:
        return 0.0
    changes = [begin, *(epoch + 1 for epoch in run.schedule.unfreezes if begin < epoch + 1 < end_), end_]
    each = [usual.get(run.phase(epoch), max(usual.values())) for epoch in changes[:-1]]  # in each phase, of an epoch
    counts = [after - before for before, after in pairwise(changes)]
    return math.fsum(map(operator.mul, each, counts)) - min(max(since, 0.0), each[0])
