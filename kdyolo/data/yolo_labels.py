"""YOLO labels: one box or polygon in pixels ⇄ one line of a label file, and where Ultralytics looks for that file.

These are the rules of a label, which both ways of a conversion follow: the careful one calls these functions, and
:mod:`kdyolo.data.coco.label_batches` gives the same text for many annotations at once. A box is cut to the image, which
counts as clipping only where it reaches beyond by more than :data:`NOISE_PX`; what is left is written unless a side of
it is at most :data:`NOTHING` of the image; coordinates are fractions of the image with six decimals.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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

V = TypeVar("V")


@dataclass(frozen=True)
class Label:
    """One line of a label file.

    Attributes:
        index: Class index, 0…nc−1.
        coordinates: Box cx, cy, w, h, or corners x1, y1, x2, y2, … of a polygon; fractions of the image.
        keypoints: x1, y1, v1, x2, y2, v2, … of a pose, with x and y as fractions of the image and v as COCO's
            visibility: 0 not labelled, 1 hidden, 2 visible. Empty for an object without a pose.
        rotated: Whether the corners are those of a rotated box (OBB).
    """

    index: int
    coordinates: tuple[float, ...]
    keypoints: tuple[float, ...] = ()
    rotated: bool = False

    @property
    def is_polygon(self) -> bool:
        """Whether it is a polygon."""
        return len(self.coordinates) > 4

    @property
    def text(self) -> str:
        """The line as the converter writes it, without keypoints."""
        return f"{self.index} {' '.join(f'{value:.6f}' for value in self.coordinates)}\n"

    @property
    def row(self) -> bytes:
        """The same for two lines exactly if Ultralytics takes one for a duplicate of the other: in 32-bit floats."""
        values = (self.index, *self.coordinates, *self.keypoints)
        return struct.pack(f"{len(values)}f", *(value + 0.0 for value in values))  # + 0.0 makes -0.0 plain

    def box(self, width: int, height: int) -> Box:
        """Left, top, width, height in pixels, with the fewest decimals that give the same label again."""
        cx, cy, w, h = self.coordinates
        exact = ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height)

        def at(decimals: int) -> Box:
            left, top, w, h = (round(value, decimals) + 0.0 for value in exact)  # + 0.0 makes -0.0 plain
            return left, top, w, h

        def line_of(box: Box) -> str | None:
            return label_line(self.index, clip_box(box, width, height), width, height)

        def whole_line_of(box: Box) -> str | None:  # of one that reaches beyond the image, which the label says too
            return label_line(self.index, box, width, height)

        return _shortest(at, (line_of, whole_line_of), self.text)

    def polygon(self, width: int, height: int) -> dict[str, Any]:
        """``segmentation``, ``bbox`` and ``area`` of a polygon or a rotated box, in pixels."""

        def at(decimals: int) -> list[float]:
            return _in_pixels(self.coordinates, 2, width, height, decimals)

        def line_of(corners: list[float]) -> str | None:
            return polygon_line(self.index, corners, width, height)

        def whole_line_of(corners: list[float]) -> str:
            return Label(self.index, tuple(v / (height if i % 2 else width) for i, v in enumerate(corners))).text

        corners = _shortest(at, (line_of, whole_line_of), self.text)
        if self.rotated and not _is_quadrangle(corners):
            corners = _smallest_rectangle(corners)
        xs, ys = corners[::2], corners[1::2]
        area = abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(zip(xs, ys, strict=True)))) / 2
        bounds = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return {"segmentation": [corners], "bbox": bounds, "area": area}

    def pose(self, width: int, height: int) -> dict[str, Any]:
        """``keypoints`` and ``num_keypoints``, with x and y in pixels; nothing for an object without a pose."""
        if not self.keypoints:
            return {}

        def at(decimals: int) -> list[float]:
            return _in_pixels(self.keypoints, 3, width, height, decimals)

        def text_of(points: list[float]) -> str:
            return _six_decimals(v / (width, height, 1)[i % 3] for i, v in enumerate(points))

        points = _shortest(at, (text_of,), _six_decimals(self.keypoints))
        points[2::3] = [int(v) for v in points[2::3]]
        return {"keypoints": points, "num_keypoints": sum(v > 0 for v in points[2::3])}


def _is_quadrangle(corners: Sequence[float]) -> bool:
    """Whether these are four corners that go around a convex figure, in either direction."""
    points = [corners[i : i + 2] for i in range(0, len(corners), 2)]
    triples = [(points[i - 2], points[i - 1], point) for i, point in enumerate(points)]
    turns = [(b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0]) for a, b, c in triples]
    return len(points) == 4 and (min(turns) >= 0 or max(turns) <= 0)


def _smallest_rectangle(corners: Sequence[float]) -> list[float]:
    """The corners of the rectangle of the smallest area around points, which Ultralytics takes for a rotated box."""
    import cv2  # only for what stands in an odd order
    import numpy as np

    rectangle = cv2.minAreaRect(np.array(corners, dtype=np.float32).reshape(-1, 2))
    return [round(float(value), _FEWEST_DECIMALS) for value in cv2.boxPoints(rectangle).ravel()]


def _in_pixels(values: Sequence[float], step: int, width: int, height: int, decimals: int) -> list[float]:
    """Points in pixels, rounded; from the third on, the numbers of a point stay what they are."""
    return [round(v * (width, height, 1)[i % step], decimals) + 0.0 for i, v in enumerate(values)]


def _six_decimals(values: Iterable[float]) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def _shortest(at: Callable[[int], V], lines: Sequence[Callable[[V], str | None]], text: str) -> V:
    """What has the fewest decimals of which one of the functions gives the text; the first one that can decides."""
    for line_of in lines:
        for decimals in range(_FEWEST_DECIMALS, _MOST_DECIMALS):
            if line_of(at(decimals)) == text:
                return at(decimals)
    return at(_MOST_DECIMALS)
