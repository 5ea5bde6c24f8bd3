"""Process record of a run folder: which process works there, and whether it still does.

``pid.txt`` holds the process id and nothing else, so that ``kill $(cat pid.txt)`` works. A number alone says little:
the process may be gone, its number may be another's by now, or it may be of another machine. What tells them apart
stands in ``process.json`` beside it: the host, and how long after the machine's start the process began. A number that
is used again, also after a reboot, comes with another time, and no change of the clock moves that time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from kdyolo.errors import RunError
from kdyolo.runs.contents.readers import read_process_file
from kdyolo.runs.files import PID_NAME, PROCESS_NAME, STOPPED_NAME
from kdyolo.runs.process_control import alive, ended_by_signals
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.plain_files import is_file
from kdyolo.utils.text import shell_word

TOLERANCE = 2.0  # seconds; the start of the machine is known to a second, and may be read differently the next time

Where = Literal["running", "gone", "elsewhere"]


@dataclass(frozen=True)
class RecordedProcess:
    """A process as its folder remembers it.

    Attributes:
        pid: The process id, on ``host``.
        host: The name of the machine.
        started: Seconds from the start of the machine to that of the process.
        launcher: The pid and start of what started it as one of several, kdyolo or torchrun; None if it is alone.
    """

    pid: int
    host: str
    started: float
    launcher: tuple[int, float] | None = None

    @classmethod
    def current(cls) -> RecordedProcess:
        """This process."""
        launcher = None
        if "TORCHELASTIC_RUN_ID" in os.environ:
            launcher = (os.getppid(), _process(os.getppid())[1])
        return cls(os.getpid(), socket.gethostname(), _process(os.getpid())[1], launcher)

    def find(self) -> psutil.Process | None:
        """The process itself, if it lives on this machine."""
        return _find(self.pid, self.started) if self.host == socket.gethostname() else None

    @property
    def where(self) -> Where:
        """Whether it runs, is gone, or cannot be seen from here because it is another machine's."""
        if self.host != socket.gethostname():
            return "elsewhere"
        return "running" if self.find() else "gone"

    def root(self) -> psutil.Process | None:
        """What to signal to end the whole run: its launcher while that lives, else the process."""
        process = self.find()
        return (_find(*self.launcher) if process and self.launcher else None) or process

    def warning(self, folder: Path) -> str:
        """What to say before working in a folder that names a process of another machine."""
        return (
            f"{folder} was being trained on {self.host}, as process {self.pid} there. If that still runs, which cannot "
            "be seen from here, end one of the two: together they destroy the run."
        )


def _process(pid: int) -> tuple[psutil.Process, float]:
    """A process, and the seconds from the start of the machine to its own."""
    boot = psutil.boot_time()  # before the process: psutil < 7 dates processes from the value that was read last
    process = psutil.Process(pid)
    return process, process.create_time() - boot


def _find(pid: int, started: float) -> psutil.Process | None:
    try:
        process, found = _process(pid)
        return process if abs(found - started) < TOLERANCE and alive(process) else None
    except psutil.NoSuchProcess:
        return None


# ---- the record in a run folder --------------------------------------------------------------------------------------


def read_process(folder: Path) -> RecordedProcess | None:
    """The process that a folder names; None if there is none, or ``pid.txt`` is not the one that kdyolo wrote.

    Raises:
        RunError: One of the two files is damaged.
    """
    found = read_process_file(folder)
    return RecordedProcess(found.pid, found.host, found.started, found.launcher) if found else None


def forget_process(folder: Path) -> None:
    """Remove ``pid.txt`` and what belongs to it."""
    for name in (PID_NAME, PROCESS_NAME):
        (folder / name).unlink(missing_ok=True)


def note_forced_stop(folder: Path, process: RecordedProcess) -> None:
    """Note in a folder that its process is going to be killed because somebody stops the run.

    To whoever waits for it, the process then ends as one that the system kills for want of memory does.
    """
    with contextlib.suppress(OSError):  # on a full disk a run can be stopped as well
        write_atomic(folder / STOPPED_NAME, f"{process.pid}\n")


def stopped_by_force(folder: Path) -> bool:
    """Whether the last process of a folder was killed by ``kdyolo stop``, since it did not end otherwise."""
    return is_file(folder / STOPPED_NAME)


def refuse_running(folder: Path) -> RecordedProcess | None:
    """Refuse to work in a folder in which another process is at work.

    Returns:
        A process of another machine, of which cannot be said from here whether it still runs; else None.

    Raises:
        RunError: Another process of this machine runs in it.
    """
    found = read_process(folder)
    if found is None or found.where == "gone":
        return None
    if found.where == "running":
        if found.pid == os.getpid():
            return None
        raise RunError(
            f"{folder}: this run is going on, as process {found.pid}. Two processes in one folder would destroy it. "
            f"Look with kdyolo logs {shell_word(folder)}, end it with kdyolo stop {shell_word(folder)}."
        )
    return found


@contextlib.contextmanager
def claimed_folder(folder: Path) -> Iterator[RecordedProcess | None]:
    """Name this process in a folder for as long as it works there; after ``kill -9`` the record stays, and is stale.

    Yields:
        A process of another machine that was named there, and may still run.

    Raises:
        RunError: Another process of this machine works in it.
    """
    elsewhere = refuse_running(folder)
    (folder / STOPPED_NAME).unlink(missing_ok=True)
    me = RecordedProcess.current()
    for name, text in ((PROCESS_NAME, json.dumps(asdict(me))), (PID_NAME, str(me.pid))):
        write_atomic(folder / name, f"{text}\n")
    try:
        yield elsewhere
    finally:
        if read_process(folder) == me:
            forget_process(folder)


@contextlib.contextmanager
def owning_folder(folder: Path | None) -> Iterator[RecordedProcess | None]:
    """Work in a folder, named there unless another rank is, and clean up on signals; see :func:`claimed_folder`."""
    with ended_by_signals(), contextlib.ExitStack() as stack:
        yield stack.enter_context(claimed_folder(folder)) if folder else None
