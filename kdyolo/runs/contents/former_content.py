"""Former content of a run folder that a run writes over: noted before, and put back where the run saves nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdyolo.runs.files import (
    ARGS_NAME,
    LAST_NAME,
    LOG_NAME,
    PICTURE_NAME,
    RECORD_NAME,
    RESULTS_NAME,
    STATE_NAME,
    WEIGHTS_FOLDER,
    weights_file,
)
from kdyolo.utils.atomic import write_atomic

# What a run writes into its folder before its first epoch is saved.
EARLY = (ARGS_NAME, RECORD_NAME, RESULTS_NAME, PICTURE_NAME, LOG_NAME, "labels*.jpg", "*_batch*.jpg")


@dataclass(frozen=True)
class FormerContent:
    """What a run folder held before the run, of that which the run writes over.

    Attributes:
        folder: The run folder, there or not.
        files: File → bytes, of files that match :data:`EARLY`.
        saved: File in ``weights/`` → what tells it from a later one of its name.
        had_weights: Whether there was a ``weights/``.
        is_log: Whether it was the log alone, as a detached run that failed early leaves it.
    """

    folder: Path
    files: Mapping[Path, bytes] = field(repr=False)
    saved: Mapping[Path, tuple[int, ...]]
    had_weights: bool
    is_log: bool

    @classmethod
    def of(cls, folder: Path) -> FormerContent:
        """What a folder holds now."""
        files = {path: path.read_bytes() for path in _early_files(folder)}
        names = {path.name for path in folder.iterdir()}
        return cls(folder, files, saved_files(folder), WEIGHTS_FOLDER in names, names == {LOG_NAME})

    def put_back(self, keep_log: bool) -> None:
        """Bring the files back, and remove those that were not there."""
        for path in _early_files(self.folder):
            if path not in self.files and not (keep_log and path.name == LOG_NAME):
                path.unlink()
        for path, content in self.files.items():
            if not (keep_log and path.name == LOG_NAME) and (not path.exists() or path.read_bytes() != content):
                write_atomic(path, content)
        weights = self.folder / WEIGHTS_FOLDER
        if weights.is_dir() and not self.had_weights:
            shutil.rmtree(weights)


def _early_files(folder: Path) -> list[Path]:
    return [path for pattern in EARLY for path in sorted(folder.glob(pattern)) if path.is_file()]


def saved_files(folder: Path) -> dict[Path, tuple[int, ...]]:
    """Checkpoint and state that a run can go on from, each with what changes when it is written anew."""
    files = (weights_file(folder, name) for name in (LAST_NAME, STATE_NAME))
    found = {path: path.stat() for path in files if path.is_file()}
    return {path: (of.st_ino, of.st_size, of.st_mtime_ns) for path, of in found.items() if of.st_size}


def empty_folder(folder: Path, but: str) -> None:
    """Remove everything in a folder but one file."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != but:
            path.unlink()
