"""Official COCO metrics of a set of detections, by an official evaluator, as a typed result."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdyolo.arguments import checked
from kdyolo.errors import ConfigError
from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.evaluators import evaluate, evaluate_files
from kdyolo.metrics.ground_truth import Detection, GroundTruth, check_detections, of_categories
from kdyolo.metrics.names import DEFAULT_EVALUATOR, EVALUATORS, METRICS, NAMES, Evaluator
from kdyolo.metrics.results.category_ids import AUTO
from kdyolo.metrics.results.reading import Results, read_detections
from kdyolo.utils.system import pause_gc
from kdyolo.utils.tables import ShownAsTable, terminal_width
from kdyolo.utils.text import plural, printable, quoted, shortened


@dataclass(frozen=True)
class ClassScores:
    """AP of one category, in 0–1, or −1 where it has no object.

    Attributes:
        category_id: Id of the category in the annotation file.
        name: Name of the category.
        objects: Number of its objects, crowd regions not counted.
        ap: Average precision, mean over IoU 0.50:0.95.
        ap50: Average precision at IoU 0.50.
        ap75: Average precision at IoU 0.75.
    """

    category_id: int
    name: str
    objects: int
    ap: float
    ap50: float
    ap75: float


@dataclass(frozen=True, repr=False)
class CocoScores(ShownAsTable):
    """The twelve official COCO metrics: each in 0–1, or −1 where there is no object to find (as pycocotools has it).

    Attributes:
        ap: Mean average precision over IoU 0.50:0.95, all areas, at most 100 detections per image and category.
        ap50: AP at IoU 0.50.
        ap75: AP at IoU 0.75.
        ap_small: AP of objects below 32² px.
        ap_medium: AP of objects between 32² and 96² px.
        ap_large: AP of objects above 96² px.
        ar1: Mean average recall over IoU 0.50:0.95 with 1 detection per image and category.
        ar10: AR with 10 detections per image and category.
        ar100: AR with 100 detections per image and category.
        ar_small: AR with 100 detections, of objects below 32² px.
        ar_medium: AR with 100 detections, of objects between 32² and 96² px.
        ar_large: AR with 100 detections, of objects above 96² px.
        per_class: Scores of each category of the annotation file, in the order of the ids.
        images: Number of images.
        objects: Number of objects, crowd regions not counted.
        detections: Number of detections.
        evaluator: Name and version of the package that computed all this.
        notes: Sentences that a person should read about the files.
        categories: Names of the categories that were chosen; None where all count.
        precision: What the network computed with, e.g. ``"fp32"``; None where only its detections are known.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    ar1: float
    ar10: float
    ar100: float
    ar_small: float
    ar_medium: float
    ar_large: float
    per_class: tuple[ClassScores, ...]
    images: int
    objects: int
    detections: int
    evaluator: str
    notes: tuple[str, ...] = ()
    categories: tuple[str, ...] | None = None
    precision: str | None = None

    @property
    def metrics(self) -> tuple[float, ...]:
        """The twelve metrics, in the official order."""
        return tuple(getattr(self, attribute) for attribute, *_ in METRICS)

    def named(self) -> dict[str, float]:
        """Official name → value, e.g. ``AP``, ``AP50``, ``AP_small``, ``AR100``."""
        return dict(zip(NAMES, self.metrics, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the twelve metrics by their official names, counts, and all classes."""
        keys = ("images", "objects", "detections", "evaluator", "precision")
        rest: dict[str, Any] = {key: getattr(self, key) for key in keys}
        rest["categories"] = None if self.categories is None else list(self.categories)
        return {**self.named(), **rest, "notes": list(self.notes), "per_class": [asdict(c) for c in self.per_class]}

    @property
    def title(self) -> str:
        """What these numbers are, and of which categories if some were chosen."""
        return "official COCO metrics" + (f" of {', '.join(self.categories)} only" if self.categories else "")

    def headline(self) -> str:
        """AP and AP50, and on how much."""
        known = (f"{name} {value:.3f}" for name, value in list(self.named().items())[:3] if value >= 0)
        return ", ".join([*known, f"{plural(self.images, 'image')}, {plural(self.objects, 'object')}"])

    def line(self) -> str:
        """The six average precisions in one line."""
        named = ", ".join(f"{name} {value:.3f}" for name, value in list(self.named().items())[:6])
        return f"{self.title}: {named}{f' ({self.precision})' if self.precision else ''}"

    def table(self, per_class: bool = False, suffixes: Sequence[str] = ()) -> str:
        """The lines that pycocotools prints, under one that says what was scored.

        Args:
            per_class: Whether there is a line for every category, too.
            suffixes: Text to put behind each of the twelve lines.
        """
        lines = [
            f"{self.title}: {plural(self.images, 'image')}, {plural(self.objects, 'object')}, "
            f"{plural(self.detections, 'detection')} "
            f"({self.evaluator}{f'; network in {self.precision}' if self.precision else ''})"
        ]
        room = terminal_width() or sys.maxsize
        for (_, name, iou, area, limit), value, suffix in zip(
            METRICS, self.metrics, suffixes or [""] * 12, strict=True
        ):
            title = "Average Precision  (AP)" if name.startswith("AP") else "Average Recall     (AR)"
            line = f" {title} @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ] = {value:0.3f}{suffix}"
            if len(line) > room:  # the same without words that its order says, too
                line = f" {name[:2]} @[ {iou:<9} | {area:>6} | {limit:>3} ] = {value:0.3f}{suffix}"
            lines.append(line)
        if per_class:
            lines += self._class_lines()
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def _class_lines(self) -> list[str]:
        names = [shortened(printable(c.name), 100) for c in self.per_class]
        width = max(map(len, ("class", *names)))
        lines = [f" {'class':<{width}}  objects     AP   AP50   AP75"]
        for name, c in zip(names, self.per_class, strict=True):
            values = "".join(f"{'-':>7}" if v < 0 else f"{v:7.3f}" for v in (c.ap, c.ap50, c.ap75))
            lines.append(f" {name:<{width}}  {c.objects:>7}{values}")
        return lines

    def __str__(self) -> str:
        return self.table()


@checked
def score_coco(
    predictions: str | Path,
    annotations: str | Path,
    *,
    evaluator: Evaluator = DEFAULT_EVALUATOR,
    categories: Sequence[int] | None = None,
    category_offset: int | str = AUTO,
) -> CocoScores:
    """Score a results file of any detector against COCO annotations.

    Args:
        predictions: COCO results: a JSON list of ``image_id``, ``category_id``, ``bbox`` and ``score``, or stock
            Ultralytics' ``predictions.json``.
        annotations: COCO instance annotations (JSON). All of its images count, with their crowds and areas.
        evaluator: The package that computes the metrics; ``"pycocotools"`` gives its own numbers of the files also
            where kdyolo, which says so in the notes, reads an annotation otherwise.
        categories: Ids of the categories that count, as ``catIds`` of pycocotools; None for all.
        category_offset: Number to add to each category id of the predictions; ``"from-0"`` or ``"from-1"`` where they
            are the places of the categories in the order of their ids, ``"coco"`` where they are COCO's ids for these
            places; ``"auto"`` recognises these by boxes.

    Raises:
        ConfigError: The evaluator or the offset is unknown.
        DatasetError: A file is not what it should be, or they do not belong together.

    Examples:
        >>> from kdyolo import score_coco
        >>> scores = score_coco("a.json", "instances_val2017.json")
        >>> 0 < scores.ap < scores.ap50
        True
    """
    truth = read_ground_truth(annotations)
    return score_results(truth, read_detections(predictions, truth, category_offset), evaluator, categories)


def score_results(
    truth: GroundTruth,
    results: Results,
    evaluator: str = DEFAULT_EVALUATOR,
    categories: Sequence[int] | None = None,
) -> CocoScores:
    """Score the detections of a results file.

    Args:
        truth: Images, categories and objects. All of its images count.
        results: Results that were read for this ground truth.
        evaluator: One of :data:`EVALUATORS`.
        categories: Ids of the categories that count, as ``catIds`` of pycocotools; None for all.

    Raises:
        ConfigError: The evaluator is unknown.
        DatasetError: The ground truth lacks one of the categories.
    """
    as_it_is = None if results.translated else results.path
    reread = as_it_is if truth.irregular or results.irregular else None
    return _score(truth, results.detections, evaluator, categories, results.notes, reread)


def score_detections(
    truth: GroundTruth,
    detections: Sequence[Detection],
    evaluator: str = DEFAULT_EVALUATOR,
    source: str = "the predictions",
    categories: Sequence[int] | None = None,
) -> CocoScores:
    """Score detections in memory.

    Args:
        truth: Images, categories and objects. All of its images count.
        detections: Boxes in pixels of the original images. They are not changed.
        evaluator: One of :data:`EVALUATORS`.
        source: Name of the detections in messages.
        categories: Ids of the categories that count, as ``catIds`` of pycocotools; None for all.

    Raises:
        ConfigError: The evaluator is unknown.
        DatasetError: Detections are on images that the ground truth lacks, or of none of its categories; or it lacks
            one of those that count.
    """
    return _score(truth, detections, evaluator, categories, check_detections(detections, truth, source))


def _score(
    truth: GroundTruth,
    detections: Sequence[Detection],
    evaluator: str,
    categories: Sequence[int] | None,
    notes: Iterable[str],
    reread: Path | None = None,
) -> CocoScores:
    """Score checked detections; ``reread`` is their file, for pycocotools to read it in its own way."""
    if evaluator not in EVALUATORS:
        raise ConfigError(f"--evaluator {quoted(evaluator)}: expected one of {', '.join(EVALUATORS)}.")
    notes = [*truth.notes, *notes]
    truth, detections = of_categories(truth, detections, categories)
    with pause_gc():
        if evaluator == "pycocotools" and (truth.irregular or reread):
            (stats, precision), note = evaluate_files(truth, detections, reread)
            notes.append(note)
        else:
            stats, precision = evaluate(truth, detections, evaluator)
    metrics: dict[str, Any] = {attribute: float(value) for (attribute, *_), value in zip(METRICS, stats, strict=True)}
    return CocoScores(
        **metrics,
        per_class=_class_scores(truth, precision),
        images=len(truth.images),
        objects=truth.objects,
        detections=len(detections),
        evaluator=f"{evaluator} {version(evaluator)}",
        notes=tuple(notes),
        categories=None if categories is None else tuple(truth.categories.values()),
    )


def _class_scores(truth: GroundTruth, precision: NDArray[np.float64]) -> tuple[ClassScores, ...]:
    objects = dict.fromkeys(truth.categories, 0)
    for annotation in truth.annotations:
        objects[annotation["category_id"]] += not annotation["iscrowd"]
    scores = []
    for index, (category, name) in enumerate(truth.categories.items()):
        of_class = precision[:, :, index, 0, -1]  # all areas, 100 detections
        ap, ap50, ap75 = (float(p.mean()) for p in (of_class, of_class[0], of_class[5]))
        scores.append(ClassScores(category, name, objects[category], ap, ap50, ap75))
    return tuple(scores)
