"""Architectures: family, scale and widths of a backbone, read from Ultralytics' own model YAMLs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from ultralytics.nn.tasks import parse_model, yaml_model_load

from kdyolo.errors import ModelError

ULTRALYTICS_BN_EPS = 1e-3  # what Ultralytics sets on every BatchNorm2d it builds
BN_COUNTER = "num_batches_tracked"

FAMILIES = ("yolov8", "yolo11", "yolo12", "yolo26")
SCALES = "nsmlx"
UNCAPPED = 1024  # the families' widest row: a cap this high caps nothing


@dataclass(frozen=True)
class Arch:
    """Architecture of a backbone.

    Attributes:
        family: One of ``FAMILIES``, e.g. ``"yolov8"``.
        scale: Scale letter, one of ``SCALES``.
        max_channels: Cap on row widths before they are scaled.
    """

    family: str
    scale: str
    max_channels: int

    @property
    def name(self) -> str:
        """Family and scale in one word, e.g. ``"yolov8s"``."""
        return f"{self.family}{self.scale}"

    @property
    def yaml_name(self) -> str:
        """The model YAML with these widths: a stock name where the last stage is capped and kdyolo's is not."""
        stock = stock_scale(self.family, self.scale)[2]
        return f"{'kd' if stock == UNCAPPED or self.max_channels != stock else ''}{self.name}.yaml"

    @classmethod
    def parse(cls, name: str, max_channels: int | None = None) -> Arch:
        """``"yolov8s"`` → its arch; ``max_channels`` defaults to the stock cap of that scale.

        Raises:
            ModelError: Unknown family or scale.
        """
        family, scale = name[:-1], name[-1:]
        if family not in FAMILIES or scale not in SCALES:
            raise ModelError(
                f"unknown backbone {name!r}: expected {', '.join(FAMILIES)}, followed by one of {', '.join(SCALES)}."
            )
        return cls(family, scale, max_channels or stock_scale(family, scale)[2])


@dataclass(frozen=True)
class LayerShape:
    """Output of one backbone layer.

    Attributes:
        channels: Number of channels.
        stride: Stride in pixels of the input image.
    """

    channels: int
    stride: int


@lru_cache
def family_yaml(family: str) -> dict[str, Any]:
    """Ultralytics' own model YAML of a family; shared, not to be changed."""
    description: dict[str, Any] = yaml_model_load(f"{family}.yaml")
    return description


def stock_scale(family: str, scale: str) -> tuple[float, float, int]:
    """Depth factor, width factor and channel cap of a stock scale."""
    depth, width, max_channels = family_yaml(family)["scales"][scale]
    return depth, width, max_channels


def backbone_rows(family: str) -> list[list[Any]]:
    """The family's own backbone rows ``[from, repeats, module, args]``, a fresh copy."""
    rows: list[list[Any]] = deepcopy(family_yaml(family)["backbone"])
    return rows


def build_layers(arch: Arch, count: int | None = None) -> nn.Sequential:
    """The first ``count`` backbone layers (default: all), randomly initialised, built by Ultralytics' own parser."""
    depth, width, _ = stock_scale(arch.family, arch.scale)
    description = {
        "nc": 1,
        "scale": arch.scale,
        "scales": {arch.scale: [depth, width, arch.max_channels]},
        "backbone": backbone_rows(arch.family)[:count],
        "head": [],
    }
    layers, _ = parse_model(description, ch=3, verbose=False)
    return layers  # type: ignore[no-any-return]


@lru_cache
def layer_shapes(arch: Arch) -> tuple[LayerShape, ...]:
    """Channels and stride after each layer, found by sending a small image through weights that nobody has set.

    Sending a shape through the meta device would do, but imports PyTorch's compiler, which takes a second.
    """
    with torch.device("meta"):
        layers = build_layers(arch).eval()
    for module in layers.modules():  # `to_empty` does the same, and imports sympy for it
        for name, weights in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(torch.empty(weights.shape), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.empty(buffer.shape, dtype=buffer.dtype))
    size, shapes = 64, []
    x = torch.zeros(1, 3, size, size)
    with torch.no_grad():
        for layer in layers:
            x = layer(x)
            shapes.append(LayerShape(x.shape[1], size // x.shape[2]))
    return tuple(shapes)


def level_taps(arch: Arch, levels: Sequence[str]) -> tuple[int, ...]:
    """Layer numbers whose outputs are the named levels: the last layer at stride 2^k is level ``Pk``.

    Raises:
        ModelError: A level that this backbone does not have, or levels out of order.
    """
    last = {f"P{shape.stride.bit_length() - 1}": i for i, shape in enumerate(layer_shapes(arch))}
    unknown = [level for level in levels if level not in last]
    if unknown or not levels:
        raise ModelError(f"{arch.name} has no level {unknown or '(none given)'}: expected some of {sorted(last)}.")
    taps = tuple(last[level] for level in levels)
    if list(taps) != sorted(set(taps)):
        raise ModelError(f"levels must go from shallow to deep, each once; found {list(levels)}.")
    return taps
