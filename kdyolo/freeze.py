"""When the backbone is frozen (a pure function of the epoch), and how a model is made to agree with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn
from ultralytics.utils.torch_utils import EarlyStopping

from kdyolo.errors import ConfigError

ALL: Literal["all"] = "all"


@dataclass(frozen=True)
class FreezeSchedule:
    """The backbone is frozen in the first ``freeze_epochs`` of ``epochs`` epochs and trains in the rest.

    Epochs count from 0, as Ultralytics' ``trainer.epoch`` does; people are told numbers from 1.

    Attributes:
        freeze_epochs: 0 never frozen, ``"all"`` to the end, otherwise the number of frozen epochs.
        epochs: Length of the run.
    """

    freeze_epochs: int | Literal["all"]
    epochs: int

    def __post_init__(self) -> None:
        if self.freeze_epochs != ALL and (type(self.freeze_epochs) is not int or self.freeze_epochs < 0):
            raise ConfigError(f"freeze_epochs must be 0, a number of epochs or 'all'; found {self.freeze_epochs!r}.")

    @property
    def frozen_epochs(self) -> int:
        """Number of frozen epochs in this run, at most ``epochs``."""
        return self.epochs if self.freeze_epochs == ALL else min(self.freeze_epochs, self.epochs)

    @property
    def thaws(self) -> bool:
        """Whether a frozen backbone starts to train during this run."""
        return 0 < self.frozen_epochs < self.epochs

    def is_frozen(self, epoch: int) -> bool:
        """Whether the backbone is frozen in this epoch, counted from 0."""
        return epoch < self.frozen_epochs

    def describe(self, backbone_parameters: int, all_parameters: int) -> str:
        """The plan in one line, epochs counted from 1."""
        share = f"{backbone_parameters / 1e6:.1f} M of {all_parameters / 1e6:.1f} M parameters"
        if self.frozen_epochs == 0:
            return f"plan: epochs 1–{self.epochs}: all {all_parameters / 1e6:.1f} M parameters train, nothing is frozen"
        span = f"plan: epochs 1–{self.frozen_epochs}: backbone frozen ({share})"
        if self.thaws:
            return f"{span}, from {self.frozen_epochs + 1}: all"
        if self.freeze_epochs == ALL or self.freeze_epochs == self.epochs:
            return f"{span}; it never thaws"
        return f"{span}; it never thaws, because freezing lasts {self.freeze_epochs} and the run {self.epochs} epochs"

    @staticmethod
    def parse(text: str | int) -> int | Literal["all"]:
        """``"50"``, ``50`` or ``"all"`` → value for ``freeze_epochs``.

        Raises:
            ConfigError: Anything else.
        """
        if str(text).lower() == ALL:
            return ALL
        if isinstance(text, bool) or not str(text).isdigit():
            raise ConfigError(f"freeze takes 0, a number of epochs or 'all'; found {text!r}.")
        return int(text)


def set_frozen(backbone: nn.Module, frozen: bool) -> None:
    """Freeze a backbone (no gradients, every layer in eval mode so that no statistic moves) or let it train again.

    Only the backbone's own modules are touched; in particular the head's ``.dfl`` stays as Ultralytics left it.
    """
    for parameter in backbone.parameters():
        parameter.requires_grad_(not frozen)
    backbone.train(not frozen)


class EarlyStoppingAfterThaw(EarlyStopping):  # type: ignore[misc]
    """Early stopping whose patience counts only epochs in which everything trains.

    A frozen backbone makes mAP level off before the thaw that is meant to lift it; that plateau must not end the run.

    Args:
        patience: Epochs without improvement, as in Ultralytics.
        frozen_epochs: Number of frozen epochs at the start of the run.
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
