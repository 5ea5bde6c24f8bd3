"""Linear classification: what can be separated is, folds are of whole images, and nothing leaks between them; bits."""

from __future__ import annotations

import torch

from kdyolo.experiments.probe.classification import frequencies, image_folds, information, linear_log_probabilities


def accuracy(features: torch.Tensor, classes: torch.Tensor, folds: torch.Tensor) -> float:
    said = linear_log_probabilities([features], classes, folds)
    assert torch.allclose(said.exp().sum(1), torch.ones(len(said)), atol=1e-5)
    return float((said.argmax(1) == classes).double().mean())


def test_folds_hold_whole_images_and_are_of_equal_size() -> None:
    images = torch.arange(20).repeat_interleave(3)
    folds = image_folds(images, seed=0)
    assert (folds.view(20, 3) == folds.view(20, 3)[:, :1]).all()
    assert folds.bincount().tolist() == [12] * 5
    assert not torch.equal(folds, image_folds(images, seed=1))


def test_what_is_linear_is_learned() -> None:
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * 100
    classes = (features[:, 0] > 0).long() + 2 * (features[:, 1] > 0).long()
    folds = image_folds(torch.arange(200), seed=0)
    assert accuracy(features, classes, folds) > 0.85


def test_an_objects_own_image_tells_nothing() -> None:
    """Every image has a direction and a class of its own: only a leak could tell the class."""
    images = torch.arange(12).repeat_interleave(4)
    features, classes = torch.eye(12)[images] * 10, images % 6
    classes[images == 0] = 5
    folds = image_folds(images, seed=0)
    assert accuracy(features, classes, torch.arange(48) % 4) > 0.9
    assert accuracy(features, classes, folds) < 0.4


def bits_of(levels: list[torch.Tensor], classes: torch.Tensor, folds: torch.Tensor) -> float:
    said = linear_log_probabilities(levels, classes, folds)
    return float(information(said, frequencies(classes, folds), classes).mean())


def test_bits_are_those_that_there_are_to_learn() -> None:
    """Two classes that a channel separates are one bit; a strong penalty alone would leave most of it out."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(300) % 2
    signal = classes[:, None] * 2.0 - 1 + 0.2 * torch.randn(300, 1, generator=generator)
    folds = image_folds(torch.arange(300), seed=0)
    assert 0.9 < bits_of([signal], classes, folds) < 1.05  # frequencies of the other folds are a little off
    noise = torch.randn(300, 64, generator=generator)
    assert abs(bits_of([noise], classes, folds)) < 0.05
    assert 0.6 < bits_of([noise, signal], classes, folds) < 1.05  # each level has the same weight


def test_the_penalty_is_chosen_without_the_fold_itself() -> None:
    """Labels of a fold changed: what is said of it stays to the bit, since they had no part in it."""
    generator = torch.Generator().manual_seed(0)
    features, classes = torch.randn(60, 8, generator=generator), torch.arange(60) % 3
    folds = image_folds(torch.arange(60), seed=0)
    before = linear_log_probabilities([features], classes, folds)
    changed = torch.where(folds == 2, (classes + 1) % 3, classes)
    after = linear_log_probabilities([features], changed, folds)
    assert torch.equal(before[folds == 2], after[folds == 2])
    assert not torch.equal(before[folds == 1], after[folds == 1])


def test_frequencies_are_of_the_other_folds() -> None:
    classes, folds = torch.tensor([0, 0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 1, 1, 1])
    said = frequencies(classes, folds).exp()
    assert torch.allclose(said[0], torch.tensor([0.5, 2.5, 1.5]) / 4.5)
    assert torch.allclose(said[5], torch.tensor([3.5, 0.5, 0.5]) / 4.5)
