"""Distillations that the backbones of compared runs come from: teacher, length, time, and what was learned."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdyolo.distillation.run.verdict import kept_row, verdict
from kdyolo.errors import RunError
from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.runs.files import is_run
from kdyolo.runs.history import Run, read_run
from kdyolo.utils.hashing import sha256_of_file
from kdyolo.utils.plain_files import is_file


@dataclass(frozen=True)
class DistillationFacts:
    """One distillation, whose time is in none of the arms' own.

    Attributes:
        arms: Names of the arms with runs that start from its backbone.
        folder: Its run folder.
        teacher: Name of the teacher.
        licence: Licence of the teacher's weights, as its run recorded it.
        taps: What taught which level.
        images: Number of images that it learned from.
        epochs: Number of its epochs.
        seconds: Duration of all epochs; NaN where a part of it is not known.
        cosines: Level → centred cosine on held-out images after the epoch that its backbone is of.
        floors: Level → the same of position alone.
        verdict: The verdict with its numbers.
    """

    arms: tuple[str, ...]
    folder: str
    teacher: str
    licence: str
    taps: str
    images: int | None
    epochs: int
    seconds: float
    cosines: Mapping[str, float]
    floors: Mapping[str, float]
    verdict: str


def find_distillations(arms: Sequence[Arm]) -> tuple[DistillationFacts, ...]:
    """Distillations that are still on this machine, in the order of the arms."""
    found: dict[Path, tuple[Run, list[str]]] = {}
    for arm in arms:
        for run in arm.runs:
            if (distilled := _distilled(run)) is not None:
                names = found.setdefault(distilled.path, (distilled, []))[1]
                names += [] if arm.name in names else [arm.name]
    return tuple(_facts(run, names) for run, names in found.values())


def _distilled(run: Run) -> Run | None:
    """The distillation that a run's backbone comes from; None where there is none, or its file is another one now."""
    backbone = (run.record or {}).get("backbone") or {}
    for file in _places(run, backbone.get("path")):
        if is_file(file) and is_run(file.parent) and sha256_of_file(file) == backbone.get("sha256"):
            try:
                found = read_run(file.parent)
            except RunError:  # of the detectors, not of this, a comparison is asked for
                return None
            distilled = found.args.get("task") == "distill" and found.record is not None and found.epochs
            return found if distilled else None
    return None


def _places(run: Run, path: Any) -> Iterator[Path]:
    """Where a backbone's file may lie: as recorded, or in the same study where that was moved as a whole."""
    if isinstance(path, str) and path:
        yield Path(path)
        yield run.path.resolve().parent.parent / Path(*Path(path).parts[-3:])


def _facts(run: Run, arms: Sequence[str]) -> DistillationFacts:
    settings: Mapping[str, Any] = (run.record or {}).get("settings") or {}
    row = kept_row(run.columns) if {"val/loss", "epoch"} <= run.columns.keys() else {}
    floors = {name.partition("/")[2]: value for name, value in row.items() if name.startswith("floor/")}
    cosines = {level: row.get(f"cosine/{level}", math.nan) for level in floors}
    complete = floors and all(f"{what}/{level}" in row for what in ("cosine", "rank", "dead") for level in floors)
    images = settings.get("train_images")
    return DistillationFacts(
        arms=tuple(arms),
        folder=str(run.path),
        teacher=str(settings.get("teacher")),
        licence=str(settings.get("teacher_licence")),
        taps=str(settings.get("taps")),
        images=images if isinstance(images, int) else None,
        epochs=run.epochs[-1],
        seconds=math.fsum(run.seconds),
        cosines=cosines,
        floors=floors,
        verdict=verdict(run.columns) if complete else "no proof was recorded",
    )
