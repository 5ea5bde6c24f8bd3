"""Classification of objects from frozen features, cross-validated by images: k-NN and multinomial logistic regression.

The regression is PyTorch's L-BFGS on the softmax loss with an L2 penalty, from zero, in float64: convex, so the result
does not depend on a seed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FOLDS = 5
_PENALTY = 0.1  # times half the squared weights, per object
_STEPS = 50


def image_folds(images: Tensor, seed: int, folds: int = FOLDS) -> Tensor:
    """Fold of each object [N], the same for all objects of an image; images are dealt out in an order by the seed."""
    numbers = torch.unique(images)
    order = torch.from_numpy(np.random.default_rng([seed, len(numbers)]).permutation(len(numbers)))
    fold_of = torch.empty(int(numbers.max()) + 1, dtype=torch.long)
    fold_of[numbers[order]] = torch.arange(len(numbers)) % min(folds, len(numbers))
    return fold_of[images]


def linear_predictions(features: Tensor, classes: Tensor, folds: Tensor) -> Tensor:
    """Class of each object by a linear classifier that has learned from the other folds.

    Args:
        features: Features [N, C]; standardised by what is learned from.
        classes: Class of each object [N], from 0.
        folds: Fold of each object [N].

    Returns:
        Predicted class [N].
    """
    predicted = torch.full_like(classes, -1)
    count = int(classes.max()) + 1
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        known = features[~test].double()
        mean, deviation = known.mean(0), known.std(0, correction=0)
        alive = deviation > 1e-6 * max(float(deviation.max()), 1e-12)
        scale = torch.where(alive, 1 / deviation.clamp(min=1e-30), 0.0)
        weight, bias = _fit((known - mean) * scale, classes[~test], count)
        predicted[test] = (((features[test].double() - mean) * scale) @ weight + bias).argmax(1)
    return predicted


def _fit(features: Tensor, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Weights [C, K] and biases [K] of the regression."""
    weight = torch.zeros(features.shape[1], count, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(count, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-6)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(features @ weight + bias, classes) + _PENALTY / 2 * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
