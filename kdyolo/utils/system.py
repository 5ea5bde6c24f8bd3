"""This machine: cores and threads to use, pauses of the garbage collector."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MOST = 8  # processes


def let_threads_sleep() -> None:
    """Ask OpenMP that threads without work sleep (see :func:`cpu_threads`), unless torch has loaded it already."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def cpu_threads() -> int | None:
    """Threads to train with on a CPU; None: as many as Ultralytics takes.

    ``OMP_NUM_THREADS``, if a person set it (1 cannot be told from the 1 that Ultralytics sets whenever it is imported),
    else every core. Ultralytics takes one core less, which on two cores means a step that takes 1.7 times as long. But
    every core is right only if threads sleep while they wait: spinning ones, OpenMP's default, hold up each other as
    soon as anything else runs (measured: steps of 2 s instead of 0.1 s).
    """
    if os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive":
        return None
    asked = os.environ.get("OMP_NUM_THREADS", "1")
    if asked.isdigit() and int(asked) > 1:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def pause_gc() -> Iterator[None]:
    """Spare the search for cycles among millions of records that have none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def cores() -> int:
    """How many processes to use: more than a few would only wait for the file system."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, _MOST)
