"""Recovery from NaN on several ranks: all return to the epoch that rank 0 saved last."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from ultralytics.utils import LOGGER

from kdyolo.engine.resume import Resumable, read_state
from kdyolo.errors import RunError
from kdyolo.utils import distributed


class Recoverable(Resumable, Protocol):
    """What a trainer has, beyond its state, that recovers from NaN.

    Attributes:
        loss: Loss of the last batch; None before the first.
        fitness: Fitness of the last evaluation; None before the first.
        nan_recovery_attempts: How often this epoch was repeated.
        scheduler: Scheduler of the learning rate.
        last: The run's ``last.pt``.
    """

    loss: Tensor | None
    fitness: float | None
    nan_recovery_attempts: int
    scheduler: Any
    last: Path


def recover_on_all_ranks(trainer: Recoverable, epoch: int) -> bool:
    """Return to the last epoch after NaN, from the state that rank 0 keeps: other ranks may not see its files.

    Args:
        trainer: Trainer of this rank.
        epoch: Epoch that has just ended, from 0.

    Returns:
        Whether the epoch is to be repeated.

    Raises:
        RunError: It was repeated three times already.
    """
    loss, fitness = trainer.loss, trainer.fitness
    finite = (loss is None or bool(loss.isfinite())) and (fitness is None or isfinite(fitness))
    if distributed.broadcast(finite) or epoch == trainer.start_epoch:
        return False
    trainer.nan_recovery_attempts += 1
    if trainer.nan_recovery_attempts > 3:
        raise RunError("NaN or Inf in the loss again after 3 attempts to recover from last.pt.")
    LOGGER.warning(f"NaN or Inf detected (attempt {trainer.nan_recovery_attempts}/3), recovering from last.pt...")
    start_epoch = trainer.start_epoch
    distributed.run_on_rank_zero(read_state, trainer.last).apply(trainer)
    trainer.start_epoch, trainer.scheduler.last_epoch = start_epoch, epoch - 1
    trainer.steps.forget()
    return True
