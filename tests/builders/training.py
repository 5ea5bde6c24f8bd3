"""Trainings that take seconds, and callbacks that look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo import KDTrainer, read_checkpoint
from kdyolo.checkpoints.loading import changed_tensors

# A run that takes two or three seconds: 8 images, 4 optimizer steps per epoch, brisk enough that weights really move.
FAST: dict[str, Any] = {
    "imgsz": 64,
    "batch": 4,
    "nbs": 4,
    "device": "cpu",
    "plots": False,
    "warmup_epochs": 0,
    "epochs": 2,
}


class Enough(Exception):
    """Ends a training whose test has seen what it is about."""


class Watch:
    """A callback for ``on_train_epoch_end`` that looks at the backbone, in the model and in its EMA.

    Attributes:
        file: The checkpoint that went in.
        model: For each epoch, names of the backbone's tensors that differ from the file.
        ema: The same of the EMA.
        trainable: For each epoch, the ``requires_grad`` that occur in the backbone.
        modes: For each epoch, the ``training`` that occur in the backbone.
        dfl: For each epoch, whether the DFL convolution, which never trains, would.
        rates: For each epoch, what loggers get of learning rates and phases.
        momentum: For each epoch, whether the optimizer has momentum for the backbone's first convolution.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.file = read_checkpoint(checkpoint)
        self.model: list[list[str]] = []
        self.ema: list[list[str]] = []
        self.trainable: list[set[bool]] = []
        self.modes: list[set[bool]] = []
        self.dfl: list[bool] = []
        self.rates: list[dict[str, float]] = []
        self.momentum: list[bool] = []

    def __call__(self, trainer: Any) -> None:
        model = unwrap_model(trainer.model)
        self.model.append(changed_tensors(model.backbone, self.file.tensors))
        self.ema.append(changed_tensors(trainer.ema.ema.backbone, self.file.tensors))
        self.trainable.append({p.requires_grad for p in model.backbone.parameters()})
        self.modes.append({m.training for layer in model.backbone.layers for m in layer.modules()})
        head = model.model[-1]
        self.dfl.append(bool(getattr(head, "dfl", None) and any(p.requires_grad for p in head.dfl.parameters())))
        self.rates.append(dict(trainer.lr))
        first = model.backbone.layers[0].conv.weight
        self.momentum.append("momentum_buffer" in trainer.optimizer.state.get(first, {}))


def tensors_of(trainer: Any) -> dict[str, torch.Tensor]:
    """What is in the model now, copied."""
    return {name: tensor.clone() for name, tensor in unwrap_model(trainer.model).state_dict().items()}


class Plateau(KDTrainer):
    """Fitness only ever falls, so that patience runs out as soon as it is counted."""

    def validate(self) -> Any:
        metrics, _ = super().validate()
        return metrics, 0.5 - 0.01 * self.epoch
