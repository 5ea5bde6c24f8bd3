"""Feature quality on held-out images: centred cosine to the targets, share of dead channels, effective rank.

The usual cosine misleads: a student that predicts the mean of the targets everywhere scores up to 0.4. So the mean of
each channel over the held-out set is taken off both sides first, after which a constant prediction scores 0. What
still scores is to know where a cell lies (see :mod:`kdyolo.distillation.run.held_out`): where the mean is that of each
cell by itself, a student that never looks at its images scores 0 too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_CELLS = 32_768  # of a level that are kept for the cosine: 84 MB for 320 channels
DEAD = 1e-4  # deviation of a channel, relative to the usual one of its level, below which it is constant
_NOTHING = 1e-6  # length of a centred vector, relative to the usual one before, that is only rounding


@dataclass(frozen=True)
class FeatureQuality:
    """What one level of a student is worth on held-out images.

    Attributes:
        centred_cosine: Mean cosine in −1…1 between predicted and true target at a cell, each without its mean over the
            held-out set; predicting any constant gives 0.
        content_cosine: The same, each side without its mean over the held-out set at that very cell, of the cells that
            two images or more have; predicting the same for all images gives 0.
        dead_channels: Share in 0–1 of the level's channels that are constant over the held-out set.
        effective_rank: Number of directions in which the level's features really vary, in 0–C; see
            :func:`effective_rank`.
    """

    centred_cosine: float
    content_cosine: float
    dead_channels: float
    effective_rank: float


class FeatureQualityMeter:
    """Measures one level, batch by batch.

    Of channels and ranks every cell counts. For the cosine, which needs the means before it can begin, cells are kept:
    all of them, or of each image as many, evenly spaced, as keep the whole below ``most_cells``.

    Args:
        images: Number of images that will come.
        most_cells: Number of cells to keep at most; at least one of each image is kept.
    """

    def __init__(self, images: int, most_cells: int = MOST_CELLS) -> None:
        self._quota = max(most_cells // max(images, 1), 1)
        self._kept: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._at_cells: list[Tensor] = []  # sums of prediction and target, of weights, number of images
        self._weight = 0.0
        self._sum: Tensor | None = None
        self._products: Tensor | None = None

    @torch.no_grad()
    def update(self, predicted: Tensor, target: Tensor, weight: Tensor, features: Tensor | None = None) -> None:
        """Take a batch in.

        Args:
            predicted: What the student predicts [B, C, h, w].
            target: The standardised targets [B, C, h, w].
            weight: Weight of each cell [B, 1, h, w] in 0–1, 0 in padding.
            features: The student's own map [B, D, h, w] that the prediction is made of; None: the prediction itself.
        """
        share = weight.double().flatten(1)  # [B, cells]
        self._keep(predicted, target, share)
        self._add_at_cells(_rows(predicted), _rows(target), share)
        rows = _rows(predicted if features is None else features)  # [B, cells, D]
        weighted = rows * share[..., None]
        total, products = weighted.sum((0, 1)), torch.einsum("bnc,bnd->cd", weighted, rows)
        self._weight += float(share.sum())
        self._sum = total if self._sum is None else self._sum + total
        self._products = products if self._products is None else self._products + products

    def result(self) -> FeatureQuality:
        """The three numbers.

        Raises:
            ValueError: No cell of any image has come.
        """
        if self._sum is None or self._products is None or self._weight == 0:
            raise ValueError("expected at least one batch with cells of weight above 0, found none")
        mean = self._sum / self._weight
        covariance = self._products / self._weight - torch.outer(mean, mean)
        predicted, target, weight, cells = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        return FeatureQuality(
            centred_cosine=centred_cosine(predicted, target, weight),
            content_cosine=self._content_cosine(predicted, target, weight, cells),
            dead_channels=_dead_share(covariance.diagonal(), mean),
            effective_rank=_rank_of(covariance),
        )

    def _keep(self, predicted: Tensor, target: Tensor, share: Tensor) -> None:
        for of_prediction, of_target, of_image in zip(_rows(predicted), _rows(target), share, strict=True):
            inside = of_image.nonzero()[:, 0]
            if len(inside) > self._quota:
                spread = torch.linspace(0, len(inside) - 1, self._quota, device=inside.device)
                inside = inside[spread.round().long()]
            kept = (of_prediction[inside].float(), of_target[inside].float(), of_image[inside])
            self._kept.append((kept[0].cpu(), kept[1].cpu(), kept[2].cpu(), inside.cpu()))

    def _add_at_cells(self, predicted: Tensor, target: Tensor, share: Tensor) -> None:
        new = [(side * share[..., None]).sum(0) for side in (predicted, target)]
        new += [share.sum(0)[:, None], (share > 0).sum(0)]
        self._at_cells = [a + b for a, b in zip(self._at_cells, new, strict=True)] if self._at_cells else new

    def _content_cosine(self, predicted: Tensor, target: Tensor, weight: Tensor, cells: Tensor) -> float:
        of_prediction, of_target, weights, images = (tensor.cpu()[cells] for tensor in self._at_cells)
        weight = weight * (images > 1)
        if not float(weight.sum()):
            return 0.0
        return centred_cosine(
            predicted.double() - of_prediction / weights, target.double() - of_target / weights, weight
        )


def centred_cosine(predicted: Tensor, target: Tensor, weight: Tensor) -> float:
    """Weighted mean over cells of the cosine between two vectors, each without its side's weighted mean.

    Args:
        predicted: Predicted vectors [N, C].
        target: Target vectors [N, C].
        weight: Weight of each cell [N].

    Returns:
        The mean in −1…1. A cell at which either side is its mean counts as 0.
    """
    share = weight.double() / weight.double().sum()
    sides = []
    for side in (predicted.double(), target.double()):
        centred = side - (side * share[:, None]).sum(0)
        length = centred.norm(dim=1)
        usual = side.norm(dim=1).mean()
        sides.append(torch.where((length > _NOTHING * usual)[:, None], centred / length[:, None], 0.0))
    return float(((sides[0] * sides[1]).sum(1) * share).sum())


def effective_rank(features: Tensor) -> float:
    """Effective rank of features: ``exp`` of the entropy of their singular values' shares (Roy & Vetterli 2007).

    Args:
        features: Vectors [N, C]; the mean of each channel is taken off.

    Returns:
        A number from 1 to the rank; 0 where all vectors are the same.
    """
    centred = features.double() - features.double().mean(0)
    return _rank_of(centred.T @ centred / len(features))


def _rank_of(covariance: Tensor) -> float:
    """The same from the covariance [C, C], whose eigenvalues are the squares of the singular values."""
    if not bool(covariance.isfinite().all()):
        return float("nan")
    values = torch.linalg.eigvalsh(covariance).clamp(min=0)
    values = values[values > values.max() * 1e-12].sqrt()  # smaller ones are rounding
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float((-(shares * shares.log()).sum()).exp())


def _dead_share(variance: Tensor, mean: Tensor) -> float:
    deviation = variance.clamp(min=0).sqrt()
    usual = max(float(deviation.median()), float(mean.abs().median()) * DEAD, 1e-12)
    return float((deviation < DEAD * usual).double().mean())


def _rows(features: Tensor) -> Tensor:
    """Map [B, C, h, w] → vectors [B, cells, C] in float64."""
    return features.double().flatten(2).transpose(1, 2)
