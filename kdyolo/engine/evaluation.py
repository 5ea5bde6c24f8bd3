"""Evaluation within a run: official COCO metrics in results.csv when they are due, and on rank 0 alone."""

from __future__ import annotations

from copy import copy
from math import nan
from pathlib import Path
from typing import Any

import psutil
import torch

from kdyolo.engine import distributed
from kdyolo.engine.optimizer import ScheduledTrainer
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.engine.validator import KDValidator
from kdyolo.metrics.names import COLUMNS
from kdyolo.runs.files import MEMORY_COLUMN
from kdyolo.utils.ultralytics_patches import as_single_process


class EvaluatedTrainer(ScheduledTrainer):
    """Ultralytics' trainer, evaluated with kdyolo's validator after each epoch and, on ``best.pt``, at the end.

    Attributes:
        settings: kdyolo's own options.
    """

    # Set by Ultralytics' trainer, which carries no type information.
    save_dir: Path
    data: dict[str, Any]
    device: torch.device
    validator: KDValidator

    settings: TrainOptions

    def get_validator(self) -> KDValidator:
        """The validator of every epoch and of ``best.pt``."""
        validator = KDValidator(
            self.test_loader,
            save_dir=self.save_dir,
            args=copy(self.args),
            _callbacks=self.callbacks,
            resize=self.settings.resize,
        )
        validator.period = self.settings.coco_eval_period
        return validator

    def prepare_evaluation(self) -> None:
        """Read the annotations that the run will be scored with: a mistake in them must not end it after days.

        Raises:
            KDYOLOError: Official metrics cannot be computed, though they were asked for or the data set names a JSON.
        """
        if distributed.is_distributed():
            distributed.run_on_rank_zero(self._prepare)
        else:
            self._prepare()

    def _prepare(self) -> None:
        self.validator.prepare(self.data)

    def validate(self) -> Any:
        """Evaluate on rank 0; the others go on to where they wait for its verdict."""
        if not distributed.is_distributed():
            return super().validate()
        if not distributed.is_rank_zero():
            return None, None
        with as_single_process(self):
            return super().validate()

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Ultralytics' row of ``results.csv`` and the memory in use; with a period, also the official metrics.

        The header is written once, so every row needs all columns, in one order: metrics that are not due are ``nan``.
        """
        if self.settings.coco_eval_period:
            official = {column: metrics.get(column, nan) for column in COLUMNS}
            metrics = {**{k: v for k, v in metrics.items() if k not in official}, **official}
        super().save_metrics({**metrics, MEMORY_COLUMN: self._peak_memory()})

    def _peak_memory(self) -> float:
        """GiB: the most that torch has reserved on the GPU in this epoch; on a CPU what the process holds now."""
        if self.device.type != "cuda":
            return float(psutil.Process().memory_info().rss / 2**30)
        peak: float = torch.cuda.max_memory_reserved(self.device) / 2**30
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak
