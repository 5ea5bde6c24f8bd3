"""Ground truth and its detections in the many ways in which tools write the same: each changes both in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask

from tests.builders.coco_results import random_detections, random_ground_truth

Records = list[dict[str, Any]]
Spelling = Callable[[np.random.Generator, dict[str, Any], Records], None]
SIDE = 640  # pixels, of the images that random_ground_truth has


def whole_numbered(seed: int, ties: bool, images: int = 6, categories: int = 4) -> tuple[dict[str, Any], Records]:
    """Ground truth and detections with boxes of whole numbers inside their images, and areas of the boxes."""
    truth = random_ground_truth(seed, images, categories)
    detections = random_detections(truth, seed + 1, ties=ties)
    for record in (*truth["annotations"], *detections):
        x, y, w, h = record["bbox"]
        left, top = (int(np.clip(v, 0, SIDE - 2)) for v in (x, y))
        right, bottom = (int(np.clip(v, low + 1, SIDE)) for v, low in ((x + w, left), (y + h, top)))
        record["bbox"] = [left, top, right - left, bottom - top]
        if "area" in record:
            record["area"] = record["bbox"][2] * record["bbox"][3]
    return truth, detections


def rectangle(box: list[float]) -> list[float]:
    """The polygon around a box."""
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def run_lengths(box: list[float], compressed: bool = True) -> dict[str, Any]:
    """The mask of a box as COCO's run-length encoding."""
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    x, y, w, h = (int(v) for v in box)
    pixels[y : y + h, x : x + w] = 1
    if compressed:
        encoded = mask.encode(pixels)
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    flat = pixels.ravel(order="F")
    edges = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1], True])
    return {"size": [SIDE, SIDE], "counts": ([0] if flat[0] else []) + np.diff(edges).tolist()}


def _some(rng: np.random.Generator, records: Records) -> Records:
    share = rng.choice([0.1, 0.6, 1.0])
    return [record for record in records if rng.random() < share]


def _each(kind: str, key: str, *spellings: Callable[[Any], Any]) -> Spelling:
    def change(rng: np.random.Generator, truth: dict[str, Any], detections: Records) -> None:
        for record in _some(rng, detections if kind == "detections" else truth[kind]):
            if key in record:
                record[key] = spellings[rng.integers(len(spellings))](record[key])

    return change


def _without(kind: str, key: str, keep: Callable[[dict[str, Any]], bool] = lambda _: False) -> Spelling:
    def change(rng: np.random.Generator, truth: dict[str, Any], detections: Records) -> None:
        for record in _some(rng, truth[kind]):
            if not keep(record):
                record.pop(key, None)

    return change


def _iscrowd(rng: np.random.Generator, truth: dict[str, Any], _: Records) -> None:
    for annotation in _some(rng, truth["annotations"]):
        value = int(annotation.get("iscrowd") or 0)
        forms = [float(value), str(value), f"{value}.0", bool(value), *([] if value else [None])]
        annotation["iscrowd"] = forms[rng.integers(len(forms))]


def ids_anew_in_every_image(_: np.random.Generator | None, truth: dict[str, Any], __: Records) -> None:
    """Annotations of each image are counted from 0: an id 0 in each, and repeated ones."""
    seen: dict[Any, int] = {}
    for annotation in truth["annotations"]:
        image = str(annotation["image_id"])
        annotation["id"] = seen[image] = seen.get(image, -1) + 1


def _named_images(rng: np.random.Generator, truth: dict[str, Any], detections: Records) -> None:
    for image in truth["images"]:
        image["id"] = f"img {int(image['id']):08d}"
    for record in (*truth["annotations"], *detections):
        record["image_id"] = f"img {int(float(record['image_id'])):08d}"


def _named_categories(rng: np.random.Generator, truth: dict[str, Any], detections: Records) -> None:
    for category in truth["categories"]:
        category["id"] = f"cat {int(category['id']):03d}"
    for record in (*truth["annotations"], *detections):
        record["category_id"] = f"cat {int(float(record['category_id'])):03d}"


def _twice(rng: np.random.Generator, truth: dict[str, Any], _: Records) -> None:
    kind = ("images", "categories")[rng.integers(2)]
    truth[kind].append(dict(truth[kind][rng.integers(len(truth[kind]))]))


def _shape(rng: np.random.Generator, box: list[float]) -> Any:
    """The polygon of a box, or its mask in one of two encodings."""
    kind = rng.integers(3)
    return [rectangle(box)] if kind == 0 else run_lengths(box, compressed=kind == 1)


def _polygon_for_box(rng: np.random.Generator, truth: dict[str, Any], _: Records) -> None:
    for annotation in _some(rng, truth["annotations"]):
        box = [float(v) for v in annotation["bbox"] or []]
        if box:
            annotation["segmentation"] = _shape(rng, box)
            annotation["bbox"] = [None, []][rng.integers(2)]


def _mask_for_box(rng: np.random.Generator, _: dict[str, Any], detections: Records) -> None:
    for detection in _some(rng, detections):
        if detection.get("bbox"):
            box = [float(v) for v in detection.pop("bbox")]
            detection["segmentation"] = _shape(rng, box)


def _nan_that_does_not_count(rng: np.random.Generator, truth: dict[str, Any], detections: Records) -> None:
    for record in (*_some(rng, truth["annotations"]), *_some(rng, truth["images"]), *_some(rng, detections)):
        record["weight"] = (float("nan"), float("inf"))[rng.integers(2)]


def _box_as_text(box: Any) -> Any:
    return [str(v) for v in box] if box else box


# What people's tools write for the same ground truth and detections.
SPELLINGS: dict[str, Spelling] = {
    "iscrowd as text, float, null, boolean": _iscrowd,
    "no iscrowd": _without("annotations", "iscrowd", keep=lambda record: bool(record.get("iscrowd"))),
    "no annotation ids": _without("annotations", "id"),
    "annotation ids as text": _each("annotations", "id", str, lambda i: f"a{i}"),
    "annotation ids anew in every image": ids_anew_in_every_image,
    "no area": _without("annotations", "area"),
    "area as text, null, NaN": _each("annotations", "area", str, lambda _: None, lambda _: float("nan")),
    "boxes of objects as text": _each("annotations", "bbox", _box_as_text),
    "image ids as text or float in places": _each("annotations", "image_id", str, lambda v: v if v is str else f"{v}"),
    "image ids as text in the table": _each("images", "id", str),
    "category ids as text or float": _each("annotations", "category_id", str, lambda v: f"{v}"),
    "category ids as text in the table": _each("categories", "id", str),
    "images by name": _named_images,
    "categories by name": _named_categories,
    "a record twice": _twice,
    "no file names": _without("images", "file_name"),
    "no sizes": _without("images", "width"),
    "no category names": _without("categories", "name"),
    "category names that are numbers": _each("categories", "name", lambda _: 7.5),
    "objects by their masks": _polygon_for_box,
    "detections by their masks": _mask_for_box,
    "detections' category ids as text": _each("detections", "category_id", str),
    "detections' image ids as text": _each("detections", "image_id", str),
    "scores as text": _each("detections", "score", str),
    "boxes of detections as text": _each("detections", "bbox", _box_as_text),
    "NaN where nobody looks": _nan_that_does_not_count,
}
