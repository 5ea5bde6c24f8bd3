"""From COCO boxes in pixels to the text of YOLO label files: pure functions, no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kdyolo.coco.annotations import Annotations

Box = tuple[float, float, float, float]

# COCO writes two decimals, so x + w lands a few 1e-13 beyond the border where it means the border. Not worth a count.
_NOISE_PX = 1e-9
_ZERO = "0.000000"


@dataclass(frozen=True)
class SplitLabels:
    """The labels of one split.

    Attributes:
        texts: file name of the image → content of its label file, sorted by file name; empty for a background.
        boxes: lines written.
        crowds: crowd regions left out.
        clipped: written boxes that reached beyond the image.
        empty: boxes dropped because nothing of them lies in the image, or too little to be written.
    """

    texts: dict[str, str]
    boxes: int
    crowds: int
    clipped: int
    empty: int


def clip_box(box: Box, width: int, height: int) -> Box:
    """The part of a box [left, top, w, h] inside an image of width × height, all in pixels.

    A box that lies inside comes back as the same object. Where nothing is left, w or h is
    zero or negative.
    """
    left, top, w, h = box
    right, bottom = left + w, top + h
    if left >= 0 and top >= 0 and right <= width + _NOISE_PX and bottom <= height + _NOISE_PX:
        return box
    left, top = max(left, 0.0), max(top, 0.0)
    return left, top, min(right, width) - left, min(bottom, height) - top


def label_line(class_index: int, box: Box, width: int, height: int) -> str | None:
    """One line ``class cx cy w h``, each coordinate a fraction of the image in 0–1 with 6 decimals.

    Args:
        class_index: 0…nc−1.
        box: left, top, w, h in pixels, inside the image.
        width: of the image in pixels.
        height: of the image in pixels.

    Returns:
        The line with its newline, or None where w or h is not positive or would be written as zero.
    """
    left, top, w, h = box
    if w <= 0 or h <= 0:
        return None
    w_text, h_text = f"{w / width:.6f}", f"{h / height:.6f}"
    if _ZERO in (w_text, h_text):
        return None
    return f"{class_index} {(left + w / 2) / width:.6f} {(top + h / 2) / height:.6f} {w_text} {h_text}\n"


def make_labels(data: Annotations, class_of: Mapping[int, int]) -> SplitLabels:
    """The label file of every image of a split.

    Args:
        data: valid records; boxes of any size and place.
        class_of: category id → class index 0…nc−1, for every category of ``data``.
    """
    lines: dict[int, list[str]] = {image_id: [] for image_id in data.images}
    crowds = clipped = empty = 0
    for annotation in data.annotations:
        if annotation.iscrowd:
            crowds += 1
            continue
        image = data.images[annotation.image_id]
        box = clip_box(annotation.bbox, image.width, image.height)
        line = label_line(class_of[annotation.category_id], box, image.width, image.height)
        if line is None:
            empty += 1
            continue
        clipped += box is not annotation.bbox
        lines[annotation.image_id].append(line)
    texts = {data.images[image_id].file_name: "".join(of_image) for image_id, of_image in lines.items()}
    return SplitLabels(dict(sorted(texts.items())), sum(map(len, lines.values())), crowds, clipped, empty)


def label_path(split: str, file_name: str) -> str:
    """Where Ultralytics looks for the label of ``images/<split>/<file_name>``, relative to the dataset folder.

    It replaces the *last* ``/images/`` of a path, so this is ``labels/<split>/<stem>.txt`` for all names but those that
    have a folder ``images`` themselves.
    """
    head, _, tail = f"/images/{split}/{file_name}".rpartition("/images/")
    return f"{head}/labels/{tail.rpartition('.')[0]}.txt".lstrip("/")
