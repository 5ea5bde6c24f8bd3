"""The label lines of many annotations at once, in numpy: the same text that ``labels`` gives for them one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdyolo.coco.annotations import AnnotationRecord, DetailedAnnotation, ImageRecord, area_problem
from kdyolo.coco.labels import NOISE_PX, NOTHING, Labels, Outline, Selection, outline_line
from kdyolo.coco.slices import NeedsWholeFile

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

# The eight bytes of a number such as "0.123456", each half with zeros in place of the other: any two make a word.
_LEADING = np.array([b"%d.%03d\0\0\0" % divmod(number, 1000) for number in range(1001)], "S8").view(np.uint64)
_TRAILING = np.array([b"\0\0\0\0\0%03d" % number for number in range(1000)], "S8").view(np.uint64)
_NEAR_HALF = 0.5 - 1e-9  # a product of 1e6 at most is off by less


def make_labels(
    annotations: Sequence[AnnotationRecord], images: Mapping[int, ImageRecord], selection: Selection
) -> Labels:
    """The lines of some annotations of one file; boxes may have any size and place.

    Raises:
        NeedsWholeFile: an annotation belongs to no image or to no category, or its area is no number.
    """
    labels = Labels(ids=[annotation.id for annotation in annotations])
    image_ids = [annotation.image_id for annotation in annotations]
    row_of = {image_id: row for row, image_id in enumerate(dict.fromkeys(image_ids))}
    class_of = {key: -1 if index is None else index for key, index in selection.class_of.items()}
    try:
        found = [images[image_id] for image_id in row_of]
        classes = np.array([class_of[annotation.category_id] for annotation in annotations], int)
    except KeyError:
        raise NeedsWholeFile from None
    chosen = _choose(annotations, classes >= 0, selection, labels)
    rows = np.fromiter(map(row_of.__getitem__, image_ids), int, len(image_ids))
    sizes = np.array([[image.width for image in found], [image.height for image in found]], float).take(rows, axis=1)
    bboxes = chain.from_iterable([annotation.bbox for annotation in annotations])
    boxes, inside = clip_boxes(np.fromiter(bboxes, float, 4 * len(annotations)).reshape(-1, 4).T.copy(), sizes)
    solid = (boxes[2:] > NOTHING * sizes).all(axis=0)
    written = np.flatnonzero(chosen & solid)
    labels.boxes, labels.empty = len(written), int((chosen & ~solid).sum())
    labels.clipped = int((~inside[written]).sum())
    written = written[np.argsort(rows[written], kind="stable")]  # image by image, each in the order of the file
    indices, rows = classes[written], rows[written]
    boxes, sizes = boxes.take(written, axis=1), sizes.take(written, axis=1)
    if selection.outline_of is None:
        text, ends = box_lines(indices, boxes, sizes)
    else:
        objects = [(annotations[i], found[row]) for i, row in zip(written.tolist(), rows.tolist(), strict=True)]
        text, ends = _outlines(objects, indices, boxes, selection.outline_of, labels)
    cuts = np.append(0, ends)[np.searchsorted(rows, np.arange(len(found) + 1))].tolist()
    lines = zip(row_of, cuts[:-1], cuts[1:], strict=True)
    labels.lines = {image_id: text[start:end] for image_id, start, end in lines if start < end}
    return labels


def _choose(annotations: Sequence[AnnotationRecord], selected: Bools, selection: Selection, labels: Labels) -> Bools:
    """Which of the annotations of selected classes become labels if their boxes can; counts the others."""
    labels.unselected = int((~selected).sum())
    chosen = selected
    if not selection.include_crowd:
        crowd = np.array([annotation.iscrowd for annotation in annotations], bool)
        labels.crowds = int((selected & crowd).sum())
        chosen = selected & ~crowd
    if selection.min_area:
        small = [i for i in np.flatnonzero(chosen).tolist() if _is_small(annotations[i], selection.min_area)]
        labels.small = len(small)
        chosen[small] = False
    return chosen


def _is_small(annotation: AnnotationRecord, min_area: float) -> bool:
    assert isinstance(annotation, DetailedAnnotation)
    if area_problem(annotation.area):
        raise NeedsWholeFile
    area = annotation.bbox[2] * annotation.bbox[3] if annotation.area is None else annotation.area
    return bool(area < min_area)


def clip_boxes(boxes: Floats, sizes: Floats) -> tuple[Floats, Bools]:
    """``labels.clip_box`` for many boxes.

    Args:
        boxes: [4, N] left, top, w, h in pixels.
        sizes: [2, N] width and height of their images in pixels.

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
    """``labels.label_line`` for many boxes.

    Args:
        indices: [N] classes 0…nc−1.
        boxes: [4, N] left, top, w, h in pixels, inside their images and with an area.
        sizes: [2, N] width and height of their images in pixels.

    Returns:
        The lines one after the other, and [N] where in them each line ends.
    """
    values = np.concatenate([boxes[:2] + boxes[2:] / 2, boxes[2:]])
    values[0::2] /= sizes[0]
    values[1::2] /= sizes[1]
    numbers = millionths(values)
    leading = numbers // 1000
    words = _LEADING.take(leading) | _TRAILING.take(numbers - 1000 * leading)
    names = np.array([b"%d" % index for index in range(indices.max(initial=0) + 1)])  # padded with zero bytes
    fields: list[tuple[str, Any]] = [("class", names.dtype)]
    for name in ("cx", "cy", "w", "h"):
        fields += [(f"before {name}", "S1"), (name, np.uint64)]
    lines = np.empty(len(indices), [*fields, ("end", "S1")])
    lines["class"], lines["end"] = names.take(indices), b"\n"
    for name, word in zip(("cx", "cy", "w", "h"), words, strict=True):
        lines[f"before {name}"], lines[name] = b" ", word
    digits = np.char.str_len(names).take(indices)
    return lines.tobytes().replace(b"\0", b""), np.cumsum(digits + (lines.itemsize - names.itemsize))


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


def _outlines(
    objects: Sequence[tuple[AnnotationRecord, ImageRecord]],
    indices: Integers,
    boxes: Floats,
    outline_of: Outline,
    labels: Labels,
) -> tuple[bytes, Integers]:
    """``box_lines`` for polygons; for want of one, the box's corners, as Ultralytics' converter does."""
    lines = []
    for (annotation, image), index, box in zip(objects, indices.tolist(), boxes.T.tolist(), strict=True):
        assert isinstance(annotation, DetailedAnnotation)
        outline = outline_of(annotation, image.width, image.height)
        line = outline and outline_line(index, outline, image.width, image.height)
        if not line:
            labels.boxy += 1
            left, top, w, h = box
            corners = [left, top, left + w, top, left + w, top + h, left, top + h]
            line = outline_line(index, corners, image.width, image.height)
            assert line is not None  # a box that was to be written has an area
        lines.append(line.encode())
    return b"".join(lines), np.cumsum([len(line) for line in lines], dtype=int)
