"""Rows of a distillation's ``results.csv``, one for each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def append_row(path: Path, row: Mapping[str, float]) -> None:
    """Append an epoch; the first one also writes the header. A run that an older version began keeps its columns.

    Args:
        path: The file.
        row: Column → value; ``epoch`` counts from 1.
    """
    new = not path.is_file()
    with path.open("a+", encoding="utf-8") as file:
        if new:
            file.write(",".join(row) + "\n")
        file.seek(0)
        names = file.readline().rstrip("\n").split(",")
        file.write(",".join(f"{row[name]:.6g}" for name in names) + "\n")
