"""Classification of objects from frozen features, cross-validated by images: multinomial logistic regression.

The regression is PyTorch's L-BFGS on the softmax loss with an L2 penalty: convex, so that no seed has a part in it.
How strong the penalty is gets chosen inside the folds (nested cross-validation), because features of different networks
need different ones: with one for all, a probe says which network suits that penalty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from math import log

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FOLDS = 5
# Times half the squared weights, per object, on features of length about 1; each fit begins where the last one ended.
_PENALTIES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
_STEPS = 30  # of L-BFGS for each penalty
_PSEUDO_OBJECTS = 0.5  # of each class, at the features' mean: no class is taken for impossible


def image_folds(images: Tensor, seed: int, folds: int = FOLDS) -> Tensor:
    """Fold of each object [N], the same for all objects of an image; images are dealt out in an order by the seed."""
    numbers = torch.unique(images)
    order = torch.from_numpy(np.random.default_rng([seed, len(numbers)]).permutation(len(numbers)))
    fold_of = torch.empty(int(numbers.max()) + 1, dtype=torch.long)
    fold_of[numbers[order]] = torch.arange(len(numbers)) % min(folds, len(numbers))
    return fold_of[images]


def linear_log_probabilities(levels: Sequence[Tensor], classes: Tensor, folds: Tensor) -> Tensor:
    """What a linear classifier, which has learned from the other folds, says of each object.

    Of each fold the penalty is the one that does best on the others, each of them told by what was learned without
    both. So no label of a fold has any part in what is said of it.

    Args:
        levels: Features [N, C] of each level, side by side; each is standardised by what is learned from, and has the
            same weight.
        classes: Class of each object [N], from 0.
        folds: Fold of each object [N].

    Returns:
        Log-probabilities [N, classes].
    """
    count, numbers = int(classes.max()) + 1, range(int(folds.max()) + 1)
    inner = torch.zeros(len(numbers), len(_PENALTIES), dtype=torch.float64)
    found = torch.empty(len(classes), count)
    with _one_thread():
        for pair in combinations(numbers, 2) if len(numbers) > 2 else ():
            out = torch.isin(folds, torch.tensor(pair))
            for place, said in enumerate(_along_path(levels, classes, ~out, out, count, len(_PENALTIES))):
                right = said.gather(1, classes[out, None])[:, 0].double()
                for fold, other in (pair, pair[::-1]):
                    inner[fold, place] += right[folds[out] == other].sum()
        for fold in numbers:
            test = folds == fold
            best = int(inner[fold].argmax()) + 1
            *_, found[test] = _along_path(levels, classes, ~test, test, count, best)
    return found


def frequencies(classes: Tensor, folds: Tensor) -> Tensor:
    """Log-probabilities [N, classes] of one who knows nothing but how frequent each class is in the other folds."""
    count = int(classes.max()) + 1
    found = torch.empty(len(classes), count)
    for fold in range(int(folds.max()) + 1):
        test = folds == fold
        known = classes[~test].bincount(minlength=count) + _PSEUDO_OBJECTS
        found[test] = (known / known.sum()).log()
    return found


def information(said: Tensor, known: Tensor, classes: Tensor) -> Tensor:
    """Bits [N] that are learned of each object's class: how much likelier it is than by the frequencies alone.

    Its mean estimates, from below, the mutual information of features and class (Barber and Agakov 2003). It varies
    less than accuracy, which counts an object or does not; features that say nothing have about 0.

    Args:
        said: Log-probabilities [N, classes] of a classifier.
        known: Those of :func:`frequencies`.
        classes: Class of each object [N].
    """
    return (said - known).gather(1, classes[:, None])[:, 0] / log(2)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread: for matrices as small as these, several wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _along_path(
    levels: Sequence[Tensor], classes: Tensor, train: Tensor, test: Tensor, count: int, length: int
) -> Iterator[Tensor]:
    """Log-probabilities of the objects in ``test`` by what is learned from ``train``, penalty by penalty."""
    pairs = [_standardised(level, train, test) for level in levels]
    known, asked = (torch.cat(parts, dim=1) for parts in zip(*pairs, strict=True))
    features = torch.cat([known, known.new_zeros(count, known.shape[1])])
    labels = torch.cat([classes[train], torch.arange(count)])
    weights = torch.cat([known.new_ones(len(known)), known.new_full((count,), _PSEUDO_OBJECTS)])
    frequent = torch.zeros(count).scatter_add_(0, labels, weights)
    weight = torch.zeros(features.shape[1] + 1, count)  # the last row: biases, which no penalty holds back
    weight[-1] = (frequent / frequent.sum()).log()
    features, asked = _with_ones(features), _with_ones(asked)
    for penalty in _PENALTIES[:length]:
        _fit(features, labels, weights / weights.sum(), weight, penalty)
        yield functional.log_softmax(asked @ weight, dim=1)


def _with_ones(features: Tensor) -> Tensor:
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def _fit(features: Tensor, labels: Tensor, shares: Tensor, weight: Tensor, penalty: float) -> None:
    """Move weights [C + 1, K], the last row of which are biases, to the minimum of one penalty."""
    optimizer = torch.optim.LBFGS([weight], max_iter=_STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-6)
    held = torch.full((len(weight), 1), penalty)
    held[-1] = 0
    transposed, numbers = features.T.contiguous(), torch.arange(len(labels))

    def loss() -> Tensor:
        said = functional.log_softmax(features @ weight, dim=1)
        value = (held * weight.square()).sum() / 2 - said[numbers, labels] @ shares
        wrong = said.exp_()
        wrong[numbers, labels] -= 1
        weight.grad = transposed @ (wrong * shares[:, None]) + held * weight  # by hand: a third less time
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]


def _standardised(level: Tensor, train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, C] of those learned from and those asked for, by mean and deviation of the first; length about 1."""
    known = level[train].float()
    mean, deviation = known.mean(0), known.std(0, correction=0)
    alive = deviation > 1e-6 * max(float(deviation.max()), 1e-12)
    scale = torch.where(alive, 1 / deviation.clamp(min=1e-30), 0.0) / level.shape[1] ** 0.5
    return (known - mean) * scale, (level[test].float() - mean) * scale
