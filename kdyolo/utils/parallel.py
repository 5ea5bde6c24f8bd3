"""Work shared among forked processes, one for each core, where forking is safe.

Processes are forked only while there is one thread: always in ``kdyolo convert``, never once torch or NumPy runs its
pool. Then one process does all, and the result is the same. Work that loads NumPy is forked even where one process
would do (``apart``), so that NumPy never gets into the process that forks again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from kdyolo.errors import KDYOLOError
from kdyolo.utils.progress import INTERVAL, Progress
from kdyolo.utils.system import cores, die_with_parent

_RUNS_EACH = 32  # for each process: enough that all end at about the same time; 256 in all, as a ticket is a byte

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(
    work: Callable[[Sequence[T]], R],
    items: Sequence[T],
    *,
    at_least: int,
    progress: Progress,
    apart: bool = False,
    meanwhile: Callable[[], None] | None = None,
) -> list[R]:
    """Call ``work`` on consecutive runs of ``items`` that together are all of them, in order, and give the results.

    Forked processes, one for each core, see everything that ``work`` refers to as it is now; only what it returns
    travels, so changes that it makes elsewhere are lost. Each takes the next run as soon as it has done one. This
    process draws the progress and waits.

    Args:
        work: The function to call on each run; if there are no items, it is called once on none.
        items: All items, in order.
        at_least: Number of items that make a process worth while.
        progress: The line that counts what all processes do.
        apart: Fork even for a single process, since ``work`` loads what starts threads, which would end all forking
            here.
        meanwhile: A function to call once in this process, which has nothing to do while others work.

    Returns:
        What ``work`` gave for each run, in the order of the items.

    Raises:
        KDYOLOError: A process was killed; and whatever ``work`` and ``meanwhile`` raise.
    """
    count = max(1, min(cores(), len(items) // at_least))
    if not _may_fork() or (count == 1 and not apart):
        if meanwhile:
            meanwhile()
        return [work(items)]
    size = max(1, -(-len(items) // (count * _RUNS_EACH)))
    runs = [items[start : start + size] for start in range(0, len(items), size)] or [items]
    tickets = _tickets(len(runs))
    context = multiprocessing.get_context("fork")
    children = []
    try:
        with _interruptions_held_back():
            for number in range(1, count + 1):
                receiver, sender = context.Pipe(duplex=False)
                arguments = (sender, work, runs, tickets, progress, number)
                child = context.Process(target=_child, args=arguments, daemon=True)
                child.start()
                sender.close()
                children.append((child, receiver))
        if meanwhile:
            meanwhile()
        results: dict[int, R] = dict(_results([receiver for _, receiver in children], progress))
    finally:
        os.close(tickets)
        for child, receiver in children:
            child.terminate()
            child.join()
            receiver.close()
    return [results[number] for number in range(len(runs))]


@contextmanager
def _interruptions_held_back() -> Iterator[None]:
    """Signals are followed afterwards: Python drops what they raise while it runs what is to be called at a fork."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _tickets(count: int) -> int:
    """A pipe with the numbers 0…count−1, a byte each: every number reaches one reader, and then the pipe ends."""
    reader, writer = os.pipe()
    os.write(writer, bytes(range(count)))
    os.close(writer)
    return reader


def _child(
    sender: Connection,
    work: Callable[[Sequence[T]], R],
    runs: Sequence[Sequence[T]],
    tickets: int,
    progress: Progress,
    number: int,
) -> None:
    """Work in a forked process, run after run, until the tickets end; the last message is None, or an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them, and the parent ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which it does so, whatever that means to itself
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    die_with_parent(signal.SIGKILL)  # also if that is killed
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # if this process loads numpy: its threads would spin on the others' cores
    progress.number = number
    with suppress(BrokenPipeError):  # the parent was killed, so no one is left to tell
        try:
            while ticket := os.read(tickets, 1):
                sender.send((ticket[0], work(runs[ticket[0]])))
            sender.send(None)
        except Exception as error:
            sender.send(error)


def _results(receivers: Sequence[Connection], progress: Progress) -> Iterator[tuple[int, Any]]:
    """(number of a run, its result), as they come in."""
    waiting = list(receivers)
    while waiting:
        progress.draw()
        for receiver in wait(waiting, INTERVAL):
            assert isinstance(receiver, Connection)
            try:
                message = receiver.recv()
            except EOFError:
                message = KDYOLOError("a process of the conversion was killed, perhaps for want of memory. Try again.")
            if isinstance(message, Exception):
                raise message
            if message is None:
                waiting.remove(receiver)
            else:
                yield message


def _may_fork() -> bool:
    """Forking copies one thread only, so it is safe while there is no other: not once torch or numpy runs its pool."""
    return sys.platform == "linux" and len(list(Path("/proc/self/task").iterdir())) == 1
