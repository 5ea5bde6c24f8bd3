"""Distilled backbone as a module: images in, one feature map per pyramid level out.

Its layers are built by Ultralytics from the family's own model YAML, so there is no second description of the
architecture to keep in step; channels and strides are read off the layers, never typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from kdyolo.arguments import checked
from kdyolo.errors import ModelError
from kdyolo.models.arch import ULTRALYTICS_BN_EPS, Arch, build_layers, layer_shapes, level_taps

LEVELS = ("P3", "P4", "P5")
BN_MOMENTUM = 0.03  # Ultralytics' value


class DistilledBackbone(nn.Module):
    """A YOLO backbone that returns a list of feature maps, one for each pyramid level asked for.

    Args:
        arch: Family and scale, e.g. ``"yolov8s"``.
        max_channels: Cap on row widths before scaling. Default: the stock cap of that scale (m: 768, l and x: 512);
            ``UNCAPPED`` for backbones whose last stage is not capped.
        bn_eps: Epsilon of every BatchNorm.
        levels: Names of the levels to return, shallow to deep (``"P2"`` … ``"P5"``: strides 4 … 32). Layers deeper than
            the last level are not built.

    Attributes:
        layers: The stock layers, numbered as in the family's YAML.
        channels: Channels of each returned map.
        strides: Stride of each returned map, in pixels.
        left_out: Layer numbers (``"9"``) or names of tensors that the loaded checkpoint lacks; they are never frozen.

    Raises:
        ModelError: Unknown arch or level, or no channels.

    Examples:
        >>> from kdyolo import DistilledBackbone
        >>> DistilledBackbone("yolov8n").channels
        (64, 128, 256)
    """

    @checked
    def __init__(
        self,
        arch: str = "yolov8n",
        max_channels: int | None = None,
        bn_eps: float = ULTRALYTICS_BN_EPS,
        levels: Sequence[str] = LEVELS,
    ) -> None:
        super().__init__()
        if max_channels is not None and max_channels < 1:
            raise ModelError(f"max_channels: expected at least 1, found {max_channels}.")
        self.arch = Arch.parse(arch, max_channels)
        self.levels = tuple(levels)
        self.taps = level_taps(self.arch, self.levels)
        self.layers: nn.Sequential = build_layers(self.arch, self.taps[-1] + 1)
        shapes = layer_shapes(self.arch)
        self.channels = tuple(shapes[tap].channels for tap in self.taps)
        self.strides = tuple(shapes[tap].stride for tap in self.taps)
        for module in self.layers.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BN_MOMENTUM
        self.left_out: tuple[str, ...] = ()
        self._folded: tuple[nn.Sequential, ...] = ()  # a tuple hides the copy from nn.Module
        self.set_bn_eps(bn_eps)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] (RGB in 0–1, H and W multiples of 32) → maps [B, channels, H/stride, W/stride]."""
        features, x = [], images.contiguous(memory_format=torch.channels_last) if self.folded else images
        for i, layer in enumerate(self._folded[0] if self.folded else self.layers):
            x = layer(x)
            if i in self.taps:
                features.append(x)
        return features

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """Modules by part, shallow to deep: ``stem`` (stride 2), ``p2`` (stride 4) … ``p5``.

        They are whole layers; of a layer that is partly left out, the largest modules that are not.
        """
        parts: dict[str, list[nn.Module]] = {}
        for i, (layer, shape) in enumerate(zip(self.layers, layer_shapes(self.arch), strict=False)):
            name = "stem" if shape.stride == 2 else f"p{shape.stride.bit_length() - 1}"
            parts[name] = parts.get(name, []) + _loaded(layer, str(i), self.left_out)
        return parts

    def names_in(self, parts: Iterable[str]) -> set[str]:
        """Names of the tensors in ``layers`` that belong to some of the parts."""
        modules = self.parts
        inside = {
            id(tensor)
            for part in parts
            for module in modules.get(part, [])
            for tensor in module.state_dict(keep_vars=True).values()
        }
        return {name for name, tensor in self.layers.state_dict(keep_vars=True).items() if id(tensor) in inside}

    def set_folded(self, on: bool) -> None:
        """Compute through a copy in NHWC with BatchNorm folded into the convolutions: same features, faster on CPUs.

        Only while nothing of the backbone changes: the copy does not follow, so with something left out it is not
        used. It has no gradients, and it is no part of the module, so that parameters, state dict and checkpoints
        stay the same.
        """
        self._folded = (_folded_copy(self.layers),) if on and not self.left_out else ()

    @property
    def folded(self) -> bool:
        """Whether :meth:`set_folded` is on."""
        return bool(self._folded)

    def set_bn_eps(self, eps: float) -> None:
        """Set every BatchNorm's epsilon; Ultralytics resets it to 1e-3 when it builds a model around this module."""
        self.bn_eps = eps
        for module in self.layers.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps


def _loaded(module: nn.Module, name: str, left_out: Sequence[str]) -> list[nn.Module]:
    """The largest modules within a module that hold nothing of what is left out."""
    if any(name == out or name.startswith(f"{out}.") for out in left_out):
        return []
    if not any(out.startswith(f"{name}.") for out in left_out):
        return [module]
    children = ((f"{name}.{child}", inner) for child, inner in module.named_children())
    return [found for child, inner in children for found in _loaded(inner, child, left_out)]


def _folded_copy(layers: nn.Sequential) -> nn.Sequential:
    copy = deepcopy(layers).eval().requires_grad_(False)
    for module in copy.modules():
        if isinstance(module, Conv):
            module.conv = fuse_conv_and_bn(module.conv, module.bn)
            module.forward = module.forward_fuse
            del module.bn
    return copy.to(memory_format=torch.channels_last)
