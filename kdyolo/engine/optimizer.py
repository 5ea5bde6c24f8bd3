"""The optimizer under a freeze schedule: a learning rate for each part, and steps that go on rightly after a resume."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils.torch_utils import EarlyStopping, unwrap_model

from kdyolo.models.freeze_schedule import HEAD, FreezeSchedule
from kdyolo.models.freezing import split_param_groups


class ScheduledTrainer(DetectionTrainer):  # type: ignore[misc]
    """Ultralytics' trainer whose optimizer follows :attr:`schedule`, and whose loggers are told what it did.

    Attributes:
        schedule: Which part trains when, and how fast.
        last_step: Iteration of the last optimizer step, counted from the start of the run.
        accumulated: Gradients to go on with after a resume, by parameter name.
        batches_done: Batches of this epoch so far.
    """

    # Set by Ultralytics' trainer, which carries no type information.
    model: Any
    epoch: int
    optimizer: Any
    lr: dict[str, float]

    schedule: FreezeSchedule
    last_step = -1
    accumulated: dict[str, torch.Tensor] | None = None
    batches_done = 0
    _nominal: int | None = None  # Ultralytics' accumulate, while ours stands in for it
    _shifted = -1

    def trainable_parameters(self) -> int:
        """Number of parameters that train in this epoch."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def run_callbacks(self, event: str) -> None:
        """Ultralytics' callbacks; on the way, count batches and tell loggers the learning rates really used."""
        if event == "on_train_epoch_start":
            self.batches_done = 0
        elif event == "on_train_batch_start":
            self.batches_done += 1
        elif event == "on_train_epoch_end" and not self.schedule.is_plain:
            self.lr = self._logged()
        super().run_callbacks(event)

    def _logged(self) -> dict[str, float]:
        """Learning rate of every group, and the phase; goes wherever the losses go."""
        rates: dict[str, float] = {}
        for group, factor in zip(self.optimizer.param_groups, self._lr_factors(), strict=True):
            name = f"lr/{group['part']}/{group['param_group']}"
            rates[name if name not in rates else f"{name}-2"] = group["lr"] * factor  # MuSGD has a fast and a slow one
        frozen = len(self.schedule.frozen_parts(self.epoch))
        return {**rates, "freeze/frozen_parts": frozen, "freeze/trainable_parameters": self.trainable_parameters()}

    def _lr_factors(self) -> list[float]:
        """The schedule's factor for each optimizer group, now."""
        progress = self.epoch + self.batches_done / len(self.train_loader)
        part_of = {group: part for part, group in self.schedule.groups().items()}
        names = (group.get("part", HEAD) for group in self.optimizer.param_groups)
        return [self.schedule.lr_factor(part_of.get(name, HEAD), progress) for name in names]

    def build_optimizer(self, model: nn.Module, *args: Any, **keywords: Any) -> torch.optim.Optimizer:
        """Ultralytics' optimizer, its groups split by part of the backbone: each can have its own learning rate."""
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, *args, **keywords)
        if not self.schedule.is_plain:
            parts = unwrap_model(model).backbone.parts
            optimizer.param_groups[:] = split_param_groups(optimizer.param_groups, parts, self.schedule)
        return optimizer

    def optimizer_step(self) -> None:
        """One step with the schedule's factors on the learning rates, which are then as Ultralytics set them again."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        if not self.schedule.is_plain:
            for group, factor in zip(self.optimizer.param_groups, self._lr_factors(), strict=True):
                group["lr"] *= factor
        try:
            super().optimizer_step()
        finally:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self.last_step = self._iteration
        if self._nominal is not None:  # from here on Ultralytics' own count is right
            self.accumulate, self._nominal = self._nominal, None

    @property
    def _iteration(self) -> int:
        return self.epoch * len(self.train_loader) + self.batches_done - 1

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ultralytics' preprocessing; after a resume, half-accumulated gradients are gone on with."""
        if self.accumulated is not None:
            for name, parameter in unwrap_model(self.model).named_parameters():
                parameter.grad = self.accumulated.get(name, None)
            self.accumulated, self._nominal = None, self.accumulate
        if self._nominal is not None:
            # Ultralytics steps when (iteration − last step) ≥ accumulate, and in a new process takes −1 for the last
            # step. Until its first step here, `accumulate` is raised by the difference; warm-up sets it anew each time.
            if self.accumulate != self._shifted:
                self._nominal = self.accumulate
            self._shifted = self.accumulate = self._nominal + self.last_step + 1
        return super().preprocess_batch(batch)  # type: ignore[no-any-return]


class EarlyStoppingAfterUnfreeze(EarlyStopping):  # type: ignore[misc]
    """Early stopping whose patience counts only epochs in which everything trains.

    A frozen backbone makes mAP level off before the thaw that is meant to lift it; that plateau must not end the run.

    Args:
        patience: Epochs without improvement, as in Ultralytics.
        frozen_epochs: Number of epochs at the start of the run that do not count.
    """

    patience: float

    def __init__(self, patience: float, frozen_epochs: int) -> None:
        super().__init__(patience)
        self.frozen_epochs = frozen_epochs

    def __call__(self, epoch: int, fitness: float | None) -> bool:
        """Whether to stop after this epoch (counted from 1), whose fitness was just measured."""
        patience = self.patience
        # delta = epoch - best_epoch ≥ patience + (frozen - best_epoch) says: epoch - frozen ≥ patience
        self.patience = patience + max(0, self.frozen_epochs - self.best_epoch)
        try:
            return bool(super().__call__(epoch, fitness))
        finally:
            self.patience = patience
