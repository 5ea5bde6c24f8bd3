"""Student: a whole backbone with a head for each taught level, which is dropped on export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdyolo.checkpoints.loading import checkpoint_arch, load_into
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.errors import ConfigError, collect_mistakes
from kdyolo.models.arch import UNCAPPED, Arch
from kdyolo.models.backbone import LEVELS, DistilledBackbone

HEADS = ("linear", "two-layer")


class Student(nn.Module):
    """A backbone, and heads from its levels to a teacher's channels.

    Args:
        backbone: The whole backbone, with all of its levels.
        channels: Taught level → channels of its target.
        head: Kind of head, one of ``HEADS``.

    Attributes:
        taps: Layer number → taught level, shallow to deep.
    """

    def __init__(self, backbone: DistilledBackbone, channels: Mapping[str, int], head: str = HEADS[0]) -> None:
        super().__init__()
        self.backbone = backbone
        layers = dict(zip(backbone.levels, zip(backbone.taps, backbone.channels, strict=True), strict=True))
        self.taps = {layers[level][0]: level for level in channels}
        self.heads = nn.ModuleDict({level: _head(layers[level][1], out, head) for level, out in channels.items()})
        self._layout = torch.contiguous_format

    def use_nhwc(self) -> None:
        """Compute in NHWC, which is faster on CPUs; results are the same but for rounding."""
        self.to(memory_format=torch.channels_last)
        self._layout = torch.channels_last

    def features(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] in 0–1 → the taught levels' maps, shallow to deep; deeper layers are not run."""
        maps, x = [], images.contiguous(memory_format=self._layout)
        for number, layer in enumerate(self.backbone.layers[: max(self.taps) + 1]):
            x = layer(x)
            if number in self.taps:
                maps.append(x)
        return maps

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] in 0–1 → predicted targets [B, channels, H/stride, W/stride], level by level."""
        maps = zip(self.taps.values(), self.features(images), strict=True)
        return [self.heads[level](features) for level, features in maps]

    def untrained_layers(self) -> tuple[int, ...]:
        """Numbers of the backbone's layers with parameters that no tap gives a gradient, found by one backward pass."""
        was_training = self.training
        self.eval()
        with torch.enable_grad():
            sum(out.square().mean() for out in self(torch.rand(1, 3, 64, 64))).backward()
        idle = [
            number
            for number, layer in enumerate(self.backbone.layers)
            if (own := list(layer.parameters())) and all(parameter.grad is None for parameter in own)
        ]
        self.zero_grad(set_to_none=True)
        self.train(was_training)
        return tuple(idle)


def build_student_backbone(
    model: str | None, start: str | Path | None, levels: Iterable[str], **how_read: Any
) -> DistilledBackbone:
    """The backbone that learns: random, or filled from a checkpoint.

    Args:
        model: Family and scale, e.g. ``"yolov8s"``, or the name of a model YAML, e.g. ``"kdyolov8m.yaml"``. None: that
            which the checkpoint fits.
        start: Checkpoint to start from, anything that ``--backbone`` takes; None: random.
        levels: Levels that are taught; P3 to P5 are built in any case.
        **how_read: How the checkpoint is read; see :func:`kdyolo.checkpoints.reader.read_checkpoint`.

    Raises:
        ModelError: Unknown model.
        CheckpointError: The checkpoint cannot be read or does not fit.
        ConfigError: Neither a model nor a checkpoint is given, or several of these mistakes.
    """
    wanted = tuple(level for level in ("P2", *LEVELS) if level in {*LEVELS, *levels})
    with collect_mistakes() as mistakes:
        checkpoint = mistakes.result(lambda: read_checkpoint(start, **how_read)) if start is not None else None
        named = mistakes.result(lambda: student_arch(model)) if model is not None else None
    if named is not None:
        arch = named
    elif checkpoint is not None:
        arch = checkpoint_arch(checkpoint)
    else:
        raise ConfigError("no student. Expected --model, e.g. yolov8s, or --backbone with a checkpoint to start from.")
    backbone = DistilledBackbone(arch.name, arch.max_channels, levels=wanted)
    if checkpoint is not None:
        load_into(backbone, checkpoint)
    return backbone


def student_arch(model: str) -> Arch:
    """The arch that a name stands for: ``yolov8s``, ``yolov8s.yaml``, or ``kdyolov8m`` with an uncapped last stage."""
    name = model.removesuffix(".yaml")
    return Arch.parse(name.removeprefix("kd"), UNCAPPED if name.startswith("kd") else None)


def _head(channels: int, out: int, kind: str) -> nn.Module:
    if kind == HEADS[0]:
        return nn.Conv2d(channels, out, 1)
    return nn.Sequential(nn.Conv2d(channels, out, 1), nn.GELU(), nn.Conv2d(out, out, 1))
