"""Sample images on which the arms differ most: ground truth beside what each arm's detector found."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kdyolo.data.dataset_yaml import load_dataset
from kdyolo.data.image_names import image_files
from kdyolo.errors import DatasetError
from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.experiments.report.sample_predictions import SHOWN_SCORE, NoPredictions, predict_samples
from kdyolo.metrics.ground_truth import Detection, GroundTruth, check_detections
from kdyolo.metrics.matching import match_detections
from kdyolo.metrics.reference import Reference, build_reference
from kdyolo.metrics.results.reading import read_detections
from kdyolo.runs.files import ARGS_NAME, PREDICTIONS_NAME
from kdyolo.runs.history import Run

COUNT = 6
LONGER_SIDE = 480  # pixels
QUALITY = 80


@dataclass(frozen=True)
class Box:
    """A box in pixels of the original image.

    Attributes:
        x: Left edge.
        y: Upper edge.
        w: Width of the box.
        h: Height of the box.
        label: Class, and for a detection its score.
        kind: Verdict on the box: ``"found"``, ``"missed"`` or ``"crowd"`` of an object, ``"right"`` or ``"wrong"`` of a
            detection.
    """

    x: float
    y: float
    w: float
    h: float
    label: str
    kind: str


@dataclass(frozen=True)
class Picture:
    """Boxes over the image.

    Attributes:
        title: ``"ground truth"``, or the arm.
        boxes: Boxes to draw, the surest detection last.
        summary: Numbers of the boxes of each kind, in words.
    """

    title: str
    boxes: tuple[Box, ...]
    summary: str


@dataclass(frozen=True)
class Sample:
    """One image.

    Attributes:
        name: ``file_name`` in the annotations.
        width: Width of the original image in pixels.
        height: Height of the original image in pixels.
        uri: The image as a ``data:`` URI, reduced.
        pictures: Picture of the ground truth, then one of each arm.
    """

    name: str
    width: int
    height: int
    uri: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Samples:
    """Samples of a comparison, and how they were chosen or why there are none.

    Attributes:
        images: The samples.
        summary: Sentences on which runs and images these are.
        missing: Arm → reason for which it has no pictures.
    """

    images: tuple[Sample, ...]
    summary: str
    missing: Mapping[str, str]


@dataclass(frozen=True)
class _Found:
    """An arm's detections that are shown, and which of them are right.

    Attributes:
        detections: Detections with scores from :data:`SHOWN_SCORE` on, by ascending score.
        right: Indices of the detections matched to an object of their class at IoU 0.5.
        objects: Indices of the annotations that were found.
        f1: Image id → F1 score on it.
    """

    detections: Sequence[Detection]
    right: frozenset[int]
    objects: frozenset[int]
    f1: Mapping[int, float]


def samples(arms: Sequence[Arm], count: int = COUNT) -> Samples:
    """Choose and draw validation images.

    Each arm is represented by one run, that of the lowest seed which all arms share, if there is one. Images are
    ranked by the spread of F1 (IoU 0.5, scores from 0.25 on) between the arms; ties go by image id:
    the choice never varies.

    Args:
        arms: Those whose run keeps ``predictions.json`` decide on the images; with the others' ``best.pt`` these images
            are predicted, on the CPU.
        count: Number of images.

    Returns:
        The samples; for an arm that has none, and where annotations or images cannot be read, why.
    """
    runs = {arm.name: _representative(arm, arms) for arm in arms}
    kept = {name: run for name, run in runs.items() if _keeps_predictions(run)}
    try:
        reference = _reference(next(iter((kept or runs).values())))
        found = {
            name: _find(reference.truth, read_detections(_file(run), reference.truth, 0).detections, run)
            for name, run in kept.items()
        }
    except (DatasetError, OSError) as error:  # files may have moved since; the report says so and has all else
        return Samples((), "", dict.fromkeys(runs, str(error)))
    truth, files = reference.truth, {image: Path(file) for file, image in reference.image_ids.items()}
    images = _choose(truth, found, count)
    missing: dict[str, str] = {}
    for name in (name for name in runs if name not in kept):
        try:
            detections = predict_samples(runs[name], {image: files[image] for image in images}, reference.category_ids)
            found[name] = _find(truth, detections, runs[name])
        except NoPredictions as error:
            missing[name] = str(error)
    shown = {name: found[name] for name in runs if name in found}
    if not shown:
        return Samples((), "", missing)
    drawn = tuple(_sample(image, truth, files[image], shown) for image in images)
    return Samples(drawn, _summary(len(truth.images), len(images), kept, {name: runs[name] for name in shown}), missing)


def _summary(total: int, images: int, kept: Mapping[str, Run], shown: Mapping[str, Run]) -> str:
    """Sentences on how the images were chosen, and whose detections these are."""
    if len(kept) > 1:
        how = (
            f"The {images} of {total:,} validation images on which the arms differ most: with the largest spread of F1 "
            f"between them (same class, IoU ≥ 0.5, scores from {SHOWN_SCORE}). They show how arms differ, not how good "
            "they are."
        )
    else:
        how = f"{images} of {total:,} validation images: with objects, evenly spaced in the annotation file."
    names = ", ".join(f"{name}: {run.path.name}" for name, run in shown.items())
    late = ", ".join(name for name in shown if name not in kept)
    predicted = f" Predicted for this report with best.pt: {late}." if late else ""
    return f"{how} Runs: {names}.{predicted}"


def _representative(arm: Arm, arms: Sequence[Arm]) -> Run:
    shared = set.intersection(*({s for s in a.seeds if s is not None} for a in arms))
    seed = min(shared) if shared else None
    return arm.runs[arm.seeds.index(seed)] if seed in arm.seeds else arm.runs[0]


def _file(run: Run) -> Path:
    return run.path / PREDICTIONS_NAME


def _keeps_predictions(run: Run) -> bool:
    return run.scores is not None and _file(run).is_file()


def _reference(run: Run) -> Reference:
    """The annotations that a run was scored with, else those of its data set, and the images of that."""
    if not run.args.get("data"):
        raise DatasetError(f"{run.path / ARGS_NAME} names no data set, so there are no images to draw.")
    dataset, split = load_dataset(Path(run.args["data"])), str(run.args.get("split") or "val")
    if split not in dataset.images:
        raise DatasetError(f"{dataset.path}: expected a key {split!r}, the split that {run.path} was evaluated on.")
    annotations = Path(run.scores["annotations"]) if run.scores else dataset.annotations(split)
    if annotations is None or not (run.scores or annotations.is_file()):
        raise DatasetError(f"{dataset.path} names no COCO annotations of {split!r}: there is no ground truth to draw.")
    folder, names = image_files(dataset.places(split))
    classes, ids = list(dataset.class_names.values()), dataset.ids_in(annotations, split)
    return build_reference(annotations, [str(folder / name) for name in names], classes, ids)


def _find(truth: GroundTruth, detections: Sequence[Detection], run: Run) -> _Found:
    shown = sorted((d for d in detections if d["score"] >= SHOWN_SCORE), key=lambda d: d["score"])
    check_detections(shown, truth, f"the predictions of {run.path}")
    matches = match_detections(truth, shown)
    at_half = matches.matched[:, 0, 0] if len(matches.hit) else np.zeros(0, bool)  # area range "all", IoU 0.5
    on_crowd = matches.ignored[:, 0, 0] if len(matches.hit) else at_half  # which is no mistake, and finds nothing
    right = frozenset(matches.detection[matches.hit[at_half]].tolist())
    uncounted = frozenset(matches.detection[matches.hit[on_crowd]].tolist())
    objects = frozenset(index for index in matches.found.tolist() if index >= 0)
    counted = [d for index, d in enumerate(shown) if index not in uncounted]
    return _Found(shown, right, objects, _f1(truth, counted, objects))


def _f1(truth: GroundTruth, detections: Sequence[Detection], found: frozenset[int]) -> dict[int, float]:
    """Image id → 2·TP / (objects + detections), 1 where there is neither."""
    total = Counter(d["image_id"] for d in detections)
    hits: Counter[int] = Counter()
    for index, annotation in enumerate(truth.annotations):
        if not annotation["iscrowd"]:
            total[annotation["image_id"]] += 1
            hits[annotation["image_id"]] += index in found
    return {image: 2 * hits[image] / total[image] if total[image] else 1.0 for image in truth.images}


def _choose(truth: GroundTruth, found: Mapping[str, _Found], count: int) -> list[int]:
    """Images on which the arms differ most; where that is not known, images with objects, evenly spaced."""
    if len(found) < 2:
        with_objects = sorted({a["image_id"] for a in truth.annotations if not a["iscrowd"]})
        return with_objects[:: max(1, len(with_objects) // count)][:count]

    def spread(image: int) -> float:
        scores = [arm.f1[image] for arm in found.values()]
        return max(scores) - min(scores)

    return sorted(truth.images, key=lambda image: (-spread(image), image))[:count]


def _sample(image: int, truth: GroundTruth, file: Path, found: Mapping[str, _Found]) -> Sample:
    with Image.open(file) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    width, height = picture.size
    pictures = [_objects(image, truth, found), *(_detections(image, truth, name, arm) for name, arm in found.items())]
    return Sample(truth.images[image], width, height, data_uri(picture), tuple(pictures))


def _objects(image: int, truth: GroundTruth, found: Mapping[str, _Found]) -> Picture:
    boxes = []
    for index, annotation in enumerate(truth.annotations):
        if annotation["image_id"] == image:
            by_all = all(index in arm.objects for arm in found.values())
            kind = "crowd" if annotation["iscrowd"] else "found" if by_all else "missed"
            x, y, w, h = annotation["bbox"]
            boxes.append(Box(x, y, w, h, truth.categories[annotation["category_id"]], kind))
    objects = sum(box.kind != "crowd" for box in boxes)
    missed = sum(box.kind == "missed" for box in boxes)
    summary = f"{objects} object{'s' * (objects != 1)}, {missed} missed by some arm"
    return Picture("ground truth", tuple(boxes), summary)


def _detections(image: int, truth: GroundTruth, name: str, arm: _Found) -> Picture:
    boxes = []
    for index, detection in enumerate(arm.detections):
        if detection["image_id"] == image and detection["category_id"] in truth.categories:
            label = f"{truth.categories[detection['category_id']]} {detection['score']:.2f}"
            x, y, w, h = detection["bbox"]
            boxes.append(Box(x, y, w, h, label, "right" if index in arm.right else "wrong"))
    right = sum(box.kind == "right" for box in boxes)
    return Picture(name, tuple(boxes), f"{right} right, {len(boxes) - right} wrong, F1 {arm.f1[image]:.2f}")


def data_uri(picture: Image.Image) -> str:
    """A JPEG of modest size as a ``data:`` URI."""
    picture = picture.copy()
    picture.thumbnail((LONGER_SIDE, LONGER_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
