"""The picture of features: one PCA for teacher and student, of the image's own cells."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from kdyolo.checkpoints.feature_maps import PADDED
from kdyolo.distillation.proof.feature_pictures import draw_feature_pairs, paired_colours
from kdyolo.errors import RunError


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(5, 6, 6, generator=torch.Generator().manual_seed(seed))


def test_equal_maps_have_equal_colours() -> None:
    teacher, student = paired_colours(features(), features(), torch.ones(6, 6))
    assert (teacher == student).all()
    assert teacher.std() > 30


def test_a_shifted_student_has_other_colours() -> None:
    """A PCA of each on its own would hide the difference."""
    teacher, student = paired_colours(features(), features() + 5, torch.ones(6, 6))
    assert np.abs(teacher.astype(int) - student).max() > 100


def test_padding_is_grey_and_moves_nothing() -> None:
    weight, target, predicted = torch.ones(6, 6), features(0), features(1)
    weight[0] = 0
    before = paired_colours(target, predicted, weight)
    target[:, 0], predicted[:, 0] = 1000, -1000
    for then, now in zip(before, paired_colours(target, predicted, weight), strict=True):
        assert (then == now).all()
        assert (now[0] == PADDED).all()


def test_the_picture_has_a_row_for_each_image_and_a_pair_for_each_level(tmp_path) -> None:
    images = torch.rand(2, 3, 64, 64)
    fine = torch.randn(2, 5, 8, 8)
    coarse = torch.randn(2, 3, 4, 4)
    levels = {"P3": (fine, fine, torch.ones(2, 1, 8, 8)), "P4": (coarse, coarse, torch.ones(2, 1, 4, 4))}
    picture = draw_feature_pairs(images, levels, tmp_path / "features.png")
    assert picture.shape == (2 * (192 + 28) + 48, 5 * 192, 3)
    assert picture[-48:].min() < 128, "no lines below say how to read it"
    assert (cv2.imread(str(tmp_path / "features.png")) == picture).all()
    first = picture[28 : 28 + 192 : 3, :192:3, ::-1]
    assert np.abs(first - images[0].permute(1, 2, 0).numpy() * 255).max() <= 0.5


def test_a_picture_that_cannot_be_written_is_one_error(tmp_path) -> None:
    with pytest.raises(RunError, match=r"cannot be written.*\.png or \.jpg"):
        draw_feature_pairs(torch.rand(1, 3, 64, 64), {}, tmp_path / "nowhere" / "features.png")
