"""Shipped files: model YAMLs and recipes, inside an installed package or beside it in a checkout."""

from __future__ import annotations

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
    """The shipped files of one kind (``"models"`` or ``"recipes"``): file name → path, in the order of their names."""
    return {path.name: path for path in sorted((cfg_dir() / kind).glob("*.yaml"))}
