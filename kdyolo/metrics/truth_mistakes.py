"""Usual mistakes in ground truth: boxes of another form or in shares of the image, nothing but crowds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from kdyolo.errors import DatasetError

_SAMPLED = 2000  # annotations that are looked at, evenly spaced
_FEWEST = 10  # objects that all have one form by no chance
_BEYOND, _MANY = 0.02, 0.3  # share of a side that a box may reach out of its image; share of boxes that do so
_SHARES, _PIXELS = 2.0, 10.0  # boxes in shares of an image stay below the first, sides in pixels are above the second


def check_truth(path: Path, annotations: Sequence[Any], sizes: Mapping[int, tuple[float, float]]) -> list[str]:
    """Look for mistakes that make every score wrong, though each record can be read.

    Args:
        path: Annotation file, for messages.
        annotations: Annotations of known images, with ``bbox`` and ``iscrowd``.
        sizes: Image id → width and height, where they are known.

    Returns:
        Notes for a person.

    Raises:
        DatasetError: Boxes are corners x1, y1, x2, y2.
    """
    if not annotations:
        return ["no annotation belongs to an image and a category of the file: there is nothing to find"]
    notes = []
    if all(map(itemgetter("iscrowd"), annotations)):
        notes.append(
            f"all {len(annotations):,} annotations are crowd regions (iscrowd 1), as CVAT and SAM export masks: no "
            "object is left to be found; if they are objects, set iscrowd to 0"
        )
    some = annotations[:: -(-len(annotations) // _SAMPLED)]
    sized = [a for a in some if a["image_id"] in sizes]
    if len(sized) >= _FEWEST:
        notes += _notes_on_form(path, sized, np.array([sizes[a["image_id"]] for a in sized]))
    return notes


def _notes_on_form(path: Path, annotations: Sequence[Any], sides: Any) -> list[str]:
    flat = chain.from_iterable(map(itemgetter("bbox"), annotations))
    boxes = np.fromiter(flat, np.float64, 4 * len(annotations)).reshape(-1, 4)
    near, far = boxes[:, :2], boxes[:, 2:]
    if boxes.max() <= _SHARES and sides.min() > _PIXELS:
        return [
            f"{path.name}: boxes are shares of the image, no number in them is above {boxes.max():.4g}, so that all "
            "objects are small: expected left, top, width, height in pixels"
        ]
    spare = np.maximum(2.0, _BEYOND * sides)
    beyond = (near + far > sides + spare).any(axis=1).mean()
    if beyond > _MANY and (far >= near).all() and (far <= sides + spare).all():
        raise DatasetError(
            f"{path}: boxes are corners x1, y1, x2, y2: read as left, top, width, height, {beyond:.0%} of them reach "
            "out of their image, and none as corners. Expected bbox [left, top, width, height]: write "
            "[x1, y1, x2 − x1, y2 − y1]."
        )
    return []
