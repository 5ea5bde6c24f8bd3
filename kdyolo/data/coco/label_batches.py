"""Label lines of many annotations at once, in NumPy: the fast way of the conversion.

The rules of a label (clipping, what is too small to be written, six decimals) are those of
:mod:`kdyolo.data.yolo_labels`, where they are explained; the constants come from there, and tests hold the text equal
to the letter to what its functions give for one annotation at a time. Where an annotation is irregular, the file is
given back to the careful way (:class:`FastPathUnavailable`).

Numbers are rounded as ``"%.6f"`` does, to the bit (exactly where a half is near): ``to-coco`` recognises an object by
the text of its label.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from struct import error as StructError
from struct import pack
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from kdyolo.data.coco.label_table import Counts, LabelTable, Selection, ToPolygon
from kdyolo.data.coco.reading.json_chunks import FastPathUnavailable
from kdyolo.data.coco.reading.schema import AnnotationRecord, DetailedAnnotation, ImageRecord
from kdyolo.data.yolo_labels import NOISE_PX, NOTHING, box_corners, polygon_line

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

# The eight bytes of a number such as "0.123456", each half with zeros in place of the other: any two make a word.
_LEADING = np.array([b"%d.%03d\0\0\0" % divmod(number, 1000) for number in range(1001)], "S8").view(np.uint64)
_TRAILING = np.array([b"\0\0\0\0\0%03d" % number for number in range(1000)], "S8").view(np.uint64)
_NEAR = 1 << 24  # of ids: COCO's own go up to 2.2 million, but for crowds
_NEAR_HALF = 0.5 - 1e-9  # a product of 1e6 at most is off by less


@dataclass(frozen=True)
class Columns:
    """Some annotations, N of them, as numbers.

    Attributes:
        rows: [N] Row of the image of each annotation: its place in the file, from 0.
        classes: [N] Class index 0…nc−1, or -1 for what is left out.
        boxes: [N, 4] Left, top, width, height in pixels.
        ids: Ids of the annotations, as far as they lie in 0…2²⁴−1.
        far_ids: Ids beyond that range.
        crowd: [N] Whether the annotation is a crowd region.
        areas: [N] Areas in pixels², where they are asked for; else empty.
        records: The annotations themselves, where polygons are asked for; else empty.
    """

    rows: Integers
    classes: Integers
    boxes: Floats
    ids: Integers
    far_ids: Sequence[int]
    crowd: Bools
    areas: Floats
    records: Sequence[DetailedAnnotation]


class Labeller:
    """Makes the lines of annotations of one file, part by part; their boxes may have any size and place."""

    def __init__(self, images: Mapping[int, ImageRecord], selection: Selection) -> None:
        """Prepare for one file.

        Args:
            images: Image id → record, all of the file, in its order.
            selection: Which annotations become labels, and in which form.
        """
        self._images = list(images.values())
        widths, heights = [image.width for image in self._images], [image.height for image in self._images]
        self._sizes = np.array([widths, heights], float)
        self._row_of = _Lookup({image_id: row for row, image_id in enumerate(images)})
        self._class_of = _Lookup({key: -1 if index is None else index for key, index in selection.class_of.items()})
        self._selection = selection

    def columns(self, annotations: Sequence[AnnotationRecord]) -> Columns:
        """Annotations as numbers: best for so few at a time that their objects stay in a core's own cache.

        Raises:
            FastPathUnavailable: An annotation belongs to no image or to no category, or may be a crowd or not.
        """
        crowd = [annotation.iscrowd for annotation in annotations]
        some = any(crowd)  # nearly always none
        if some and not {*crowd} <= {0, 1}:
            raise FastPathUnavailable
        selection = self._selection
        return Columns(
            self._row_of([annotation.image_id for annotation in annotations]),
            self._class_of([annotation.category_id for annotation in annotations]),
            _floats([annotation.bbox for annotation in annotations]),
            *_near_and_far([annotation.id for annotation in annotations]),
            np.array(crowd, bool) if some else np.zeros(len(crowd), bool),  # which is quicker
            np.array([annotation.area for annotation in annotations] if selection.min_area else ()),
            cast("Sequence[DetailedAnnotation]", annotations) if selection.polygon_of else (),
        )

    def labels(self, parts: Sequence[Columns]) -> LabelTable:
        """The lines of annotations that follow each other in the file."""
        rows = np.concatenate([part.rows for part in parts])
        classes = np.concatenate([part.classes for part in parts])
        sizes = self._sizes.take(rows, axis=1)
        boxes, inside = clip_boxes(np.concatenate([part.boxes for part in parts]).T.copy(), sizes)
        selected = classes >= 0
        chosen, crowds, small = self._choose(parts, selected)
        solid = (boxes[2:] > NOTHING * sizes).all(axis=0)
        written = np.flatnonzero(chosen & solid)
        written = written[np.argsort(rows[written], kind="stable")]  # image by image, each in the order of the file
        text, ends, box_fallback = self._text(parts, written, rows, classes, boxes, sizes)
        counts = Counts(
            annotations=len(selected),
            boxes=len(written),
            crowds=crowds,
            clipped=int((~inside[written]).sum()),
            empty=int((chosen & ~solid).sum()),
            unselected=int((~selected).sum()),
            small=small,
            box_fallback=box_fallback,
        )
        rows = rows[written]
        last = np.flatnonzero(np.diff(rows, append=-1))  # of each image
        # Arrays of the standard library, for a process that has no numpy.
        stops = array("q", ends[last].astype(np.int64).tobytes())
        return LabelTable(array("i", rows[last].astype(np.intc).tobytes()), stops, text, counts, *_ids(parts))

    def _choose(self, parts: Sequence[Columns], selected: Bools) -> tuple[Bools, int, int]:
        """Which of the selected annotations become labels if their boxes can; how many crowds and small ones do not."""
        chosen, crowds, small = selected.copy(), 0, 0
        if not self._selection.include_crowd:
            chosen &= ~np.concatenate([part.crowd for part in parts])
            crowds = int(selected.sum() - chosen.sum())
        if self._selection.min_area:
            large = np.concatenate([part.areas for part in parts]) >= self._selection.min_area
            small = int((chosen & ~large).sum())
            chosen &= large
        return chosen, crowds, small

    def _text(
        self,
        parts: Sequence[Columns],
        written: Integers,
        rows: Integers,
        classes: Integers,
        boxes: Floats,
        sizes: Floats,
    ) -> tuple[bytes, Integers, int]:
        """The lines of the annotations ``written``, where each of them ends, and how many polygons are only boxes."""
        indices, inside = classes[written], boxes.take(written, axis=1)
        if self._selection.polygon_of is None:
            return *box_lines(indices, inside, sizes.take(written, axis=1)), 0
        records = [record for part in parts for record in part.records]
        objects = [(records[i], self._images[rows[i]]) for i in written.tolist()]
        return _polygon_lines(objects, indices, inside, self._selection.polygon_of)


class _Lookup:
    """Integers → integers, many at once."""

    def __init__(self, value_of: Mapping[int, int]) -> None:
        """Prepare for ``value_of``, whose values are -1 or more."""
        self._value_of, self._table = value_of, None
        if value_of and min(value_of) >= 0 and max(value_of) < _NEAR:  # which does without a search
            self._table = np.full(max(value_of) + 1, -2, np.intc)
            self._table[list(value_of)] = list(value_of.values())

    def __call__(self, keys: list[int]) -> Integers:
        """The value of each key.

        Raises:
            FastPathUnavailable: A key has none.
        """
        try:
            if self._table is None:
                return np.array([self._value_of[key] for key in keys], np.intc)
            values = self._table[_integers(keys)]
        except (KeyError, IndexError, StructError):
            raise FastPathUnavailable from None
        if min(keys, default=0) < 0 or values.min(initial=0) < -1:
            raise FastPathUnavailable
        return values


def _integers(values: Sequence[int]) -> Integers:
    # struct takes half as long as numpy to get at the numbers of Python objects.
    return np.frombuffer(pack(f"{len(values)}q", *values), np.int64)


def _floats(rows: Sequence[tuple[float, float, float, float]]) -> Floats:
    return np.frombuffer(pack(f"{4 * len(rows)}d", *chain.from_iterable(rows))).reshape(-1, 4)


def _near_and_far(ids: Sequence[int]) -> tuple[Integers, Sequence[int]]:
    if not ids or (min(ids) >= 0 and max(ids) < _NEAR):
        return _integers(ids), ()
    return _integers([i for i in ids if 0 <= i < _NEAR]), [i for i in ids if not 0 <= i < _NEAR]


def _ids(parts: Sequence[Columns]) -> tuple[int, frozenset[int]]:
    """``LabelTable.ids`` and ``far_ids``."""
    near = np.concatenate([part.ids for part in parts])
    flags = np.zeros(near.max(initial=0) + 1, bool)
    flags[near] = True
    bits = int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")
    return bits, frozenset(i for part in parts for i in part.far_ids)


def clip_boxes(boxes: Floats, sizes: Floats) -> tuple[Floats, Bools]:
    """As :func:`kdyolo.data.yolo_labels.clip_box`, for many boxes.

    Args:
        boxes: [4, N] Left, top, w, h in pixels.
        sizes: [2, N] Width and height of their images in pixels.

    Returns:
        [4, N] the boxes inside their images, w or h zero or negative where nothing is left; [N] which were inside.
    """
    with np.errstate(over="ignore"):  # a side of 1e308 reaches infinity, and is clipped like any other
        near, far = boxes[:2], boxes[:2] + boxes[2:]
        inside: Bools = np.all((near >= 0) & (far <= sizes + NOISE_PX), axis=0)
        near = np.maximum(near, 0)
        clipped = np.concatenate([near, np.minimum(far, sizes) - near])
    return np.where(inside, boxes, clipped), inside


def box_lines(indices: Integers, boxes: Floats, sizes: Floats) -> tuple[bytes, Integers]:
    """As :func:`kdyolo.data.yolo_labels.label_line`, for many boxes.

    Args:
        indices: [N] Class indices 0…nc−1.
        boxes: [4, N] Left, top, w, h in pixels, inside their images and with an area.
        sizes: [2, N] Width and height of their images in pixels.

    Returns:
        The lines one after the other, and [N] where in them each line ends.
    """
    values = np.concatenate([boxes[:2] + boxes[2:] / 2, boxes[2:]])
    values[0::2] /= sizes[0]
    values[1::2] /= sizes[1]
    numbers = millionths(values)
    leading = numbers // 1000
    words = _LEADING.take(leading) | _TRAILING.take(numbers - 1000 * leading)
    names, digits = _class_names(len(str(indices.max(initial=0))))
    fields: list[tuple[str, Any]] = [("class", names.dtype)]
    for name in ("cx", "cy", "w", "h"):
        fields += [(f"before {name}", "S1"), (name, np.uint64)]
    lines = np.empty(len(indices), [*fields, ("end", "S1")])
    lines["class"], lines["end"] = names.take(indices), b"\n"
    for name, word in zip(("cx", "cy", "w", "h"), words, strict=True):
        lines[f"before {name}"], lines[name] = b" ", word
    return lines.tobytes().replace(b"\0", b""), np.cumsum(digits.take(indices) + (lines.itemsize - names.itemsize))


@cache
def _class_names(longest: int) -> tuple[NDArray[np.bytes_], Integers]:
    """The text of every class of at most ``longest`` digits, padded with zero bytes, and its number of digits."""
    names = np.array([b"%d" % index for index in range(10**longest)])
    return names, np.char.str_len(names)


def millionths(values: Floats) -> Integers:
    """Numbers 0…1 in units of 1e-6, rounded as ``%.6f`` does it: the exact product, ties to even."""
    product = values * 1e6
    rounded = np.rint(product)
    unsure = np.flatnonzero(np.abs(product - rounded) > _NEAR_HALF)
    rounded.put(unsure, _exact_millionths(values.take(unsure)))
    whole: Integers = rounded.astype(np.int32)
    return whole


def _exact_millionths(values: Floats) -> Floats:
    """The same for values whose products with 1e6 come close to a half.

    A float64 has 53 bits, so its product with 1e6 = 2⁶ · 15625 (14 bits) would be rounded before it is rounded. Halves
    of 24 and 29 bits have exact products, and wherever a tie is near every difference below is exact.
    """
    high = values.astype(np.float32).astype(float)
    product, rest = high * 1e6, (values - high) * 1e6
    whole = np.floor(product)
    half = 0.5 - (product - whole)
    up = (rest > half) | ((rest == half) & (whole % 2 == 1))
    rounded: Floats = whole + up
    return rounded


def _polygon_lines(
    objects: Sequence[tuple[DetailedAnnotation, ImageRecord]],
    indices: Integers,
    boxes: Floats,
    polygon_of: ToPolygon,
) -> tuple[bytes, Integers, int]:
    """As ``box_lines``, for polygons; where there is none, the corners of the box, and how often that is so."""
    lines, box_fallback = [], 0
    for (annotation, image), index, box in zip(objects, indices.tolist(), boxes.T.tolist(), strict=True):
        polygon = polygon_of(annotation, image.width, image.height)
        line = polygon and polygon_line(index, polygon, image.width, image.height)
        if not line:
            box_fallback += 1
            line = polygon_line(index, box_corners(box), image.width, image.height)
            assert line is not None  # a box that was to be written has an area
        lines.append(line.encode())
    return b"".join(lines), np.cumsum([len(line) for line in lines], dtype=int), box_fallback
