"""Label table: the labels of a split as columns, from the annotations that are selected to the text of each file.

A conversion's time is computing on every core, and new memory: a new page takes some µs, so an object or a dictionary
entry for each label would cost more than all computing. Annotations come in no order of images, so labels stay rows,
ends and one text until the end.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass

from kdyolo.data.coco.reading.schema import DetailedAnnotation

ToPolygon = Callable[[DetailedAnnotation, int, int], "list[float] | None"]


@dataclass(frozen=True)
class Selection:
    """Which annotations become labels, and in which form.

    Attributes:
        class_of: Category id → class index 0…nc−1, or None for a category that is left out.
        min_area: Smallest area in pixels²; annotations whose ``area`` is smaller are left out.
        include_crowd: Whether crowd regions are written as ordinary objects.
        polygon_of: Function that gives the corners x1, y1, x2, y2, … of an annotation's polygon in pixels, for an image
            of some width and height, or None where it has none. Without the function, boxes are written.
    """

    class_of: Mapping[int, int | None]
    min_area: float = 0.0
    include_crowd: bool = False
    polygon_of: ToPolygon | None = None


@dataclass(frozen=True)
class Counts:
    """What became of some annotations.

    Attributes:
        annotations: Number of annotations, the sum of all below but ``clipped`` and ``box_fallback``.
        boxes: Number of lines written.
        crowds: Number of crowd regions left out.
        clipped: Number of written boxes that reached beyond the image.
        empty: Number of boxes dropped because nothing of them lies in the image, or too little to be written.
        unselected: Number of annotations of categories that are left out.
        small: Number of annotations below the smallest area.
        box_fallback: Number of written polygons that are the corners of the box, as the annotation has no usable one.
    """

    annotations: int = 0
    boxes: int = 0
    crowds: int = 0
    clipped: int = 0
    empty: int = 0
    unselected: int = 0
    small: int = 0
    box_fallback: int = 0


@dataclass(frozen=True)
class LabelTable:
    """The lines of some annotations that follow each other in a file, in a form that travels well between processes.

    Attributes:
        rows: Rows of the images that have lines, each once, ascending; a row is an image's place in the file, from 0.
        ends: Positions at which in ``text`` the lines of each of these images end.
        text: The lines, image by image, those of one image in the order of the file.
        counts: Numbers of what became of the annotations.
        ids: Ids of the annotations as far as they are small, as the bits of one number: a bit costs far less than an
            object.
        far_ids: Ids of the other annotations.
    """

    rows: array[int]
    ends: array[int]
    text: bytes
    counts: Counts
    ids: int
    far_ids: frozenset[int]


class SplitLabels:
    """All labels of a split, put together from those of consecutive parts of its file."""

    def __init__(self, parts: Sequence[LabelTable], images: int) -> None:
        """Put ``parts`` together, given in the order of a file that has this number of ``images``."""
        self._parts = parts
        self._images = images

    @property
    def counts(self) -> Counts:
        """What became of all annotations."""
        return Counts(*map(sum, zip(*(astuple(part.counts) for part in self._parts), strict=True)))

    @property
    def backgrounds(self) -> int:
        """The number of images without a line."""
        empty = bytearray(b"\1" * self._images)
        for part in self._parts:
            for row in part.rows:
                empty[row] = 0
        return sum(empty)

    @property
    def ids_repeat(self) -> bool:
        """Whether two annotations have one id."""
        near, far = 0, set[int]()
        for part in self._parts:
            near |= part.ids
            far |= part.far_ids
        return near.bit_count() + len(far) < self.counts.annotations

    def files(self, rows: range) -> list[bytes]:
        """The content of the label files of the images in these consecutive rows."""
        texts = [b""] * len(rows)
        for part in self._parts:
            low, high = bisect_left(part.rows, rows.start), bisect_left(part.rows, rows.stop)
            start = part.ends[low - 1] if low else 0
            for row, stop in zip(part.rows[low:high], part.ends[low:high], strict=True):
                texts[row - rows.start] += part.text[start:stop]
                start = stop
        return texts
