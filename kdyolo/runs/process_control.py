"""Processes of runs: started apart from the terminal, signalled, ended."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from kdyolo.errors import RunError
from kdyolo.utils.system import die_with_parent

if TYPE_CHECKING:  # else where it is needed: each command imports this module, and psutil takes as long as the rest
    import psutil

POLL = 0.05  # seconds between two looks at a process that is to end
LEFTOVERS = 5.0  # seconds in which what a run started ends by itself, once the run has
AGAIN = 10.0  # seconds after a signal in which another one adds nothing: the process is ending already
_PARENT = "KDYOLO_PARENT"  # environment of a launched process: the process that it must not outlive; 0: none


class Terminated(KeyboardInterrupt):
    """A SIGTERM that ends a run as Ctrl-C does."""


def alive(process: psutil.Process) -> bool:
    """Whether a process still does anything; a dead one whose parent has not asked for its end does not."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# ---- being told to end -----------------------------------------------------------------------------------------------


@dataclass
class _Interrupt:
    """What this process has been told by a signal, and how it takes it."""

    told: type[KeyboardInterrupt] | None = None
    at: float = -math.inf  # seconds of the monotonic clock
    deferred: int = 0  # blocks that are to be finished first

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: raise it, unless it repeats one that is being followed."""
        now = time.monotonic()
        if self.told and now - self.at < AGAIN:
            return
        self.at, self.told = now, self.told or (Terminated if number == signal.SIGTERM else KeyboardInterrupt)
        if not self.deferred:
            raise self.told


_interrupt = _Interrupt()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM (``kill``, a scheduler) end what runs here by an exception, so that it can clean up.

    The first signal is remembered as long as this lasts, so that code which drops every exception only delays it: see
    :func:`raise_if_told_to_end`. Those that follow within :data:`AGAIN` seconds do not disturb the cleaning up.

    Only in the main thread, where Python handles signals, and only those of the two for which no other code has decided
    what they do. Inside another such block it does nothing.

    Raises:
        KeyboardInterrupt: A signal came; :class:`Terminated` for SIGTERM.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    main = threading.current_thread() is threading.main_thread()
    ours = {number: old for number, old in defaults.items() if main and signal.getsignal(number) is old}
    for number in ours:
        signal.signal(number, _interrupt.receive)
    dropped = None
    try:
        yield
        dropped = _interrupt.told
    finally:
        for number, old in ours.items():
            signal.signal(number, old)
        if ours:
            _interrupt.told, _interrupt.at = None, -math.inf
    if dropped and ours:
        raise dropped


def told_to_end() -> type[KeyboardInterrupt] | None:
    """How a signal has told this process to end, as the exception to raise; None if none has."""
    return _interrupt.told


def raise_if_told_to_end() -> None:
    """Raise again what a signal has raised, if it was dropped on its way: to be called where work begins.

    Raises:
        KeyboardInterrupt: This process has been told to end.
    """
    if _interrupt.told:
        raise _interrupt.told


@contextlib.contextmanager
def finished_first() -> Iterator[None]:
    """Let something short, such as saving, come to its end before a signal is followed."""
    _interrupt.deferred += 1
    try:
        yield
    finally:
        _interrupt.deferred -= 1
    if not _interrupt.deferred:
        raise_if_told_to_end()


@contextlib.contextmanager
def signals_noted() -> Iterator[list[signal.Signals]]:
    """Note Ctrl-C and SIGTERM in a list instead of following them; nothing is noted outside the main thread."""
    noted: list[signal.Signals] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda number, frame: noted.append(signal.Signals(number)))
    try:
        yield noted
    finally:
        for number, old in before.items():
            signal.signal(number, old)


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
        command: The program and its arguments.
        log: The file that stdout and stderr are appended to; stdin is empty.
        cwd: The folder to start in; None: the present one.
        env: Environment variables to set beside those of this process.
        dies_with_parent: Whether the process gets SIGTERM when the *thread* that calls this ends, however that
            happens; Linux only.

    Returns:
        The process, in a session of its own.

    Raises:
        RunError: This system has no sessions.
    """
    if os.name != "posix":
        raise RunError("background runs need Linux or macOS. Start the command in a terminal of its own instead.")
    own = {**bound_to_parent(dies_with_parent), "PYTHONUNBUFFERED": "1"}
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


def bound_to_parent(dies_with_parent: bool = True) -> dict[str, str]:
    """Environment by which a kdyolo process that is started now gets SIGTERM when this *thread* ends; Linux only.

    The request is met by the child itself (see :func:`honour_launch`), since code that runs between fork and exec may
    deadlock in a parent with threads.

    Args:
        dies_with_parent: Whether it is to get that signal; otherwise it only listens to signals as usual.
    """
    return {_PARENT: str(os.getpid()) if dies_with_parent else "0"}


def honour_launch() -> None:
    """Do what :func:`launch` asked for, in the process that it started; in any other nothing."""
    parent = os.environ.pop(_PARENT, None)
    if parent is None:
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs inherit that it is ignored
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # and Ray's that it is blocked
    if int(parent) and sys.platform == "linux":
        die_with_parent(signal.SIGTERM)
        if os.getppid() != int(parent):  # it ended before it could be asked for
            sys.exit(128 + signal.SIGTERM)


def end(
    root: psutil.Process, timeout: float, before_killing: Callable[[], object] = lambda: None
) -> signal.Signals | None:
    """End a process with all that it started: as Ctrl-C does, then SIGTERM, at last SIGKILL.

    Only ``root`` is asked: it knows how to end its own (torchrun its ranks, a trainer its data loader workers). A whole
    process group could hold strangers, such as the script that started the run. What is left of its own is killed.

    Args:
        root: The process to end.
        timeout: Seconds that it gets after each of the first two signals.
        before_killing: Called once these were not enough, before SIGKILL.

    Returns:
        The signal that ended the process; None if it had ended before.

    Raises:
        RunError: The process is another user's.
    """
    import psutil

    tree = [root]
    with contextlib.suppress(psutil.NoSuchProcess):
        tree += root.children(recursive=True)
    sent = None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if not alive(root):
            break
        if number == signal.SIGKILL:
            before_killing()
        _send(root, number)
        sent = number
        _wait([root], timeout)
    if not _wait(tree[1:], LEFTOVERS if sent != signal.SIGKILL else 0):
        for process in filter(alive, tree[1:]):
            _send(process, signal.SIGKILL)
        _wait(tree, timeout)
    return sent


def _send(process: psutil.Process, number: signal.Signals) -> None:
    import psutil

    try:
        process.send_signal(number)  # psutil looks first whether the number is still this process's
    except psutil.NoSuchProcess:
        pass  # it ended by itself meanwhile
    except psutil.AccessDenied as e:
        raise RunError(f"process {process.pid} is another user's ({process.username()}): ask them to end it.") from e


def _wait(processes: Sequence[psutil.Process], timeout: float) -> bool:
    """Whether all processes have ended before ``timeout`` seconds were over."""
    deadline = time.monotonic() + timeout
    while any(alive(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True
