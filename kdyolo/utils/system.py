"""The machine and this process: cores, threads to train with, memory, end with the parent."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOST = 8  # processes; more would only wait for the file system
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


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
    return usable_cores()


@contextmanager
def pause_gc() -> Iterator[None]:
    """Spare Python's search for cycles among millions of records that have none; afterwards it is as before."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def usable_cores() -> int:
    """Number of CPU cores that this process may use, at least 1; a container or ``taskset`` may leave it few."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> int:
    """Number of processes to share work among: one for each usable core, at most 8."""
    return min(usable_cores(), _MOST)


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends, however that happens; Linux only, else nothing.

    The parent is the *thread* that started this process. It may have ended before this was asked for: compare
    ``os.getppid()`` where that matters.

    Args:
        number: The signal to receive.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


@contextmanager
def memory_bounded(more: int) -> Iterator[None]:
    """Let this process claim at most so much more memory in a block, in which a claim beyond that is a ``MemoryError``.

    For readers in C that make room for whatever a file says. Linux only; elsewhere nothing is bounded.

    Args:
        more: Bytes of address space.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    bound = pages * os.sysconf("SC_PAGE_SIZE") + more
    known = [limit for limit in (soft, hard, bound) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


IDLE_GPU = "-1"  # as Ultralytics asks for one


def visible_gpus() -> tuple[int, bool]:
    """Number of GPUs that PyTorch sees, and whether it can compute on an Apple one."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()


def idle_gpus(count: int) -> list[int]:
    """PyTorch's numbers of at most ``count`` GPUs that Ultralytics finds idle."""
    from ultralytics.utils.torch_utils import parse_device

    return [int(number) for number in parse_device(",".join([IDLE_GPU] * count)).split(",") if number]
