"""Input normalisation that a backbone was trained with, folded into its first layer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from kdyolo.errors import CheckpointError, ConfigError
from kdyolo.utils.text import quoted


@dataclass(frozen=True)
class InputNorm:
    """How images were normalised for a backbone: ``(x − mean) / std`` per channel, x RGB in 0–1."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __str__(self) -> str:
        for name, norm in NORMS.items():
            if norm == self:
                return name
        return "/".join(",".join(f"{v:g}" for v in values) for values in (self.mean, self.std))

    @classmethod
    def parse(cls, text: str) -> InputNorm:
        """``"0-1"``, ``"imagenet"`` or ``"MEAN,MEAN,MEAN/STD,STD,STD"`` (RGB, of images in 0–1).

        Raises:
            ConfigError: Anything else.
        """
        if text in NORMS:
            return NORMS[text]
        try:
            mean, std = (tuple(float(v) for v in part.split(",")) for part in text.split("/"))
        except ValueError:
            mean, std = (), ()
        if len(mean) != 3 or len(std) != 3 or not all(abs(v) < 1e3 for v in mean) or not all(0 < v < 1e3 for v in std):
            raise ConfigError(
                f"input_norm must be 0-1, imagenet, or three means and three deviations of RGB images in 0–1, e.g. "
                f"0.485,0.456,0.406/0.229,0.224,0.225; found {quoted(text)}."
            )
        return cls(mean, std)


NORMS: dict[str, InputNorm] = {
    "0-1": InputNorm(),
    "imagenet": InputNorm((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

STEM = "0"


class NormOrigin(Enum):
    """What a checkpoint's input normalisation is known from."""

    GIVEN = "given by the user"
    RECORDED = "recorded in the file"
    SOURCE_DEFAULT = "default of the file's naming scheme"
    ASSUMED = "default of the naming scheme, though the file looks like one of a tool that normalises otherwise"


def fold_input_norm(tensors: dict[str, Tensor], norm: InputNorm, eps: float, where: str) -> None:
    """Let a backbone that was trained on normalised images take RGB in 0–1, by changing its first layer in place.

    A convolution of (x − m)/s is one of x with weights W/s, less the constant Σ W·m/s, by which the BatchNorm's mean
    then grows: exact wherever the kernel lies inside the image. The original pads normalised images with 0, so with the
    colour m; this one pads with black. That touches the first row and column of the first layer's output, and what
    lies within the later layers' reach of them.

    Args:
        tensors: Layer name → tensor.
        norm: The normalisation.
        eps: BatchNorm epsilon; not part of the change.
        where: For the error.

    Raises:
        CheckpointError: The first layer is not a convolution of 3 channels with a BatchNorm.
    """
    if norm == InputNorm():
        return
    weight, mean = tensors.get(f"{STEM}.conv.weight"), tensors.get(f"{STEM}.bn.running_mean")
    if weight is None or mean is None or weight.ndim != 4 or weight.shape[1] != 3 or mean.shape != weight.shape[:1]:
        raise CheckpointError(f"{where}: input_norm needs a first convolution of 3 channels with a BatchNorm.")
    m, s = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (norm.mean, norm.std))
    folded = weight.double() / s
    tensors[f"{STEM}.conv.weight"] = folded.float()
    tensors[f"{STEM}.bn.running_mean"] = (mean.double() + (folded * m).sum((1, 2, 3))).float()


def feed_red_first(tensors: dict[str, Tensor], where: str) -> None:
    """Let a backbone that was trained on images blue first take them red first, exactly, by changing it in place.

    Args:
        tensors: Layer name → tensor.
        where: For the error.

    Raises:
        CheckpointError: The first layer is not a convolution of 3 channels.
    """
    weight = tensors.get(f"{STEM}.conv.weight")
    if weight is None or weight.ndim != 4 or weight.shape[1] != 3:
        raise CheckpointError(f"{where}: trained on BGR images, but its first layer is no convolution of 3 channels.")
    tensors[f"{STEM}.conv.weight"] = weight.flip(1).contiguous()
