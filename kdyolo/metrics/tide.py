"""TIDE: AP50 lost to each of six kinds of errors.

Definitions, and the oracles that weigh them, are those of D. Bolya, S. Foley, J. Hays, J. Hoffman, "TIDE: A General
Toolbox for Identifying Object Detection Errors", ECCV 2020 (https://arxiv.org/abs/2008.08115), as its authors' program
has them, with foreground at IoU 0.5 and background up to 0.1. Two things follow COCO, so that AP50 is the official one:
up to 100 detections count per image *and category*, and categories without objects do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
from pycocotools import mask

from kdyolo.metrics.ground_truth import Detection, GroundTruth
from kdyolo.metrics.matching import Bools, Boxes, Floats, Ints, Matches, match_detections
from kdyolo.utils.progress import waiting
from kdyolo.utils.tables import ShownAsTable
from kdyolo.utils.text import decimal

FOREGROUND, BACKGROUND = 0.5, 0.1
_RECALLS = np.linspace(0, 1, 101)


class ErrorKind(IntEnum):
    """Kind of a detection: right, ignored or one of TIDE's errors; ``MISSED`` is the kind of an object."""

    RIGHT = 0
    IGNORED = 1  # in a crowd region: neither right nor wrong
    CLASSIFICATION = 2  # on an object (IoU ≥ 0.5) of another class
    LOCALISATION = 3  # of the right class, IoU between 0.1 and 0.5
    BOTH = 4  # another class, and IoU between 0.1 and 0.5
    DUPLICATE = 5  # on an object of the class that a detection of higher score has taken
    BACKGROUND = 6  # on no object (IoU ≤ 0.1)
    MISSED = 7  # an object that no detection found, nor would with its class or place corrected


ERRORS = tuple(kind for kind in ErrorKind if kind > ErrorKind.IGNORED)


@dataclass(frozen=True)
class ImageErrors:
    """Errors on one image.

    Attributes:
        image_id: Id of the image in the ground truth.
        weight: Sum of the scores of its wrong detections, and 1 for every missed object: confident mistakes come first.
        detections: Pairs of index in the list of detections and kind, by descending score.
        missed: Indices of missed annotations.
    """

    image_id: int
    weight: float
    detections: tuple[tuple[int, ErrorKind], ...]
    missed: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class ErrorReport(ShownAsTable):
    """AP50 and what is lost to each kind of error.

    Attributes:
        ap50: AP at IoU 0.50, in 0–1.
        loss: Kind → AP50 that an oracle would gain by correcting all errors of this kind alone, in 0–1. The gains do
            not add up to 1 − AP50, because errors hide each other.
        count: Kind → number of errors; detections in crowd regions are none.
        false_positives: AP50 that would be gained without any wrong detection.
        false_negatives: AP50 that would be gained if what was not found did not exist.
        images: Errors on every image, the one with the heaviest errors first.
    """

    ap50: float
    loss: dict[ErrorKind, float]
    count: dict[ErrorKind, int]
    false_positives: float
    false_negatives: float
    images: tuple[ImageErrors, ...] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        kinds = {kind.name.lower(): {"loss": self.loss[kind], "count": self.count[kind]} for kind in ERRORS}
        special = {"false_positives": self.false_positives, "false_negatives": self.false_negatives}
        return {"AP50": self.ap50, **kinds, **special}

    def table(self) -> str:
        """A line for every kind of error."""
        lines = [f"errors (TIDE): AP50 {self.ap50:.3f}, and what correcting one kind of error would add"]
        lines += [f" {k.name.lower():<19}{_signed(self.loss[k])}  ({self.count[k]:,})" for k in ERRORS]
        lines.append(f" {'all false positives':<19}{_signed(self.false_positives)}")
        lines.append(f" {'all false negatives':<19}{_signed(self.false_negatives)}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


@dataclass(frozen=True)
class _Points:
    """Detections as points of precision-recall curves: category [N], score [N], whether right [N]; objects [K]."""

    category: Ints
    score: Floats
    right: Bools
    objects: Ints

    def ap(self) -> Floats:
        """[K] average precision at 101 recalls; 0 where no object is (left)."""
        order = np.lexsort((-self.score, self.category))
        starts = np.searchsorted(self.category[order], np.arange(len(self.objects) + 1))
        values = np.zeros(len(self.objects))
        for k, objects in enumerate(self.objects):
            right = np.cumsum(self.right[order[starts[k] : starts[k + 1]]])
            if objects <= 0 or not len(right):
                continue
            precision = right / np.arange(1, len(right) + 1)
            envelope = np.r_[np.maximum.accumulate(precision[::-1])[::-1], 0.0]
            values[k] = envelope[np.searchsorted(right / objects, _RECALLS, side="left")].mean()
        return values


@waiting("sorting errors by kind")
def find_errors(truth: GroundTruth, detections: Sequence[Detection]) -> ErrorReport:
    """Sort every wrong detection and every missed object into TIDE's six kinds, and weigh each kind.

    Args:
        truth: Images, categories and objects.
        detections: Detections on images of the ground truth.
    """
    matches = match_detections(truth, detections)
    score = np.array([d["score"] for d in detections], dtype=np.float64)[matches.detection]
    kind = np.full(len(matches.image), ErrorKind.BACKGROUND, dtype=np.int64)
    at_50 = matches.matched[:, 0, 0]
    kind[matches.hit[at_50]] = np.where(matches.ignored[at_50, 0, 0], ErrorKind.IGNORED, ErrorKind.RIGHT)
    used = np.zeros(len(truth.annotations), dtype=bool)
    used[matches.found[at_50]] = True
    wrong, target = _classify(truth, detections, matches, kind, used)
    missed = matches.object_counts[0] & ~used
    missed[target[target >= 0]] = False  # correcting a class or a place would find them
    kind = np.where(kind == ErrorKind.BACKGROUND, wrong, kind)
    ap50, loss, false_positives, false_negatives = _losses(matches, score, kind, wrong, target, used, missed)
    count = {error: int((kind == error).sum()) for error in ERRORS} | {ErrorKind.MISSED: int(missed.sum())}
    images = _by_image(truth, matches, kind, score, missed)
    return ErrorReport(ap50, loss, count, false_positives, false_negatives, images)


def _losses(
    matches: Matches, score: Floats, kind: Ints, wrong: Ints, target: Ints, used: Bools, missed: Bools
) -> tuple[float, dict[ErrorKind, float], float, float]:
    """AP50, the gain from correcting each kind of error, and those without false positives and false negatives."""
    own = matches.object_category
    counts = matches.object_counts[0]
    objects, not_missed, found = (
        np.bincount(own[which], minlength=matches.categories) for which in (counts, counts & ~missed, counts & used)
    )
    right, counted = kind == ErrorKind.RIGHT, kind != ErrorKind.IGNORED
    as_it_is = _Points(matches.category[counted], score[counted], right[counted], objects)
    exists = objects > 0

    def mean(points: _Points) -> float:
        return float(points.ap()[exists].mean()) if exists.any() else 0.0

    ap50 = mean(as_it_is)

    def gain(points: _Points) -> float:
        return max(mean(points) - ap50, 0.0)

    fixes = _best_fix(wrong, target, score, used)
    loss = {}
    for error in ERRORS[:-1]:
        fixed = fixes & (wrong == error)  # becomes right, in the category of its object; the others of the kind go
        category = matches.category.copy()
        category[fixed] = own[target[fixed]]
        kept = counted & (kind != error) | fixed
        loss[error] = gain(_Points(category[kept], score[kept], (right | fixed)[kept], objects))
    loss[ErrorKind.MISSED] = gain(replace(as_it_is, objects=not_missed))
    only_right_first = replace(as_it_is, score=as_it_is.right.astype(np.float64))
    return ap50, loss, gain(only_right_first), gain(replace(as_it_is, objects=found))


def _classify(
    truth: GroundTruth, detections: Sequence[Detection], matches: Matches, kind: Ints, used: Bools
) -> tuple[Ints, Ints]:
    """The kind of error of everything that is not right ([N], ``RIGHT`` elsewhere), and the object it is about or −1.

    What lies in a crowd region is sorted too: it is no error, but could find an object if it were corrected.
    """
    objects, boxes = Boxes.of(truth.annotations, truth), Boxes.of(detections, truth)
    wrong = np.where(kind == ErrorKind.RIGHT, ErrorKind.RIGHT, ErrorKind.BACKGROUND)
    target = np.full(len(wrong), -1, dtype=np.int64)
    by_image = np.argsort(matches.image, kind="stable")
    detection_bounds = np.searchsorted(matches.image[by_image], np.arange(matches.images + 1))
    counts = np.flatnonzero(matches.object_counts[0])
    counts = counts[np.argsort(matches.object_image[counts], kind="stable")]
    object_bounds = np.searchsorted(matches.object_image[counts], np.arange(matches.images + 1))
    for image in range(matches.images):
        here = by_image[detection_bounds[image] : detection_bounds[image + 1]]
        here = here[kind[here] != ErrorKind.RIGHT]
        around = counts[object_bounds[image] : object_bounds[image + 1]]
        if not len(here) or not len(around):
            continue
        box = boxes.box[matches.detection[here]]
        iou = mask.iou(box, objects.box[around], [False] * len(around))
        same = matches.category[here][:, None] == matches.object_category[around]
        wrong[here], place = _kinds(iou, same, used[around])
        target[here] = np.where(place >= 0, around[place], -1)
    return wrong, target


def _kinds(iou: Floats, same: Bools, used: Bools) -> tuple[Ints, Ints]:
    """The kind of each of D wrong detections among G objects, in the order of precedence of TIDE's program.

    Args:
        iou: [D, G] IoU of each detection and object.
        same: [D, G] Whether the classes are the same.
        used: [G] Whether a detection found the object.

    Returns:
        Kinds [D], and for classification and localisation the object [D], else −1.
    """
    own, other = iou * same, iou * ~same
    best_own, best_other = own.max(axis=1), other.max(axis=1)
    conditions = [
        (best_own >= BACKGROUND) & (best_own <= FOREGROUND),
        best_other >= FOREGROUND,
        (own * used).max(axis=1) >= FOREGROUND,
        iou.max(axis=1) <= BACKGROUND,
    ]
    kinds = [ErrorKind.LOCALISATION, ErrorKind.CLASSIFICATION, ErrorKind.DUPLICATE, ErrorKind.BACKGROUND]
    places = [own.argmax(axis=1), other.argmax(axis=1), -1, -1]
    return np.select(conditions, kinds, ErrorKind.BOTH), np.select(conditions, places, -1)


def _best_fix(wrong: Ints, target: Ints, score: Floats, used: Bools) -> Bools:
    """Which errors become right when corrected: for each object that was not found, the one of highest score."""
    candidates = np.flatnonzero(target >= 0)
    candidates = candidates[~used[target[candidates]]]
    candidates = candidates[np.argsort(-score[candidates], kind="stable")]
    _, first = np.unique(target[candidates], return_index=True)
    fixes = np.zeros(len(wrong), dtype=bool)
    fixes[candidates[first]] = True
    return fixes


def _by_image(
    truth: GroundTruth, matches: Matches, kind: Ints, score: Floats, missed: Bools
) -> tuple[ImageErrors, ...]:
    of_detections = np.bincount(matches.image, score * (kind > ErrorKind.IGNORED), matches.images)
    weight = of_detections + np.bincount(matches.object_image, missed.astype(float), matches.images)
    found: list[list[tuple[int, ErrorKind]]] = [[] for _ in range(matches.images)]
    for place in np.argsort(-score, kind="stable").tolist():
        found[matches.image[place]].append((int(matches.detection[place]), ErrorKind(int(kind[place]))))
    lost: list[list[int]] = [[] for _ in range(matches.images)]
    for index in np.flatnonzero(missed).tolist():
        lost[matches.object_image[index]].append(index)
    ids = list(truth.images)
    return tuple(
        ImageErrors(ids[i], float(weight[i]), tuple(found[i]), tuple(lost[i]))
        for i in np.argsort(-weight, kind="stable").tolist()
    )


def _signed(gain: float) -> str:
    return f"{decimal(gain, 3, '+'):>8}"
