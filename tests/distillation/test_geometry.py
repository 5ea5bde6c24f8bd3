"""Cells of teacher and student meet where they lie in the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdyolo.distillation.geometry import Grid, bring_to, coverage, place


def coordinates_on(grid: Grid, area: tuple[float, ...]) -> torch.Tensor:
    """What a teacher would say that returns, at each cell, where its centre lies in the image: x and y in 0–1."""
    centres = (torch.arange(grid.cells) + 0.5) * grid.stride + grid.offset
    x, y = (centres - area[0]) / area[2], (centres - area[1]) / area[3]
    return torch.stack([x.expand(grid.cells, -1), y[:, None].expand(-1, grid.cells)])[None]


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("shape", [(480, 640), (427, 640), (640, 333), (500, 500)])
@pytest.mark.parametrize(
    ("size", "stride", "offset"), [(224, 14, 0), (224, 16, 0), (518, 14, 0), (320, 8, 3), (96, 4, 0)]
)
@pytest.mark.parametrize("own", [8, 16, 32])
def test_a_teacher_that_returns_coordinates(
    resize: str, shape: tuple[int, int], size: int, stride: int, offset: int, own: int
) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    _, taught = place(image, size, resize)
    _, seen = place(image, 320, resize)
    teacher, student = Grid(size // stride, stride, offset), Grid(320 // own, own)
    features = coordinates_on(teacher, taught)
    brought = bring_to(features, teacher, torch.tensor([taught]), student, torch.tensor([seen]))
    expected = coordinates_on(student, seen)
    inside = coverage(student, torch.tensor([seen]))[:, 0] > 0.99
    error = (brought - expected).abs() * torch.tensor([seen[2], seen[3]]).view(1, 2, 1, 1) / own  # in cells
    assert inside.any()
    assert error.amax(1)[inside].max() < 0.1


def test_cells_of_different_images_in_a_batch_keep_their_own_place() -> None:
    grid, finer, areas = Grid(4, 8), Grid(8, 4), torch.tensor([[0, 4, 32, 24], [4, 0, 24, 32]])
    brought = bring_to(torch.cat([coordinates_on(grid, a.tolist()) for a in areas]), grid, areas, finer, areas)
    torch.testing.assert_close(brought, torch.cat([coordinates_on(finer, a.tolist()) for a in areas]))


def test_cells_that_lie_in_the_same_places_keep_their_values_and_others_move() -> None:
    grid, areas = Grid(4, 8), torch.tensor([[0, 4, 32, 24], [4, 0, 24, 32]])
    features = torch.cat([coordinates_on(grid, a.tolist()) for a in areas])
    assert torch.equal(bring_to(features, grid, areas, grid, areas), features)
    moved = bring_to(features, grid, areas, grid, areas.flip(0))
    expected = torch.cat([coordinates_on(grid, a.tolist()) for a in areas.flip(0)])
    inside = (coverage(grid, areas.flip(0)) > 0.99).expand_as(expected)
    torch.testing.assert_close(moved[inside], expected[inside])
    assert not torch.equal(moved, features)


def test_a_large_cell_takes_the_mean_of_the_small_ones_in_it() -> None:
    features = torch.arange(16.0).view(1, 1, 4, 4)
    whole = torch.tensor([[0, 0, 32, 32]])
    found = bring_to(features, Grid(4, 8), whole, Grid(2, 16), whole)
    torch.testing.assert_close(found, torch.nn.functional.avg_pool2d(features, 2))


def test_padding_counts_nowhere_and_a_cell_half_in_the_image_counts_half() -> None:
    weights = coverage(Grid(4, 8), torch.tensor([[0, 4, 32, 24]]))[0, 0]
    assert weights[:, 0].tolist() == [0.5, 1, 1, 0.5]
    assert coverage(Grid(4, 8), torch.tensor([[8, 0, 16, 32]]))[0, 0, 0].tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("shape", [(10, 2000), (2000, 10), (10, 639), (10, 641)])
def test_the_longest_images_are_at_least_a_pixel_high(resize: str, shape: tuple[int, int]) -> None:
    canvas, (left, top, wide, high) = place(np.full((*shape, 3), 200, np.uint8), 64, resize)
    assert canvas.shape == (64, 64, 3)
    assert min(wide, high) >= 1
    assert (canvas[top : top + high, left : left + wide] == 200).all()


def test_images_lie_where_ultralytics_puts_them() -> None:
    image = np.full((30, 64, 3), 7, np.uint8)
    canvas, (left, top, width, height) = place(image, 64, "letterbox")
    rows, columns = np.nonzero((canvas == 7).all(2))
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, left + width, top + height)
