"""The process of a run: started apart from the terminal, recorded in its folder, told from others, ended. No torch.

``pid.txt`` holds the process id and nothing else, so that ``kill $(cat pid.txt)`` works. A number alone says little:
the process may be gone, its number may be another's by now, or it may be of another machine. What tells them apart
stands in ``process.json`` beside it: the host, and how long after the machine's start the process began. A number that
is used again, also after a reboot, comes with another time, and no change of the clock moves that time.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import psutil

from kdyolo.errors import RunError

PID_NAME = "pid.txt"
PROCESS_NAME = "process.json"
TOLERANCE = 2.0  # seconds; the start of the machine is known to a second, and may be read differently the next time
POLL = 0.05  # seconds between two looks at a process that is to end
LEFTOVERS = 5.0  # seconds in which what a run started ends by itself, once the run has

_PARENT = "KDYOLO_PARENT"  # environment of a launched process: whom it must not outlive; 0: nobody
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

Where = Literal["running", "gone", "elsewhere"]


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


@dataclass(frozen=True)
class RecordedProcess:
    """A process as its folder remembers it.

    Attributes:
        pid: Process id, on ``host``.
        host: Name of the machine.
        started: Seconds from the start of the machine to that of the process.
        launcher: pid and start of the torchrun that started it as one of several; None if it is alone.
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


def alive(process: psutil.Process) -> bool:
    """Whether a process still does anything; a dead one whose parent has not asked for its end does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# ---- the record in a run folder --------------------------------------------------------------------------------------


def read_process(folder: Path) -> RecordedProcess | None:
    """The process that a folder names; None if there is none, or ``pid.txt`` is not the one that kdyolo wrote.

    Raises:
        RunError: ``process.json`` is damaged.
    """
    path = folder / PROCESS_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        launcher = content.pop("launcher")
        found = RecordedProcess(**content, launcher=tuple(launcher) if launcher else None)
        pid = (folder / PID_NAME).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise RunError(
            f"{path}: damaged ({e}). If the run has ended, remove it and {PID_NAME}: no result is in them."
        ) from e
    return found if pid == str(found.pid) else None


def forget_process(folder: Path) -> None:
    """Remove ``pid.txt`` and what belongs to it."""
    for name in (PID_NAME, PROCESS_NAME):
        (folder / name).unlink(missing_ok=True)


def refuse_running(folder: Path) -> RecordedProcess | None:
    """Refuse to work in a folder in which another process is at work.

    Returns:
        A process of another machine, of which nobody here can say whether it still runs.

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
            f"Look with kdyolo logs {folder}, end it with kdyolo stop {folder}."
        )
    return found


@contextlib.contextmanager
def pid_file(folder: Path) -> Iterator[RecordedProcess | None]:
    """Name this process in a folder for as long as it works there; after ``kill -9`` the record stays, and is stale.

    Yields:
        A process of another machine that was named there, and may still run.

    Raises:
        RunError: Another process of this machine works in it.
    """
    elsewhere = refuse_running(folder)
    me = RecordedProcess.current()
    for name, text in ((PROCESS_NAME, json.dumps(asdict(me))), (PID_NAME, str(me.pid))):
        partial = folder / f"{name}.partial"
        partial.write_text(f"{text}\n", encoding="utf-8")
        partial.replace(folder / name)
    try:
        yield elsewhere
    finally:
        if read_process(folder) == me:
            forget_process(folder)


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM (``kill``, a scheduler) end what runs here as Ctrl-C does, so that it can clean up.

    Only in the main thread, where Python handles signals, and only if nobody else has decided what SIGTERM does.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def at_work(folder: Path | None) -> Iterator[RecordedProcess | None]:
    """Work in a folder, named there unless another rank is, and clean up when SIGTERM comes; see :func:`pid_file`."""
    with ended_by_sigterm(), contextlib.ExitStack() as stack:
        yield stack.enter_context(pid_file(folder)) if folder else None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


# ---- starting and ending ---------------------------------------------------------------------------------------------


def launch(
    command: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    dies_with_parent: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a ``python -m kdyolo …`` of its own session: neither Ctrl-C nor the end of the terminal reaches it.

    Args:
        command: What to start.
        log: File that stdout and stderr are appended to; stdin is empty.
        cwd: Folder to start in.
        env: Variables to set beside those of this process.
        dies_with_parent: On Linux, send it SIGTERM when the *thread* that calls this ends, however that happens.

    Raises:
        RunError: This system has no sessions.
    """
    if os.name != "posix":
        raise RunError("background runs need Linux or macOS. Start the command in a terminal of its own instead.")
    # The request travels in the environment and is met by the child itself (see `honour_launch`): code that runs
    # between fork and exec may deadlock in a parent with threads.
    own = {_PARENT: str(os.getpid()) if dies_with_parent else "0", "PYTHONUNBUFFERED": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(env or {}), **own},
            start_new_session=True,
        )


def honour_launch() -> None:
    """Do what :func:`launch` asked for, in the process that it started; in any other nothing."""
    parent = os.environ.pop(_PARENT, None)
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs inherit that it is ignored
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # and Ray's that it is blocked
    if int(parent) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != int(parent):  # it ended before it could be asked for
            sys.exit(128 + signal.SIGTERM)


def end(root: psutil.Process, timeout: float) -> signal.Signals | None:
    """End a process with all that it started: as Ctrl-C does, then SIGTERM, at last SIGKILL.

    Only ``root`` is asked: it knows how to end its own (torchrun its ranks, a trainer its data loader workers). A whole
    process group could hold strangers, such as the script that started the run. What is left of its own is killed.

    Args:
        root: The process.
        timeout: Seconds that it gets after each of the first two signals.

    Returns:
        The signal that ended it; None if it had ended before.

    Raises:
        RunError: It is another user's.
    """
    tree = [root]
    with contextlib.suppress(psutil.NoSuchProcess):
        tree += root.children(recursive=True)
    sent = None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if not alive(root):
            break
        _send(root, number)
        sent = number
        _wait([root], timeout)
    if not _wait(tree[1:], LEFTOVERS if sent != signal.SIGKILL else 0):
        for process in filter(alive, tree[1:]):
            _send(process, signal.SIGKILL)
        _wait(tree, timeout)
    return sent


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)  # psutil looks first whether the number is still this process's
    except psutil.NoSuchProcess:
        pass  # it ended by itself meanwhile
    except psutil.AccessDenied as e:
        raise RunError(f"process {process.pid} is another user's ({process.username()}): ask them to end it.") from e


def _wait(processes: Sequence[psutil.Process], timeout: float) -> bool:
    """Whether all have ended within so many seconds."""
    deadline = time.monotonic() + timeout
    while any(alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
