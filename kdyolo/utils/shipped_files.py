"""What there is to use: shipped model YAMLs and recipes (in an installed package, or beside it), and CPU cores."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path


@lru_cache
def cfg_dir() -> Path:
    """The folder that holds ``models/`` and ``recipes/``."""
    package = Path(str(files("kdyolo")))
    installed, checkout = package / "cfg", package.parent / "cfg"
    return installed if installed.is_dir() else checkout


def shipped(kind: str) -> dict[str, Path]:
    """File name → path of everything shipped of one kind (``"models"`` or ``"recipes"``)."""
    return {path.name: path for path in sorted((cfg_dir() / kind).glob("*.yaml"))}


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """``" Did you mean 'x'?"``, or nothing if no known word is close."""
    close = get_close_matches(word, known, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


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
