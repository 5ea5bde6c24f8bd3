"""Optimizer under a freeze schedule: a learning rate for each part, exact steps after a resume, early stopping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import EarlyStopping

from kdyolo.models.freeze_schedule import HEAD, FreezeSchedule
from kdyolo.models.freezing import split_param_groups
from kdyolo.runs.contents.readers import check_optimizer_state

KERNEL_FLAGS = ("fused", "foreach", "capturable")  # how an optimizer computes, not what


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


class OptimizerSteps:
    """Optimizer steps at the iterations at which a run that is never interrupted makes them.

    Ultralytics steps when ``iteration − last step ≥ accumulate``. It knows the steps of its own process only, and sets
    ``accumulate`` anew at each iteration of the warm-up. The same rule is applied here with the last step of the whole
    run, and the answer goes back as an ``accumulate`` that Ultralytics' own count cannot contradict.

    Iterations count the batches of the whole run, from 0.

    Attributes:
        accumulate: Batches to a step, as Ultralytics has it at this iteration.
        last_step: Iteration of the last optimizer step; −1 before the first.
        gradients: Gradients that waited for their step when the run was interrupted, by parameter name; None where
            there is nothing to resume, or once they are in the model.
        scale: Factor on these gradients, from the gradient scaler of the interrupted process.
    """

    def __init__(self) -> None:
        self.begin(1)

    def begin(self, accumulate: int) -> None:
        """Count as from the first iteration, with the loaders that Ultralytics has just built.

        Args:
            accumulate: Batches to a step after the warm-up.
        """
        self.accumulate = accumulate
        self.forget()

    def forget(self) -> None:
        """Take no step for made and no gradient for waiting, as Ultralytics does before it repeats an epoch."""
        self.last_step, self.scale = -1, 1.0
        self.gradients: dict[str, Tensor] | None = None

    def resume(self, last_step: int, gradients: dict[str, Tensor], scale: float = 1.0) -> None:
        """Continue after a step of an earlier process, with the gradients that have accumulated since.

        Args:
            last_step: Iteration of that step.
            gradients: Gradients by parameter name, on any device.
            scale: Factor on them, which the gradient scaler of that process put there; 1 if it was off.
        """
        self.last_step, self.gradients, self.scale = last_step, gradients, scale

    def restore_gradients(self, model: nn.Module, scaler: torch.amp.GradScaler) -> None:
        """Put gradients that waited into the model, as if they came from this process; once, before its first batch.

        Infinite ones stay so, for the scaler to skip their step as it would have done. Without a scaler there is
        nothing to skip it, so what overflowed under the earlier scaler is left out.

        Args:
            model: Model that trains, not wrapped.
            scaler: Gradient scaler of this process, in the state of the earlier one.
        """
        if self.gradients is None:
            return
        factor, overflowed = scaler.get_scale() / self.scale, False
        if self.scale != 1 and not scaler.is_enabled():
            overflowed = not all(bool(gradient.isfinite().all()) for gradient in self.gradients.values())
        if overflowed:
            LOGGER.warning("gradients that waited for their step overflowed in mixed precision; they are left out")
        for name, parameter in model.named_parameters():
            gradient = None if overflowed else self.gradients.get(name)
            if gradient is not None:
                gradient = gradient.to(parameter.device, parameter.dtype) * factor
            parameter.grad = gradient
        self.gradients = None

    def before_batch(self, iteration: int, accumulate: int, warming_up: bool) -> int:
        """Decide whether the optimizer steps after this batch.

        Args:
            iteration: Iteration of the batch.
            accumulate: The trainer's batches to a step, which the warm-up has just set.
            warming_up: Whether it has; else they are what they were.

        Returns:
            Batches to a step with which Ultralytics steps now, or does not.
        """
        if warming_up:
            self.accumulate = accumulate
        due = iteration - self.last_step >= self.accumulate
        return 1 if due else iteration + 2  # its last step is at most iteration − 1, and at least −1

    def after_step(self, iteration: int) -> None:
        """Note a step, and the iteration at which it was made."""
        self.last_step = iteration


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Give an optimizer the state of an earlier one, which may have computed on another device.

    Which kernel computes (fused, foreach, capturable) stays as the new optimizer was built for its device. torch would
    take these flags from the state, and places ``step`` where they ask for it.

    Args:
        optimizer: Optimizer with the same groups of parameters.
        state: What ``state_dict`` gave.

    Raises:
        ValueError: It is of other parameters.
    """
    groups = [
        {**saved, **{flag: group[flag] for flag in KERNEL_FLAGS if flag in group}}
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})
    check_optimizer_state(optimizer)


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
