"""Optimizer under a freeze schedule: a learning rate for each part, exact steps after a resume, early stopping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils.torch_utils import EarlyStopping

from kdyolo.models.freeze_schedule import HEAD, FreezeSchedule
from kdyolo.models.freezing import split_param_groups


class ScheduledRates:
    """Learning rate of every optimizer group, as a freeze schedule has it.

    Progress counts the epochs done so far, fractions included: 2.5 is the middle of the third epoch.

    Args:
        schedule: Freeze schedule of the run.
    """

    def __init__(self, schedule: FreezeSchedule) -> None:
        self.schedule = schedule
        self._part_of = {group: part for part, group in schedule.groups().items()}  # one part stands for its group

    def split(self, optimizer: torch.optim.Optimizer, parts: Mapping[str, list[nn.Module]]) -> None:
        """Split the groups of a new optimizer by part of the backbone, so that each can have its own learning rate.

        Args:
            optimizer: Optimizer that has not made a step; a plain schedule leaves it alone.
            parts: Part of the backbone → its layers.
        """
        if not self.schedule.is_plain:
            optimizer.param_groups[:] = split_param_groups(optimizer.param_groups, parts, self.schedule)

    def factors(self, groups: Sequence[Mapping[str, Any]], progress: float) -> list[float]:
        """The schedule's factor on the learning rate of each optimizer group."""
        parts = (self._part_of.get(group.get("part", HEAD), HEAD) for group in groups)
        return [self.schedule.lr_factor(part, progress) for part in parts]

    @contextmanager
    def applied(self, optimizer: torch.optim.Optimizer, progress: float) -> Iterator[None]:
        """Have the schedule's factors on the learning rates for one step; then they are as Ultralytics set them."""
        groups = optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group, factor in zip(groups, self.factors(groups, progress), strict=True):
            group["lr"] *= factor
        try:
            yield
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def logged(self, optimizer: torch.optim.Optimizer, epoch: int, progress: float, trainable: int) -> dict[str, float]:
        """Learning rate that every group really has, and the phase of the schedule, for loggers and ``results.csv``.

        Args:
            optimizer: Optimizer whose groups were split.
            epoch: Epoch, from 0.
            progress: Epochs done so far.
            trainable: Number of parameters that train in this epoch.

        Returns:
            ``lr/<part>/<kind>`` → learning rate, ``freeze/frozen_parts`` and ``freeze/trainable_parameters`` → counts.
        """
        rates: dict[str, float] = {}
        groups = optimizer.param_groups
        for group, factor in zip(groups, self.factors(groups, progress), strict=True):
            name = f"lr/{group['part']}/{group['param_group']}"
            rates[name if name not in rates else f"{name}-2"] = group["lr"] * factor  # MuSGD has a fast and a slow one
        frozen = len(self.schedule.frozen_parts(epoch))
        return {**rates, "freeze/frozen_parts": frozen, "freeze/trainable_parameters": trainable}


class StepOffset:
    """Optimizer steps that come, after a resume, at the iterations at which the uninterrupted run makes them.

    Ultralytics steps when ``iteration − last step ≥ accumulate``, and in a new process takes −1 for the last step.
    Until its first step there, ``accumulate`` is raised by the difference; the warm-up sets it anew at each iteration.

    Iterations count the batches of the whole run, from 0.

    Attributes:
        last_step: Iteration of the last optimizer step; −1 before the first.
        gradients: Gradients that waited for their step when the run was interrupted, by parameter name; None where
            there is nothing to resume, or once they are in the model.
    """

    def __init__(self) -> None:
        self.last_step = -1
        self.gradients: dict[str, Tensor] | None = None
        self._nominal: int | None = None  # Ultralytics' own accumulate, while the raised one stands in for it
        self._raised = -1

    def resume(self, last_step: int, gradients: dict[str, Tensor]) -> None:
        """Continue after a step of an earlier process, with the gradients that have accumulated since."""
        self.last_step, self.gradients = last_step, gradients

    def before_batch(self, model: nn.Module, accumulate: int) -> int:
        """Put waiting gradients into the model, and raise ``accumulate`` until the first step of this process.

        Args:
            model: Model that trains, not wrapped.
            accumulate: Batches to a step, as the trainer has it now: Ultralytics' value, or the one returned last.

        Returns:
            Batches to a step with which Ultralytics steps at the right iteration.
        """
        if self.gradients is not None:
            for name, parameter in model.named_parameters():
                parameter.grad = self.gradients.get(name)
            self.gradients, self._nominal = None, accumulate
        if self._nominal is None:
            return accumulate
        if accumulate != self._raised:  # the warm-up has set it anew
            self._nominal = accumulate
        self._raised = self._nominal + self.last_step + 1
        return self._raised

    def after_step(self, iteration: int, accumulate: int) -> int:
        """Note a step; from the first one in a process on, Ultralytics' own count is right.

        Args:
            iteration: Iteration at which the step was made.
            accumulate: Batches to a step, as the trainer has it now.

        Returns:
            Batches to a step without the difference.
        """
        self.last_step = iteration
        nominal, self._nominal = self._nominal, None
        return accumulate if nominal is None else nominal


class EarlyStoppingAfterUnfreeze(EarlyStopping):  # type: ignore[misc]
    """Early stopping whose patience counts only epochs in which everything trains.

    A frozen backbone makes mAP level off before the unfreezing that is meant to lift it; that plateau must not end the
    run.

    Args:
        patience: Epochs without improvement, as in Ultralytics.
        frozen_epochs: Number of epochs at the start of the run that do not count.
    """

    patience: float
    best_fitness: float
    best_epoch: int

    def __init__(self, patience: float, frozen_epochs: int) -> None:
        super().__init__(patience)
        self.frozen_epochs = frozen_epochs

    @classmethod
    def instead_of(cls, stopper: Any, frozen_epochs: int) -> EarlyStoppingAfterUnfreeze:
        """Stopping with the patience and the progress of Ultralytics' own, also of a run that is resumed."""
        new = cls(stopper.patience, frozen_epochs)
        new.best_fitness, new.best_epoch = stopper.best_fitness, stopper.best_epoch
        return new

    def __call__(self, epoch: int, fitness: float | None) -> bool:
        """Whether to stop after this epoch (counted from 1), whose fitness was just measured."""
        patience = self.patience
        # delta = epoch - best_epoch ≥ patience + (frozen - best_epoch) says: epoch - frozen ≥ patience
        self.patience = patience + max(0, self.frozen_epochs - self.best_epoch)
        try:
            return bool(super().__call__(epoch, fitness))
        finally:
            self.patience = patience
