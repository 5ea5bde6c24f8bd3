"""Folding of a network's BatchNorms into the convolutions before them, in NHWC: the same maps, faster on CPUs."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_SAME = 1e-3  # largest difference of a map to the original's, relative to its largest value; rounding gives 1e-5


def folded(net: nn.Module, size: int) -> nn.Module | None:
    """A copy in NHWC whose BatchNorms are folded into the convolutions that stand before them, checked on an image.

    A child that is a BatchNorm is taken to read the convolution before it. Networks are free to be wired otherwise, or
    to change a convolution's weights while they run, so the maps of both are compared.

    Args:
        net: Network from images [B, 3, size, size] to maps, on the CPU, in evaluation mode.
        size: Side of its images, in pixels.

    Returns:
        The copy; None where there is nothing to fold, or the copy's maps are others.
    """
    if not any(_pairs(module) for module in net.modules()):
        return None
    copy = deepcopy(net)
    for module in list(copy.modules()):
        for conv, norm in _pairs(module):
            after = list(getattr(module, norm).children())  # timm's norms have an activation in them
            module.add_module(conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
            module.add_module(norm, nn.Sequential(*after))
    copy = copy.requires_grad_(False).to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return copy if _same(net(image), copy(image)) else None


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of a module's children that are a convolution and the BatchNorm right behind it."""
    children = list(module.named_children())
    return [
        (conv, norm)
        for (conv, first), (norm, second) in pairwise(children)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)
        if second.track_running_stats and second.num_features == first.out_channels
    ]


def _same(expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
    pairs = zip(expected, found, strict=True)
    return all(bool((a - b).abs().max() <= _SAME * a.abs().max()) for a, b in pairs)
