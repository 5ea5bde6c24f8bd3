"""Ultralytics' trainer with its memory measured: a batch is never halved in silence, and the one in use is recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdyolo.engine.memory.fitting_batch import NEVER_HALVE, batch_in_use
from kdyolo.engine.memory.meter import MemoryMeter
from kdyolo.engine.ranks.rank_training import RankTraining
from kdyolo.runs.files import BATCH_COLUMN
from kdyolo.runs.results_csv import takes_column


class MeasuredTraining(RankTraining):
    """A training that knows what its steps take.

    Every override extends the method of the same name of Ultralytics' trainer.

    Attributes:
        memory: Memory of the device that trains.
        is_rehearsal: Whether nothing is going to be trained.
    """

    # Set by Ultralytics' trainer, which carries no type information.
    csv: Path
    callbacks: Any

    memory: MemoryMeter
    is_rehearsal = False

    def set_up(self) -> None:
        """Build model, data loaders and optimizer as for a training, and train nothing."""
        self.is_rehearsal = True
        self._setup_train()

    def densest_batch(self, images: int) -> dict[str, Any]:
        """A batch that takes as much memory as any of the run, on the device; drawn from no random state in use."""
        raise NotImplementedError

    def run_callbacks(self, event: str) -> None:
        """Extend ``run_callbacks``: out of memory ends the run in its first epoch too, instead of halving the batch."""
        if event == "on_train_batch_start":
            self._oom_retries = NEVER_HALVE
        super().run_callbacks(event)

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Extend ``save_metrics``: the batch in the row of ``results.csv``."""
        batch = {BATCH_COLUMN: batch_in_use(self)} if takes_column(self.csv, BATCH_COLUMN) else {}
        super().save_metrics({**metrics, **batch})
