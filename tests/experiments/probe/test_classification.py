"""Linear classification: what can be separated is, folds are of whole images, and nothing leaks between them."""

from __future__ import annotations

import torch

from kdyolo.experiments.probe.classification import image_folds, linear_predictions


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
    assert float((linear_predictions(features, classes, folds) == classes).double().mean()) > 0.85


def test_an_objects_own_image_tells_nothing() -> None:
    """Every image has a direction and a class of its own: only a leak could tell the class."""
    images = torch.arange(12).repeat_interleave(4)
    features, classes = torch.eye(12)[images] * 10, images % 6
    classes[images == 0] = 5
    folds = image_folds(images, seed=0)
    leaking = linear_predictions(features, classes, torch.arange(48) % 4)
    assert (leaking == classes).all()
    assert float((linear_predictions(features, classes, folds) == classes).double().mean()) < 0.4
