"""Geometry of cells: images placed on square canvases, and a teacher's cells brought to where a student's really lie.

A cell is known by its centre in the image, never by its index. The way from a student's cell to a teacher's is linear
along each axis, so a map is resampled by one matrix for its rows and one for its columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from ultralytics.data.augment import LetterBox

LETTERBOX, STRETCH = "letterbox", "stretch"


@dataclass(frozen=True)
class Grid:
    """Cells along both axes of a square canvas.

    Attributes:
        cells: Number of cells along each axis.
        stride: Pixels of the canvas from one cell to the next.
        offset: Shift in pixels: the centre of cell i lies at ``(i + 0.5) * stride + offset``.
    """

    cells: int
    stride: float
    offset: float = 0.0


def place(image: NDArray[np.uint8], size: int, resize: str) -> tuple[NDArray[np.uint8], tuple[int, int, int, int]]:
    """Put an image on a square canvas as Ultralytics' training does.

    Args:
        image: Image [H, W, 3] in 0–255.
        size: Side of the canvas, in pixels.
        resize: ``letterbox`` keeps the aspect ratio and pads, ``stretch`` does neither.

    Returns:
        The canvas [size, size, 3], and where the image lies on it: left, top, width and height in pixels.
    """
    height, width = image.shape[:2]
    area = area_on_canvas(width, height, size, resize)
    if resize != STRETCH and not round(min(width, height) * size / max(width, height)):  # Ultralytics makes it 0 high
        image = cv2.resize(image, area[2:], interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    canvas: NDArray[np.uint8] = LetterBox((size, size), scale_fill=resize == STRETCH)(image=image)
    return canvas, area


def area_on_canvas(width: int, height: int, size: int, resize: str) -> tuple[int, int, int, int]:
    """Where an image lies on a canvas that :func:`place` makes: left, top, width and height in pixels.

    Args:
        width: Width of the image, in pixels.
        height: Height of the image, in pixels.
        size: Side of the canvas, in pixels.
        resize: ``letterbox`` or ``stretch``.
    """
    if resize == STRETCH:
        return 0, 0, size, size
    scale = min(size / height, size / width)
    wide, high = max(round(width * scale), 1), max(round(height * scale), 1)
    return round((size - wide) / 2 - 0.1), round((size - high) / 2 - 0.1), wide, high


def coverage(grid: Grid, areas: Tensor) -> Tensor:
    """How much of each cell the image covers; padding gives 0.

    Args:
        grid: Cells of the canvas.
        areas: Left, top, width and height [B, 4] of each image on its canvas, in pixels.

    Returns:
        Shares [B, 1, cells, cells] in 0–1, rows first.
    """
    edges = torch.arange(grid.cells, device=areas.device) * grid.stride + grid.offset

    def along(start: Tensor, length: Tensor) -> Tensor:
        first = torch.maximum(edges, start[:, None])
        last = torch.minimum(edges + grid.stride, (start + length)[:, None])
        return (last - first).clamp(min=0) / grid.stride

    left, top, width, height = areas.float().unbind(1)
    return (along(top, height)[:, :, None] * along(left, width)[:, None, :])[:, None]


def bring_to(features: Tensor, teacher: Grid, taught: Tensor, student: Grid, seen: Tensor) -> Tensor:
    """A teacher's map on a student's cells.

    Where a student's cell is larger than the teacher's, the mean over the cell is taken; between centres values are
    interpolated, and beyond the outermost ones continued, both linearly.

    Args:
        features: The teacher's map [B, C, h, w].
        teacher: Cells of the teacher's canvas.
        taught: Left, top, width and height [B, 4] of the images on the teacher's canvas.
        student: Cells of the student's canvas.
        seen: The same four [B, 4] of the same images on the student's canvas.

    Returns:
        The map [B, C, cells, cells] on the student's cells, in float32.
    """
    if teacher == student and torch.equal(taught, seen):
        return features.float()
    rows, columns = (
        _axis(teacher, taught[:, axis].float(), taught[:, axis + 2].float(), student, seen[:, axis].float(),
              seen[:, axis + 2].float())
        for axis in (1, 0)
    )  # fmt: skip
    return torch.matmul(torch.matmul(rows[:, None], features.float()), columns[:, None].transpose(-1, -2))


def _axis(teacher: Grid, at: Tensor, long: Tensor, student: Grid, start: Tensor, length: Tensor) -> Tensor:
    """Weights [B, student's cells, teacher's cells] that take values from one axis to the other."""
    ratio = student.stride * float((long / length).max()) / teacher.stride
    points = max(1, int(np.ceil(ratio - 1e-6)))  # within a cell, at each of which the teacher's values are read
    within = (torch.arange(student.cells * points, device=at.device) + 0.5) / points * student.stride + student.offset
    in_image = (within[None] - start[:, None]) / length[:, None]
    position = (in_image * long[:, None] + at[:, None] - teacher.offset) / teacher.stride - 0.5
    weights = torch.zeros(*position.shape, teacher.cells, device=at.device)
    if teacher.cells == 1:
        weights += 1
    else:
        first = position.floor().clamp(0, teacher.cells - 2)
        share = (position - first).clamp(-0.5, 1.5)
        weights.scatter_(2, first.long()[..., None], (1 - share)[..., None])
        weights.scatter_(2, first.long()[..., None] + 1, share[..., None])
    return weights.view(len(at), student.cells, points, teacher.cells).mean(2)
