"""What there is to use: shipped model YAMLs and recipes (in an installed package, or beside it), and CPU cores."""

from __future__ import annotations

import os
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


def cpu_threads() -> int:
    """Threads for training on a CPU: every core that this process may use, or what ``OMP_NUM_THREADS`` asks for.

    Ultralytics takes one core less, which on two cores means one thread and a step that takes 1.5 times as long. It
    also sets ``OMP_NUM_THREADS=1`` whenever it is imported, so a 1 says nothing about what a person wants.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "1")
    if asked.isdigit() and int(asked) > 1:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
