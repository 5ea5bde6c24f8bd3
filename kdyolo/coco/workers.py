"""Use every core: a task cut into shares, each in a forked process where forking is safe."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from kdyolo.coco.progress import INTERVAL, Progress
from kdyolo.errors import KDYOLOError

_MOST = 8
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>; forking is Linux only here

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def no_collection() -> Iterator[None]:
    """Spare the search for cycles among millions of records that have none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def share(
    work: Callable[[Sequence[T]], R], items: Sequence[T], *, at_least: int, progress: Progress, apart: bool = False
) -> list[R]:
    """Call ``work`` on consecutive runs of ``items`` that together are all of them, in order, and give the results.

    Forked processes, one for each core, see everything that ``work`` refers to as it is now; only what it returns
    travels, so changes that it makes elsewhere are lost. This process waits and draws the progress.

    Args:
        work: called once for each run, and for no items at all if there are none.
        items: what to do.
        at_least: fewer items than that are not worth a process.
        progress: counts what all of them do.
        apart: fork even for a single run, since ``work`` loads what starts threads, which would end all forking here.

    Raises:
        KDYOLOError: a process was killed; and whatever ``work`` raises.
    """
    count = max(1, min(cores(), len(items) // at_least))
    size = max(1, -(-len(items) // count))
    runs = [items[start : start + size] for start in range(0, len(items), size)] or [items]
    if not _may_fork() or (len(runs) == 1 and not apart):
        return [work(items)]
    context = multiprocessing.get_context("fork")
    children = []
    try:
        for number, run in enumerate(runs, start=1):
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(sender, work, run, progress, number), daemon=True)
            child.start()
            sender.close()
            children.append((child, receiver))
        results = [_receive(receiver, progress) for _, receiver in children]
    finally:
        for child, _ in children:
            child.terminate()
            child.join()
    return results


def _child(
    sender: Connection, work: Callable[[Sequence[T]], R], run: Sequence[T], progress: Progress, number: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them, and the parent ends the others
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # die with the parent, also if that is killed
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # if this process loads numpy: its threads would spin on the others' cores
    progress.number = number
    try:
        result: tuple[R | None, Exception | None] = work(run), None
    except Exception as error:
        result = None, error
    with suppress(BrokenPipeError):  # the parent was killed, so nobody is left to tell
        sender.send(result)


def _receive(receiver: Connection, progress: Progress) -> Any:
    while not receiver.poll(INTERVAL):
        progress.draw()
    try:
        result, error = receiver.recv()
    except EOFError:
        raise KDYOLOError("a process of the conversion was killed, perhaps for want of memory. Try again.") from None
    if error is not None:
        raise error
    return result


def cores() -> int:
    """How many processes to use: more than a few would only wait for the file system."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST)


def _may_fork() -> bool:
    """Forking copies one thread only, so it is safe while there is no other: not once torch or numpy runs its pool."""
    return sys.platform == "linux" and len(list(Path("/proc/self/task").iterdir())) == 1
