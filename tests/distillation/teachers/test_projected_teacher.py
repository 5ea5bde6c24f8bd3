"""Projected teacher: principal components of the image's own cells, the same whoever measures them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdyolo.distillation.teachers.projected_teacher import ProjectedTeacher, projection_of
from kdyolo.distillation.teachers.protocol import TeacherMap

GENERATOR = torch.Generator().manual_seed(0)
MIXING = torch.randn(3, 12, generator=GENERATOR, dtype=torch.float64)


class Mixed:
    """A teacher of 12 channels that are mixtures of an image's three, and of one map that is left alone."""

    name, digest, licence, size = "mixed", "0" * 64, None, 16
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    maps = (TeacherMap("a", 3, 4), TeacherMap("b", 12, 4))

    def __call__(self, images: Tensor) -> list[Tensor]:
        cells = torch.nn.functional.avg_pool2d(images, 4)
        return [cells, torch.einsum("bchw,cn->bnhw", cells, MIXING.to(cells)) + 5]


def views(height: float = 16.0) -> tuple[Tensor, Tensor]:
    """Four images of which the upper ``height`` pixels are no padding; the padding is far from everything."""
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    images[:, :, int(height) :] = 100.0
    return images, torch.tensor([[0.0, 0.0, 16.0, height]]).expand(4, 4)


def measured(components: int, height: float = 16.0) -> ProjectedTeacher:
    teacher = ProjectedTeacher(Mixed(), [1], components)
    teacher.measure([views(height), views(height)])
    return teacher


@pytest.mark.parametrize("height", [16.0, 8.0])
def test_components_are_those_of_an_svd_without_padding(height: float) -> None:
    cells = Mixed()(views(height)[0])[1][:, :, : int(height) // 4].permute(0, 2, 3, 1).reshape(-1, 12).double()
    centred = cells - cells.mean(0)
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    teacher = measured(2, height)
    found = teacher.axes1.double()
    assert torch.allclose((found.T @ axes[:2].T).abs(), torch.eye(2, dtype=torch.float64), atol=1e-4)
    assert teacher.explained["b"] == pytest.approx(float(values[:2].square().sum() / values.square().sum()), abs=1e-5)


def test_three_components_hold_all_of_three_sources() -> None:
    teacher = measured(3)
    assert teacher.explained["b"] == pytest.approx(1.0, abs=1e-5)
    images = views()[0]
    whole, projected = Mixed()(images)[1], teacher(images)[1]
    assert projected.shape == (4, 3, 4, 4)
    cells = [maps.double().permute(0, 2, 3, 1).flatten(0, 2) for maps in (whole, projected)]
    distances = [(found[:, None] - found).norm(dim=-1) for found in cells]
    assert torch.allclose(*distances, atol=1e-4)


def test_maps_say_how_many_channels_they_have_and_others_stay_as_they_are() -> None:
    teacher = ProjectedTeacher(Mixed(), [1], 5)
    assert [found.channels for found in teacher.maps] == [3, 5]
    assert [found.channels for found in ProjectedTeacher(Mixed(), [0, 1], 64).maps] == [3, 12]
    images = views()[0]
    assert [maps.shape[1] for maps in teacher(images)] == [3, 5]
    assert torch.equal(teacher(images)[0], Mixed()(images)[0])


def test_a_projection_is_known_by_its_digest_and_taken_over() -> None:
    first, other = measured(2), ProjectedTeacher(Mixed(), [1], 2)
    assert projection_of(first) == measured(2).projection != other.projection
    other.take(first.tensors(), first.explained)
    assert other.projection == first.projection
    assert other.explained == first.explained
    assert projection_of(Mixed()) == ""
    with pytest.raises(RuntimeError):
        ProjectedTeacher(Mixed(), [1], 3).take(first.tensors(), {})
