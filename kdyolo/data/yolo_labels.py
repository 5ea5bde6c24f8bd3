"""YOLO labels: one box or polygon in pixels ⇄ one line of a label file, and where Ultralytics looks for that file.

These are the rules of a label, which both ways of a conversion follow: the careful one calls these functions, and
:mod:`kdyolo.data.coco.label_batches` gives the same text for many annotations at once. A box is cut to the image, which
counts as clipping only where it reaches beyond by more than :data:`NOISE_PX`; what is left is written unless a side of
it is at most :data:`NOTHING` of the image; coordinates are fractions of the image with six decimals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kdyolo.errors import DatasetError
from kdyolo.utils.plain_files import refuse_endless

Box = tuple[float, float, float, float]

# COCO writes two decimals, so x + w lands a few 1e-13 beyond the border where it means the border. Not worth a count.
NOISE_PX = 1e-9
# A side of at most this fraction of the image would be written as 0.000000.
NOTHING = 5e-7
_BOX_LINE = "%d %.6f %.6f %.6f %.6f\n"


def clip_box(box: Box, width: int, height: int) -> Box:
    """The part of a box [left, top, w, h] inside an image of width × height, all in pixels.

    A box that lies inside comes back as the same object. Where nothing is left, w or h is
    zero or negative.
    """
    left, top, w, h = box
    right, bottom = left + w, top + h
    if left >= 0 and top >= 0 and right <= width + NOISE_PX and bottom <= height + NOISE_PX:
        return box
    left, top = max(left, 0.0), max(top, 0.0)
    return left, top, min(right, width) - left, min(bottom, height) - top


def label_line(class_index: int, box: Box, width: int, height: int) -> str | None:
    """One line ``class cx cy w h``, each coordinate a fraction of the image in 0–1 with six decimals.

    Args:
        class_index: Class index, 0…nc−1.
        box: Left, top, width, height in pixels, inside the image.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        The line with its newline, or None where w or h is not positive or would be written as zero.
    """
    left, top, w, h = box
    if w <= NOTHING * width or h <= NOTHING * height:
        return None
    return _BOX_LINE % (class_index, (left + w / 2) / width, (top + h / 2) / height, w / width, h / height)


def polygon_line(class_index: int, corners: Sequence[float], width: int, height: int) -> str | None:
    """One line ``class x1 y1 x2 y2 …`` with the corners of a polygon, clipped to the image, as fractions of it.

    Args:
        class_index: Class index, 0…nc−1.
        corners: Coordinates x1, y1, x2, y2, … in pixels.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        The line with its newline, or None where nothing of the polygon's area lies in the image.
    """
    xs = [min(max(x / width, 0.0), 1.0) for x in corners[::2]]
    ys = [min(max(y / height, 0.0), 1.0) for y in corners[1::2]]
    if max(xs) - min(xs) <= NOTHING or max(ys) - min(ys) <= NOTHING:
        return None
    return f"{class_index} {' '.join('%.6f %.6f' % corner for corner in zip(xs, ys, strict=True))}\n"  # noqa: UP031


def box_corners(box: Sequence[float]) -> list[float]:
    """A box [left, top, width, height] as the polygon x1, y1, …, x4, y4, clockwise from the left upper corner."""
    left, top, w, h = box
    return [left, top, left + w, top, left + w, top + h, left, top + h]


def label_path(split: str, file_name: str) -> str:
    """Where Ultralytics looks for the label of ``images/<split>/<file_name>``, relative to the dataset folder.

    It replaces the *last* ``/images/`` of a path, so this is ``labels/<split>/<stem>.txt`` for all names but those that
    have a folder ``images`` themselves.
    """
    if "/" not in file_name:
        return f"labels/{split}/{file_name.rpartition('.')[0]}.txt"
    head, _, tail = f"/images/{split}/{file_name}".rpartition("/images/")
    return f"{head}/labels/{tail.rpartition('.')[0]}.txt".lstrip("/")


_FEWEST_DECIMALS, _MOST_DECIMALS = 2, 9

_TOLERANCE = 0.01  # beyond the image, as Ultralytics grants it

V = TypeVar("V")


@dataclass(frozen=True)
class Label:
    """One line of a label file.

    Attributes:
        index: Class index, 0…nc−1.
        coordinates: Box cx, cy, w, h, or corners x1, y1, x2, y2, … of a polygon; fractions of the image.
    """

    index: int
    coordinates: tuple[float, ...]

    @property
    def is_polygon(self) -> bool:
        """Whether it is a polygon."""
        return len(self.coordinates) > 4

    @property
    def text(self) -> str:
        """The line as the converter writes it."""
        return f"{self.index} {' '.join(f'{value:.6f}' for value in self.coordinates)}\n"

    def box(self, width: int, height: int) -> Box:
        """Left, top, width, height in pixels, with the fewest decimals that give the same label again."""
        cx, cy, w, h = self.coordinates
        exact = ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height)

        def at(decimals: int) -> Box:
            left, top, w, h = (round(value, decimals) + 0.0 for value in exact)  # + 0.0 makes -0.0 plain
            return left, top, w, h

        return _shortest(at, lambda box: label_line(self.index, clip_box(box, width, height), width, height), self.text)

    def polygon(self, width: int, height: int) -> dict[str, Any]:
        """``segmentation``, ``bbox`` and ``area`` of a polygon, in pixels."""

        def at(decimals: int) -> list[float]:
            return [round(v * (height if i % 2 else width), decimals) for i, v in enumerate(self.coordinates)]

        corners = _shortest(at, lambda corners: polygon_line(self.index, corners, width, height), self.text)
        xs, ys = corners[::2], corners[1::2]
        area = abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(zip(xs, ys, strict=True)))) / 2
        bounds = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return {"segmentation": [corners], "bbox": bounds, "area": area}


def _shortest(at: Callable[[int], V], label_of: Callable[[V], str | None], text: str) -> V:
    for decimals in range(_FEWEST_DECIMALS, _MOST_DECIMALS):
        if label_of(at(decimals)) == text:
            return at(decimals)
    return at(_MOST_DECIMALS)


def read_labels(path: Path, classes: Mapping[int, object]) -> list[Label]:
    """The lines of a label file; none where there is no file, as for Ultralytics.

    Raises:
        DatasetError: A line is no label of these classes.
    """
    refuse_endless(path, error=DatasetError)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}.") from error
    return [_parse(path, number, line, classes) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse(path: Path, number: int, line: str, classes: Mapping[int, object]) -> Label:
    fields = line.split()
    try:
        index, *values = map(float, fields)
    except ValueError:
        index, values = math.nan, []
    is_box, is_polygon = len(values) == 4, len(values) >= 6 and len(values) % 2 == 0
    if not (is_box or is_polygon) or not all(-_TOLERANCE <= v <= 1 + _TOLERANCE for v in values):
        raise DatasetError(
            f"{path}, line {number}: expected 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 …' with coordinates from 0 "
            f"to 1, found {line[:80]!r}. Correct the label."
        )
    if index not in classes:
        raise DatasetError(f"{path}, line {number}: expected a class from 0 to {len(classes) - 1}, found {fields[0]}.")
    return Label(int(index), tuple(values))
