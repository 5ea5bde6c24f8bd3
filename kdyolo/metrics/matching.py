"""Matching of detections to objects by COCO's rules, from which AP is accumulated.

The official evaluators do this too but keep it to themselves. Intervals (:mod:`kdyolo.metrics.bootstrap`) and the
analysis of errors (:mod:`kdyolo.metrics.tide`) start from here; tests hold what follows from it equal to pycocotools.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from kdyolo.metrics.ground_truth import Detection, GroundTruth, area_of

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = ("all", "small", "medium", "large")
_AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # square pixels, both ends belong
MAX_DETECTIONS = 100  # per image and category

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Matches:
    """Detections by category and descending score (ties in the order of images, then of the file), and objects.

    Sizes: N detections, H of them matched at some threshold, G objects and crowd regions, A = 4 area ranges
    (:data:`AREAS`), T = 10 IoU thresholds. Images and categories are indices into the ground truth's, in order.

    Attributes:
        images: Number of images.
        categories: Number of categories.
        detection: [N] Index of a detection in the list that was matched.
        image: [N] Image of a detection.
        category: [N] Category of a detection.
        rank: [N] Place of a detection among those of its image and category, from 0.
        inside: [A, N] Whether the detection's own area lies in the range.
        hit: [H] Ascending indices into the N: detections that are matched at some threshold.
        matched: [H, A, T] Whether the detection is matched to an object or crowd region.
        ignored: [H, A, T] Whether the object that the detection is matched to does not count.
        found: [H] Index of the annotation that the detection is matched to at IoU 0.50, or −1.
        object_image: [G] Image of an annotation.
        object_category: [G] Category of an annotation.
        object_counts: [A, G] Whether an annotation counts: no crowd region, and its area in the range.
    """

    images: int
    categories: int
    detection: Ints
    image: Ints
    category: Ints
    rank: Ints
    inside: Bools
    hit: Ints
    matched: Bools
    ignored: Bools
    found: Ints
    object_image: Ints
    object_category: Ints
    object_counts: Bools


@dataclass(frozen=True)
class Boxes:
    """Annotations or detections as arrays: box [N, 4] (left, top, width, height), indices image [N], category [N]."""

    box: Floats
    image: Ints
    category: Ints

    @classmethod
    def of(cls, records: Sequence[Any], truth: GroundTruth) -> Boxes:
        """The records' boxes; a category that the ground truth lacks becomes −1."""
        image_index = {image_id: index for index, image_id in enumerate(truth.images)}
        category_index = {category: index for index, category in enumerate(truth.categories)}
        return cls(
            np.array([r["bbox"] for r in records], dtype=np.float64).reshape(-1, 4),
            np.array([image_index[r["image_id"]] for r in records], dtype=np.int64),
            np.array([category_index.get(r["category_id"], -1) for r in records], dtype=np.int64),
        )


def match_detections(truth: GroundTruth, detections: Sequence[Detection]) -> Matches:
    """Match detections to objects image by image and category by category, as pycocotools' ``evaluateImg`` does.

    Args:
        truth: Images, categories and objects.
        detections: Detections on images of the ground truth.
    """
    objects, boxes = Boxes.of(truth.annotations, truth), Boxes.of(detections, truth)
    crowd = np.array([bool(a["iscrowd"]) for a in truth.annotations], dtype=bool)
    area = np.array([a["area"] for a in truth.annotations], dtype=np.float64)
    counts = ~crowd & _in_ranges(area)
    score = np.array([d["score"] for d in detections], dtype=np.float64)
    detection_area = np.array([area_of(d) for d in detections], dtype=np.float64)

    pair = boxes.image * len(truth.categories) + boxes.category
    chosen = np.flatnonzero(boxes.category >= 0)
    chosen = chosen[np.lexsort((-score[chosen], pair[chosen]))]  # stable: ties stay in the order of the file
    rank = _rank_in_runs(pair[chosen])
    chosen, rank = chosen[rank < MAX_DETECTIONS], rank[rank < MAX_DETECTIONS]
    object_pair = objects.image * len(truth.categories) + objects.category
    by_pair = np.argsort(object_pair, kind="stable")

    hits = []
    for of_detections, of_objects in _common_runs(pair[chosen], object_pair[by_pair]):
        here = by_pair[of_objects]
        ious = mask.iou(boxes.box[chosen[of_detections]], objects.box[here], crowd[here].tolist())
        hits += [
            (of_detections.start + d, *rest) for d, *rest in _match_pair(ious, ~counts[:, here], crowd[here], here)
        ]

    order = np.lexsort((rank, boxes.image[chosen], -score[chosen], boxes.category[chosen]))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    hits.sort(key=lambda hit: place[hit[0]])
    shape = (len(hits), len(AREAS), len(IOU_THRESHOLDS))
    detection = chosen[order]
    return Matches(
        images=len(truth.images),
        categories=len(truth.categories),
        detection=detection,
        image=boxes.image[detection],
        category=boxes.category[detection],
        rank=rank[order],
        inside=_in_ranges(detection_area[detection]),
        hit=np.array([place[hit[0]] for hit in hits], dtype=np.int64),
        matched=np.array([hit[1] for hit in hits], dtype=bool).reshape(shape),
        ignored=np.array([hit[2] for hit in hits], dtype=bool).reshape(shape),
        found=np.array([hit[3] for hit in hits], dtype=np.int64),
        object_image=objects.image,
        object_category=objects.category,
        object_counts=counts,
    )


def _in_ranges(area: Floats) -> Bools:
    """[A, N] whether an area lies in each range."""
    low, high = _AREA_RANGES[:, :1], _AREA_RANGES[:, 1:]
    inside: Bools = (area >= low) & (area <= high)
    return inside


def _rank_in_runs(keys: Ints) -> Ints:
    """Place of each element in its run of equal keys, from 0; the keys are sorted."""
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    lengths = np.diff(np.r_[starts, len(keys)])
    return np.arange(len(keys)) - np.repeat(starts, lengths)


def _common_runs(first: Ints, second: Ints) -> Iterator[tuple[slice, slice]]:
    """Slices of equal keys that both sorted arrays have."""
    keys = np.intersect1d(first, second)
    bounds = [
        np.searchsorted(keys_of, keys, side).tolist() for keys_of in (first, second) for side in ("left", "right")
    ]
    for start, end, other_start, other_end in zip(*bounds, strict=True):
        yield slice(start, end), slice(other_start, other_end)


def _match_pair(ious: Floats, ignored: Bools, crowd: Bools, names: Ints) -> Iterator[tuple[int, Bools, Bools, int]]:
    """Match the detections of one image and category, at all thresholds and for all area ranges at once.

    Each detection, by descending score, takes the object of highest IoU that is free, at or above the threshold (of
    equal ones the last); one that does not count only if no other is left. A crowd region is never used up.

    Args:
        ious: [D, G], detections by descending score; for crowd regions the share of the detection inside.
        ignored: [A, G] Objects that do not count.
        crowd: [G] Which of them are crowd regions.
        names: [G] What they are called in the result.

    Yields:
        For every detection that is matched somewhere: its index, matched [A, T], matched to an ignored one [A, T], and
        what it is matched to in the first area range at the first threshold (−1 for nothing).
    """
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[None, :, None]
    free = np.ones((len(ignored), len(IOU_THRESHOLDS), len(names)), dtype=bool)
    lanes = np.indices(free.shape[:2])
    for d in np.flatnonzero((ious >= thresholds.min()).any(axis=1)).tolist():
        possible = free & (ious[d] >= thresholds)
        best = np.where(possible & ~ignored[:, None], ious[d], -1.0)
        nothing_counts = best.max(axis=2, keepdims=True) < 0
        best = np.where(nothing_counts & possible, ious[d], best)
        chosen = len(names) - 1 - best[..., ::-1].argmax(axis=2)
        matched = best.max(axis=2) >= 0
        if not matched.any():
            continue
        used = matched & ~crowd[chosen]
        free[lanes[0][used], lanes[1][used], chosen[used]] = False
        to_ignored = matched & nothing_counts[..., 0]
        yield d, matched, to_ignored, int(names[chosen[0, 0]]) if matched[0, 0] else -1
