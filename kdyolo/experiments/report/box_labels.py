"""Labels of boxes in a sample picture: each at its box, and none over another one where there is room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdyolo.experiments.report.sample_images import Box

_LETTERS = 24  # text heights along the longer side of an image
_WIDTH, _LINE = 0.6, 1.25  # of a letter of a monospaced font, and of a label, in text heights
_MARGIN = 0.25  # beside the text, in text heights


@dataclass(frozen=True)
class Plate:
    """The area that a label covers, in pixels of the original image.

    Attributes:
        x: Left edge.
        y: Upper edge.
        w: Width.
        h: Height.
    """

    x: float
    y: float
    w: float
    h: float

    def covers(self, other: Plate) -> bool:
        """Whether it lies over another one, if only in part."""
        apart = self.x + self.w <= other.x or other.x + other.w <= self.x
        return not (apart or self.y + self.h <= other.y or other.y + other.h <= self.y)


def text_height(width: int, height: int) -> float:
    """Height of the text in an image of so many pixels, in its pixels."""
    return max(width, height) / _LETTERS


def place_labels(boxes: Sequence[Box], width: int, height: int) -> list[Plate]:
    """Places of the labels of boxes, above them if possible; the last box, which is drawn on top, chooses first.

    Args:
        boxes: Boxes in the order in which they are drawn.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """
    text, placed = text_height(width, height), list[Plate]()
    for box in reversed(boxes):
        size = len(box.label) * text * _WIDTH + 2 * _MARGIN * text, text * _LINE
        x = max(min(box.x, width - size[0]), 0.0)
        places = [Plate(x, y, *size) for y in _heights(box, size[1]) if 0 <= y <= height - size[1]]
        free = (place for place in places if not any(map(place.covers, placed)))
        placed.append(next(free, places[0] if places else Plate(x, 0.0, *size)))
    return placed[::-1]


def _heights(box: Box, line: float) -> Iterator[float]:
    """Upper edges that a label may have: above its box, in it, below it, then further away."""
    yield from (box.y - line, box.y, box.y + box.h, box.y + box.h - line)
    for step in range(1, _LETTERS):
        yield from (box.y - line * (step + 1), box.y + line * step)
