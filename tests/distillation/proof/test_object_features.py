"""Features of objects: pooling by hand, and neighbours that are never of the same image."""

from __future__ import annotations

import pytest
import torch

from kdyolo.distillation.proof.object_features import (
    join_levels,
    knn_accuracy,
    knn_predictions,
    pool_objects,
    standardise,
)


def test_a_box_pools_the_mean_of_what_it_covers() -> None:
    columns = torch.arange(8.0).expand(1, 1, 8, 8)  # value i at the centre of column i, 4 pixels wide
    boxes = torch.tensor([[0.0, 0, 32, 32], [8, 0, 16, 32], [18, 3, 22, 9]])
    fine, coarse = pool_objects([columns, torch.full((1, 2, 2, 2), 7.0)], [4, 16], [boxes])
    assert fine[:, 0].tolist() == pytest.approx([3.5, 2.5, 4.5])
    assert coarse.shape == (3, 2)
    assert (coarse == 7).all()


def test_boxes_belong_to_their_image_and_an_image_may_have_none() -> None:
    maps = torch.stack([torch.full((1, 4, 4), float(i)) for i in range(3)])
    box = torch.tensor([[0.0, 0, 8, 8]])
    (found,) = pool_objects([maps], [8], [box, torch.zeros(0, 4), box.repeat(2, 1)])
    assert found[:, 0].tolist() == [0, 2, 2]


def test_standardised_channels_and_equal_weight_of_levels() -> None:
    features = torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert standardise(features).tolist() == [[-1, 0], [1, 0]]
    joined = join_levels([torch.randn(6, 3) * 1000, torch.randn(6, 9)])
    assert joined.shape == (6, 12)
    torch.testing.assert_close(joined[:, :3].norm(dim=1), joined[:, 3:].norm(dim=1))


def test_neighbours_by_hand() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 3.1, 3.2, 3.3])
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    classes, images = torch.tensor([0, 0, 0, 1, 1, 1]), torch.arange(6)
    assert knn_accuracy(features, classes, images, k=2) == 1
    assert knn_predictions(features, torch.tensor([0, 0, 0, 1, 1, 0]), images, k=2).tolist()[5] == 1


def test_a_neighbour_is_never_of_the_same_image() -> None:
    """Every object's nearest is its twin in the same image; all others in other images are of the other class."""
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(6, 4, generator=generator)
    features, images = one.repeat_interleave(2, dim=0), torch.arange(6).repeat_interleave(2)
    classes = torch.arange(6).repeat_interleave(2)
    assert knn_accuracy(features, classes, torch.arange(12), k=1) == 1
    assert knn_accuracy(features, classes, images, k=1) == 0


def test_of_equal_votes_the_nearer_decide() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.05], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    assert int(knn_predictions(features, torch.tensor([0, 2, 1, 1, 1]), torch.arange(5), k=2)[0]) == 2


def test_an_object_without_other_images_has_no_class() -> None:
    assert knn_predictions(torch.randn(2, 3), torch.tensor([0, 1]), torch.zeros(2)).tolist() == [-1, -1]


def test_random_features_are_as_good_as_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1000, 16, generator=generator)
    classes = torch.randint(0, 4, (1000,), generator=generator)
    assert knn_accuracy(features, classes, torch.arange(1000)) == pytest.approx(0.25, abs=0.04)
