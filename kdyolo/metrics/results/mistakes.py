"""Usual mistakes in results files, recognised from the data: boxes of another form or in shares, scores in percent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from kdyolo.errors import DatasetError
from kdyolo.metrics.ground_truth import GroundTruth, Key
from kdyolo.metrics.results.entries import Entries

Floats = NDArray[np.float64]

SAMPLED = 100  # images that are looked at closely
_SHARES = 2.0  # boxes in shares of the image stay below this, also where they reach out of it a little
_PIXELS = 10.0  # objects in pixels reach farther than this
_BEYOND = 0.02  # share of a side that a box in pixels may reach out of the image
# Mean IoU by which another form of the boxes must be better to be what is meant; where boxes reach out of their images,
# so many of so many at least, less is enough. Of detections that are right, noisy or random, no form gains 0.02.
GAIN, _GAIN_IF_BEYOND = 0.25, 0.05
_BEYOND_SHARE, _FEWEST = 0.05, 10
_STRAY = 0.02  # share of the boxes that may contradict a form
_SAME = 10  # equal scores that are no chance


@dataclass(frozen=True)
class _Form:
    """A form of boxes: its name, and how left, top, width, height in pixels come of it.

    Attributes:
        name: The four numbers, in words.
        shares: Whether they are shares of the image's sides.
        to_pixels: Boxes [N, 4] and sides of the image [width, height] → boxes in pixels.
    """

    name: str
    shares: bool
    to_pixels: Callable[[Floats, Floats], Floats]


_IN_PIXELS = np.ones(2)


def _of_corners(boxes: Floats, sides: Floats) -> Floats:
    scaled: Floats = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]) * np.tile(sides, 2)
    return scaled


def _of_centres(boxes: Floats, sides: Floats) -> Floats:
    scaled: Floats = np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]]) * np.tile(sides, 2)
    return scaled


_AS_ASKED = _Form("left, top, width, height", False, lambda boxes, _: boxes)
_CORNERS = _Form("corners x1, y1, x2, y2", False, lambda boxes, _: _of_corners(boxes, _IN_PIXELS))
_CENTRES = _Form("centre x, centre y, width, height", False, lambda boxes, _: _of_centres(boxes, _IN_PIXELS))
_IN_SHARES = (
    _Form("left, top, width, height", True, lambda boxes, sides: boxes * np.tile(sides, 2)),
    _Form("centre x, centre y, width, height", True, _of_centres),
    _Form("corners x1, y1, x2, y2", True, _of_corners),
)


@dataclass(frozen=True)
class _Image:
    """Objects and detections of one image; boxes [N, 4], sides [width, height] in pixels or None."""

    sides: Floats | None
    objects: Floats
    categories: list[int]
    boxes: Floats
    found: list[Key]
    scores: Floats


@dataclass(frozen=True)
class SampledImages:
    """Images with objects and detections, evenly spaced, by which mistakes are recognised.

    Attributes:
        images: At most :data:`SAMPLED` of them.
    """

    images: list[_Image]

    @classmethod
    def of(cls, records: Sequence[Any], tie: Mapping[tuple[Key, str | None], int], truth: GroundTruth) -> SampledImages:
        """Take a sample.

        Args:
            records: Entries of a results file.
            tie: Image of each image id and file name.
            truth: Ground truth that they will be compared with.
        """
        with_objects = {a["image_id"] for a in truth.annotations if not a["iscrowd"]}
        both = sorted(with_objects & set(tie.values()))
        chosen = set(both[:: -(-len(both) // SAMPLED)] if both else [])
        keys = {key for (key, _), image in tie.items() if image in chosen}
        objects: dict[int, list[Any]] = {image: [] for image in sorted(chosen)}
        found: dict[int, list[Any]] = {image: [] for image in chosen}
        for annotation in truth.annotations:
            if annotation["image_id"] in chosen and not annotation["iscrowd"]:
                objects[annotation["image_id"]].append(annotation)
        for record in records:
            if record["image_id"] in keys:
                image = tie[record["image_id"], record.get("file_name")]
                if image in chosen:
                    found[image].append(record)
        return cls([_image(truth.sizes.get(i), objects[i], found[i]) for i in objects if found[i]])

    @property
    def size(self) -> int:
        """Number of detections on them."""
        return sum(len(image.boxes) for image in self.images)

    def pairs(self) -> list[tuple[Key, int]]:
        """Category id of the detection and category of the object: each object with the best-scored detection on it."""
        pairs: list[tuple[Key, int]] = []
        for image in self.images:
            on_it = _ious(image.boxes, image.objects) >= 0.5
            best = np.where(on_it, image.scores[:, None], -np.inf).argmax(axis=0)
            pairs += [
                (image.found[best[index]], category)
                for index, category in enumerate(image.categories)
                if on_it[:, index].any()
            ]
        return pairs

    def fit(self, form: _Form = _AS_ASKED) -> float:
        """Mean of the best IoUs of objects with a detection, boxes read in a form; 0 for none.

        In each image they are as many as there are objects, or detections if these are fewer.
        """
        best: list[Floats] = []
        for image in self.images:
            if image.sides is None and form.shares:
                continue
            boxes = form.to_pixels(image.boxes, _IN_PIXELS if image.sides is None else image.sides)
            of_objects = np.sort(_ious(boxes, image.objects).max(axis=0))
            best.append(of_objects[-len(boxes) :])
        return float(np.concatenate(best).mean()) if best else 0.0

    def share_beyond(self, form: _Form) -> float:
        """Share of the boxes, read in a form, that reach out of their image; 0 where no size is known."""
        beyond = []
        for image in self.images:
            if image.sides is not None:
                boxes = form.to_pixels(image.boxes, image.sides)
                spare = np.maximum(2.0, _BEYOND * image.sides)
                out = (boxes[:, :2] < -spare) | (boxes[:, :2] + boxes[:, 2:] > image.sides + spare)
                beyond.append(out.any(axis=1))
        return float(np.concatenate(beyond).mean()) if beyond else 0.0


def _image(size: tuple[float, float] | None, objects: Sequence[Any], records: Sequence[Any]) -> _Image:
    return _Image(
        None if size is None else np.array(size),
        np.array([a["bbox"] for a in objects], dtype=np.float64),
        [a["category_id"] for a in objects],
        np.array([r["bbox"] for r in records], dtype=np.float64),
        [r["category_id"] for r in records],
        np.array([r["score"] for r in records], dtype=np.float64),
    )


def _ious(boxes: Floats, objects: Floats) -> Floats:
    """[D, G] IoU; boxes without a side overlap nothing."""
    usable = np.ascontiguousarray(np.hstack([boxes[:, :2], np.maximum(boxes[:, 2:], 0.0)]))
    return np.asarray(mask.iou(usable, objects, [False] * len(objects)))


def check_boxes(entries: Entries, sample: SampledImages, truth: GroundTruth) -> None:
    """Refuse boxes that are not left, top, width, height in pixels.

    Args:
        entries: Entries of a results file, at least one.
        sample: Some of them beside the objects of their images.
        truth: Ground truth that they will be compared with.

    Raises:
        DatasetError: Sides are negative, numbers too large to compute with, or boxes have another form.
    """
    flat = chain.from_iterable(map(itemgetter("bbox"), entries.records))
    boxes = np.fromiter(flat, np.float64, 4 * len(entries.records)).reshape(-1, 4)
    with np.errstate(over="ignore", invalid="ignore"):
        usable = np.isfinite(boxes.sum(axis=1) + boxes[:, 2] * boxes[:, 3]) & (boxes[:, 2:] >= 0).all(axis=1)
    if not usable.all():
        index = int(usable.argmin())
        raise DatasetError(
            f"{entries.path}: $[{index}].bbox must be left, top, width, height in pixels, found "
            f"{entries.records[index]['bbox']}. Convert corners (x1, y1, x2, y2) to widths and heights first."
        )
    _refuse_shares(entries.path, float(boxes.max()), sample, truth)
    in_order = (boxes[:, 2:] >= boxes[:, :2]).all(axis=1).mean() > 1 - _STRAY
    if in_order and _has_form(sample, _CORNERS):
        raise _wrong_form(entries, sample, _CORNERS, "[x1, y1, x2 − x1, y2 − y1]")
    if _has_form(sample, _CENTRES):
        raise _wrong_form(entries, sample, _CENTRES, "[x − width / 2, y − height / 2, width, height]")


def _refuse_shares(path: Path, largest: float, sample: SampledImages, truth: GroundTruth) -> None:
    """Refuse boxes in shares of the image beside objects in pixels, and the other way round."""
    if largest <= _SHARES and _farthest(truth) > _PIXELS:
        form = max(_IN_SHARES, key=sample.fit)
        known = sample.fit(form) > GAIN
        turned = f", after turning {form.name} into these" if known and form is not _IN_SHARES[0] else ""
        raise DatasetError(
            f"{path}: boxes are shares of the image{f' as {form.name}' if known else ''}: no number in them is above "
            f"{largest:.4g}, while objects reach to {_farthest(truth):.6g}. Expected left, top, width, height in "
            f"pixels of the original image: multiply by its width and height{turned}."
        )
    if largest > _PIXELS and truth.annotations and all(max(a["bbox"]) <= _SHARES for a in truth.annotations):
        raise DatasetError(
            f"{path}: boxes are in pixels, up to {largest:.6g}, while those of {truth.path} are shares of the image, "
            f"up to {_farthest(truth):.4g}. Expected pixels in both: multiply the latter by the sides of their images."
        )


def _has_form(sample: SampledImages, form: _Form) -> bool:
    """Whether boxes lie inside their images and on the objects in another form, and do not as they should."""
    if sample.share_beyond(form) > _STRAY:
        return False
    gain = sample.fit(form) - sample.fit(_AS_ASKED)
    out = sample.size >= _FEWEST and sample.share_beyond(_AS_ASKED) > _BEYOND_SHARE
    return gain > (_GAIN_IF_BEYOND if out else GAIN)


def _wrong_form(entries: Entries, sample: SampledImages, form: _Form, wanted: str) -> DatasetError:
    beyond = sample.share_beyond(_AS_ASKED)
    reach = f", and {beyond:.0%} of them reach out of their image" if beyond else ""
    return DatasetError(
        f"{entries.path}: boxes are {form.name}: read so, they overlap the objects by {sample.fit(form):.2f} (mean of "
        f"the best IoU), as left, top, width, height by {sample.fit(_AS_ASKED):.2f}{reach}. Expected bbox "
        f"[left, top, width, height]: write {wanted}."
    )


def _farthest(truth: GroundTruth) -> float:
    """The largest coordinate of an object, in pixels; of an image where there is no object."""
    sides = [max(size) for size in truth.sizes.values()]
    return max(
        (max(b[0] + b[2], b[1] + b[3]) for b in (a["bbox"] for a in truth.annotations)), default=max(sides, default=0.0)
    )


def notes_on_scores(records: Sequence[Any]) -> list[str]:
    """Notes on scores that are no probabilities, or all the same; they are used as they are."""
    scores = np.fromiter(map(itemgetter("score"), records), np.float64, len(records))
    low, high = float(scores.min()), float(scores.max())
    if len(scores) >= _SAME and low == high:
        return [f"all {len(scores):,} scores are {low:g}: their order in the file decides, and AP says little"]
    if low >= 0 and 1 < high <= 100:
        return [f"scores go up to {high:g}, as percent do: only their order counts, so the metrics are the same"]
    if low < 0 or high > 1:
        return [f"scores lie between {low:g} and {high:g}, not in 0–1: only their order counts"]
    return []
