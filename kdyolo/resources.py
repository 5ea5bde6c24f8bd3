"""Where the shipped model YAMLs and recipes are: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

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
