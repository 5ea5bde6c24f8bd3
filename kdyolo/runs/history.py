"""History of a run: what happened in its folder, epoch by epoch, of kdyolo's runs and of stock Ultralytics' alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kdyolo.arguments import checked
from kdyolo.errors import ConfigError, RunError
from kdyolo.models.freeze_schedule import FreezeSchedule
from kdyolo.runs.contents.readers import read_args, read_record, read_scores
from kdyolo.runs.files import BEST_NAME, MAP, RECORD_NAME, RESULTS_NAME, STATE_NAME, run_folder_of, weights_file
from kdyolo.runs.results_csv import epoch_durations, read_results
from kdyolo.utils.plain_files import is_file, is_folder
from kdyolo.utils.tables import ShownInOneLine
from kdyolo.utils.text import plural, quoted


@dataclass(frozen=True, eq=False, repr=False)
class Run(ShownInOneLine):
    """What a run folder holds.

    Attributes:
        path: The run folder.
        args: Ultralytics' settings, from ``args.yaml``.
        record: How the run came about, from ``kdyolo.yaml``; None for a stock run.
        columns: Column of ``results.csv`` → its values, one for each finished epoch; NaN where there is none. ``epoch``
            counts from 1.
        scores: The official metrics of ``best.pt``, per class too, from ``coco_metrics.json``; None where not kept.
        notes: What a person should know about the files, e.g. that a cut-off line was left out.
    """

    path: Path
    args: Mapping[str, Any]
    record: Mapping[str, Any] | None
    columns: Mapping[str, list[float]]
    scores: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    _seconds: list[float] = field(default_factory=list, repr=False)

    def headline(self) -> str:
        """The folder, how far it is, and its best mAP50-95."""
        best = self.value(MAP)
        score = "" if math.isnan(best) else f", best mAP50-95 {best:.3f}"
        return f"{self.path}, {len(self.epochs)} of {plural(self.planned_epochs, 'epoch')}{score}"

    def facts(self) -> dict[str, str]:
        """How far the run is, its best epoch, and the official AP of its ``best.pt`` where that was kept."""
        best, official = self.value(MAP), (self.scores or {}).get("AP")
        return {
            "run": str(self.path),
            "epochs": f"{len(self.epochs)} of {self.planned_epochs}",
            "best mAP50-95": "–" if math.isnan(best) else f"{best:.3f}",
            "in epoch": str(self.best_epoch() or "–"),
            "official AP": f"{official:.3f}" if isinstance(official, float) else "–",
        }

    @property
    def epochs(self) -> list[int]:
        """The finished epochs, from 1."""
        return [int(epoch) for epoch in self.columns["epoch"]]

    @property
    def planned_epochs(self) -> int:
        """Length of the run as it was asked for."""
        return int(self._planned.get("epochs") or self.args.get("epochs") or 0)

    @property
    def _planned(self) -> Mapping[str, Any]:
        return (self.record or {}).get("schedule") or {}

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train: all epochs are done, or patience has ended it."""
        saved = is_file(weights_file(self.path, BEST_NAME))
        return saved and not is_file(weights_file(self.path, STATE_NAME)) and self._has_ended

    @property
    def trained(self) -> bool:
        """Whether training is over, as far as the epochs tell, even where the weights are gone or not yet evaluated."""
        return self.finished or self._trained_to_the_end

    @property
    def _has_ended(self) -> bool:
        # A kdyolo run keeps resume.pt until it has ended; a stock one leaves no such mark.
        return self.record is not None or self._trained_to_the_end

    @property
    def _trained_to_the_end(self) -> bool:
        """Whether all epochs are done, or a stock run's patience or hours are used up."""
        if not self.epochs:
            return False
        if self.epochs[-1] >= self.planned_epochs > 0:
            return True
        if self.record is not None:  # its patience counts otherwise: see resume.pt
            return False
        hours, patience = self.args.get("time"), self.args.get("patience") or math.inf
        best = self.best_epoch() or self.epochs[-1]
        return self.epochs[-1] - best >= patience or bool(hours and math.fsum(self.seconds) >= hours * 3600)

    @cached_property
    def schedule(self) -> FreezeSchedule:
        """The freeze schedule; of a stock run one that freezes nothing."""
        known = {key: value for key, value in self._planned.items() if key != "thaws"}
        try:
            return FreezeSchedule(**{**known, "epochs": max(self.planned_epochs, 1)})
        except (TypeError, ValueError, ConfigError) as e:
            raise RunError(
                f"{self.path / RECORD_NAME}: its schedule is none that this version knows ({quoted(e)})."
            ) from e

    def phase(self, epoch: int) -> str:
        """What was frozen in an epoch (from 1), e.g. ``"backbone frozen"``; nothing is said of a distillation."""
        return "" if self.args.get("task") == "distill" else self.schedule.phase(epoch - 1)

    def column(self, name: str) -> list[float]:
        """A column of ``results.csv``; all NaN if there is none of this name."""
        return self.columns.get(name) or [math.nan] * len(self.epochs)

    @property
    def seconds(self) -> list[float]:
        """Seconds that each epoch took, validation included.

        NaN for an epoch whose duration is unknown: the clock went back in it, or rows before it are missing. The first
        after a resume is counted from the start of that process.
        """
        return self._seconds

    def best_epoch(self, metric: str = MAP) -> int | None:
        """The epoch (from 1) with the highest value, the first of several; None without any value."""
        values = [(-value, epoch) for value, epoch in zip(self.column(metric), self.epochs, strict=True)]
        known = [pair for pair in values if not math.isnan(pair[0])]
        return min(known)[1] if known else None

    def value(self, metric: str = MAP, at: str = "best") -> float:
        """A metric at the epoch with the best mAP50-95 (what ``best.pt`` is), or at the last; NaN if there is none."""
        if not self.epochs:
            return math.nan
        epoch = self.best_epoch() if at == "best" else self.epochs[-1]
        return math.nan if epoch is None else self.column(metric)[self.epochs.index(epoch)]


@checked
def read_run(path: str | Path) -> Run:
    """Read a run folder, of a run that is finished, interrupted or going on.

    Args:
        path: The folder, or a checkpoint in its ``weights/``.

    Returns:
        The run; with no epochs, if none is finished.

    Raises:
        RunError: The path is no run folder, or a file in it is damaged beyond a cut-off last line.

    Examples:
        >>> from kdyolo import read_run
        >>> read_run("runs/detect/train").epochs
        [1, 2, 3]
    """
    folder = run_folder_of(Path(path))
    if not is_folder(folder):
        raise RunError(f"{path}: no such run folder.")
    args = read_args(folder)
    columns, notes = read_results(folder / RESULTS_NAME)
    seconds, time_notes = epoch_durations(columns["epoch"], columns.get("time") or [math.nan] * len(columns["epoch"]))
    return Run(
        path=folder,
        args=args,
        record=read_record(folder),
        columns=columns,
        scores=read_scores(folder),
        notes=(*notes, *time_notes),
        _seconds=seconds,
    )
