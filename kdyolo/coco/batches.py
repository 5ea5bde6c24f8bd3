"""The label lines of many annotations at once, in numpy: the same text that ``labels`` gives for them one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from kdyolo.coco.annotations import AnnotationRecord, DetailedAnnotation, ImageRecord, area_problem
from kdyolo.coco.labels import NOISE_PX, NOTHING, Labels, Outline, Selection, outline_line
from kdyolo.coco.slices import NeedsWholeFile

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

_THREE_DIGITS = np.array([b"%03d" % number for number in range(1000)]).view(np.uint8).reshape(1000, 3)
_NUMBERS = np.frombuffer(b" 0.000000 0.000000 0.000000 0.000000\n", np.uint8)


def make_labels(
    annotations: Sequence[AnnotationRecord], images: Mapping[int, ImageRecord], selection: Selection
) -> Labels:
    """The lines of some annotations of one file; boxes may have any size and place.

    Raises:
        NeedsWholeFile: an annotation belongs to no image or to no category, or its area is no number.
    """
    labels = Labels(ids=[annotation.id for annotation in annotations])
    row_of = {image_id: row for row, image_id in enumerate(dict.fromkeys([a.image_id for a in annotations]))}
    try:
        found = [images[image_id] for image_id in row_of]
        classes = np.array([selection.class_of[a.category_id] for a in annotations], float)  # NaN where left out
    except KeyError:
        raise NeedsWholeFile from None
    chosen = _choose(annotations, ~np.isnan(classes), selection, labels)
    rows = np.array([row_of[annotation.image_id] for annotation in annotations], int)
    sizes = np.array([(image.width, image.height) for image in found], float).reshape(-1, 2).T[:, rows]
    bboxes = chain.from_iterable([annotation.bbox for annotation in annotations])
    boxes, inside = clip_boxes(np.fromiter(bboxes, float, 4 * len(annotations)).reshape(-1, 4).T.copy(), sizes)
    solid = (boxes[2:] > NOTHING * sizes).all(axis=0)
    written = np.flatnonzero(chosen & solid)
    labels.boxes, labels.empty = len(written), int((chosen & ~solid).sum())
    labels.clipped = int((~inside[written]).sum())
    written = written[np.argsort(rows[written], kind="stable")]  # image by image, each in the order of the file
    indices, boxes, sizes, rows = classes[written].astype(int), boxes[:, written], sizes[:, written], rows[written]
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
    centres, sides = boxes[:2] + boxes[2:] / 2, boxes[2:]
    values = millionths(np.concatenate([centres, sides]) / np.tile(sizes, (2, 1)))
    names = np.array(
        [b"%d" % index for index in range(indices.max(initial=0) + 1)]
    )  # zero bytes make them equally long
    digits = names.itemsize
    lines = np.empty((len(indices), digits + len(_NUMBERS)), np.uint8)
    lines[:, :digits] = names.view(np.uint8).reshape(-1, digits).take(indices, axis=0)
    lines[:, digits:] = _NUMBERS
    for start, value in zip(range(digits, lines.shape[1], 9), values, strict=False):
        lines[:, start + 1] += (value // 1_000_000).astype(np.uint8)
        lines[:, start + 3 : start + 6] = _THREE_DIGITS.take(value // 1000 % 1000, axis=0)
        lines[:, start + 6 : start + 9] = _THREE_DIGITS.take(value % 1000, axis=0)
    return lines[lines != 0].tobytes(), np.cumsum(np.char.str_len(names)[indices] + len(_NUMBERS))


def millionths(values: Floats) -> Integers:
    """Numbers 0…1 in units of 1e-6, rounded as ``%.6f`` does it: the exact product, ties to even.

    A float64 has 53 bits, so its product with 1e6 = 2⁶ · 15625 (14 bits) would be rounded before it is rounded. Halves
    of 24 and 29 bits have exact products, and wherever a tie is near every difference below is exact.
    """
    high = values.astype(np.float32).astype(float)
    product, rest = high * 1e6, (values - high) * 1e6
    whole = np.floor(product)
    half = 0.5 - (product - whole)
    up = (rest > half) | ((rest == half) & (whole % 2 == 1))
    rounded: Integers = (whole + up).astype(int)
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
