"""Official metrics within a run: annotations read before it starts, columns of results.csv, peak memory."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any, Protocol

import psutil
import torch

from kdyolo.engine.ranks.agreement import in_agreement
from kdyolo.metrics.names import COLUMNS
from kdyolo.runs.files import MEMORY_COLUMN


class OfficialValidator(Protocol):
    """Validator that computes official metrics when they are due, such as :class:`kdyolo.KDValidator`.

    Attributes:
        period: Epochs from one computation of official metrics to the next while training; 0 for none.
    """

    period: int

    def prepare(self, data: dict[str, Any]) -> None:
        """Read the annotations of a data set.

        Raises:
            KDYOLOError: Official metrics cannot be computed.
        """


class OfficialEvaluation:
    """Official metrics of a run: every few epochs, and always of ``best.pt`` at the end.

    Args:
        period: Epochs from one computation to the next; 0 for the end of the run only.
        device: Device that trains, whose memory is measured.
    """

    def __init__(self, period: int, device: torch.device) -> None:
        self.period = period
        self.device = device

    def begin(self, validator: OfficialValidator, data: dict[str, Any]) -> None:
        """Tell a validator when metrics are due, and have it read the annotations, on all ranks.

        A mistake in the annotations must not end a run after days, nor one rank alone.

        Args:
            validator: Validator of the run.
            data: Data set, as Ultralytics reads its YAML.

        Raises:
            KDYOLOError: Official metrics cannot be computed, though they were asked for or the data set names a JSON.
        """
        validator.period = self.period
        with in_agreement():
            validator.prepare(data)

    def row(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of ``results.csv`` for an epoch: its metrics, with a period the official ones, and memory in use.

        The header is written once, so every row needs all columns, in one order: metrics that are not due are ``nan``.
        """
        official = {column: metrics.get(column, nan) for column in COLUMNS} if self.period else {}
        others = {name: value for name, value in metrics.items() if name not in official}
        return {**others, **official, MEMORY_COLUMN: self._peak_memory()}

    def _peak_memory(self) -> float:
        """GiB: the most that torch has reserved on the GPU in this epoch; on a CPU what the process holds now."""
        if self.device.type != "cuda":
            return float(psutil.Process().memory_info().rss / 2**30)
        peak: float = torch.cuda.max_memory_reserved(self.device) / 2**30
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak
