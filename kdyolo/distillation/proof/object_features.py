"""Features of objects: maps pooled in their boxes, and k-nearest-neighbour classification across images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

NEIGHBOURS = 5
_ROWS = 2048  # objects whose neighbours are looked for at once


@torch.no_grad()
def pool_objects(maps: Sequence[Tensor], strides: Sequence[float], boxes: Sequence[Tensor]) -> list[Tensor]:
    """Mean of each map within each box, by RoIAlign (He et al. 2017): box edges are not rounded to cells.

    Args:
        maps: Feature maps [B, C, h, w], one for each level.
        strides: Stride of each map, in pixels of the images.
        boxes: Left, top, right and bottom [n, 4] of the objects of each image, in pixels of the images; B of them.

    Returns:
        Features [N, C] for each level, N objects in the order of the images.
    """
    return [
        roi_align(level, [of_image.to(level) for of_image in boxes], 1, 1 / stride, aligned=True).flatten(1)
        for level, stride in zip(maps, strides, strict=True)
    ]


def join_levels(levels: Sequence[Tensor]) -> Tensor:
    """Features of all levels side by side, each level with the same weight.

    Args:
        levels: Features [N, C] for each level.

    Returns:
        Features [N, sum of C]: each level standardised and scaled to length 1, see :func:`standardise`.
    """
    return torch.cat([functional.normalize(standardise(level), dim=1) for level in levels], dim=1)


def standardise(features: Tensor) -> Tensor:
    """Features [N, C] with mean 0 and deviation 1 in each channel; a constant channel becomes 0. In float64."""
    centred = features.double() - features.double().mean(0)
    deviation = centred.square().mean(0).sqrt()
    alive = deviation > 1e-6 * max(float(deviation.max()), 1e-12)
    return torch.where(alive, centred / deviation.clamp(min=1e-30), 0.0)


def knn_predictions(features: Tensor, classes: Tensor, images: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Class of each object by its k nearest neighbours in other images, near by the cosine of standardised features.

    The majority decides; of classes with as many votes, the one whose voters are nearer.

    Args:
        features: Features [N, C].
        classes: Class of each object [N], from 0.
        images: Image of each object [N]; an object of the same image is never a neighbour.
        k: Number of neighbours; fewer where other images have fewer objects.

    Returns:
        Predicted class [N]; −1 where no other image has an object.
    """
    unit = functional.normalize(standardise(features), dim=1)
    count = int(classes.max()) + 1 if len(classes) else 0
    predicted = []
    for start in range(0, len(unit), _ROWS):
        part = slice(start, start + _ROWS)
        near = unit[part] @ unit.T
        near[images[part, None] == images[None]] = -torch.inf
        nearest, index = near.topk(min(k, near.shape[1]), dim=1)
        votes = torch.where(nearest.isfinite(), 1 + 1e-3 * nearest, 0.0)
        tally = torch.zeros(len(near), count, dtype=votes.dtype).scatter_add_(1, classes[index], votes)
        predicted.append(torch.where(tally.amax(1) > 0, tally.argmax(1), -1))
    return torch.cat(predicted) if predicted else classes.clone()


def knn_accuracy(features: Tensor, classes: Tensor, images: Tensor, k: int = NEIGHBOURS) -> float:
    """Share in 0–1 of the objects that :func:`knn_predictions` gives their own class; same arguments."""
    return float((knn_predictions(features, classes, images, k) == classes).double().mean())
