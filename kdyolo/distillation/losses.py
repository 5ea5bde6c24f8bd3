"""Losses between predicted and standardised target maps, each cell weighted by how much of it is image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

MapLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
_CELLS = 64  # of each image, at most, whose relations to each other are compared


def cosine_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """``0.9 · (1 − cosine) + 0.1 · smooth L1``, as Theia weights them (Shang et al. 2024).

    Args:
        predicted: The student's map [B, C, h, w].
        target: The standardised target [B, C, h, w].
        weight: Weight of each cell [B, 1, h, w].

    Returns:
        The weighted mean over cells, a scalar.
    """
    cosine = functional.cosine_similarity(predicted, target, dim=1)[:, None]
    smooth = functional.smooth_l1_loss(predicted, target, reduction="none").mean(1, keepdim=True)
    return _mean(0.9 * (1 - cosine) + 0.1 * smooth, weight)


def mse_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error, mean over channels and weighted over cells; shapes as in :func:`cosine_loss`."""
    return _mean((predicted - target).square().mean(1, keepdim=True), weight)


def pkd_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """PKD (Cao et al. 2022): half the squared error of maps standardised per channel, so 1 − Pearson's correlation."""
    return mse_loss(_standardised(predicted, weight), _standardised(target, weight), weight) / 2


def relation_loss(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error between the cosines of all pairs of cells of an image (similarity-preserving, Tung & Mori 2019).

    Of a map with more than 64 cells, 64 evenly spaced ones are compared.
    """
    cells = weight[0, 0].numel()
    kept = torch.linspace(0, cells - 1, min(cells, _CELLS), device=weight.device).round().long()

    def relations(features: Tensor) -> Tensor:
        unit = functional.normalize(features.flatten(2)[:, :, kept], dim=1)
        return unit.transpose(1, 2) @ unit

    pairs = weight.flatten(2)[:, :, kept]
    return _mean((relations(predicted) - relations(target)).square(), pairs.transpose(1, 2) * pairs)


LOSSES: dict[str, MapLoss] = {"cosine": cosine_loss, "mse": mse_loss, "pkd": pkd_loss, "relation": relation_loss}


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


def _standardised(features: Tensor, weight: Tensor) -> Tensor:
    total = weight.sum().clamp(min=1e-6)
    mean = (features * weight).sum((0, 2, 3), keepdim=True) / total
    variance = ((features - mean).square() * weight).sum((0, 2, 3), keepdim=True) / total
    return (features - mean) / (variance + 1e-6).sqrt()
