"""Reading of a results file for a ground truth: its detections with the ids there, and what a person should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from kdyolo.metrics.differences import differences_of_categories
from kdyolo.metrics.ground_truth import Detection, GroundTruth, Key
from kdyolo.metrics.results.category_ids import AUTO, checked_offset, tie_categories
from kdyolo.metrics.results.entries import Entries, read_entries
from kdyolo.metrics.results.image_ids import ImageTie, tie_images
from kdyolo.metrics.results.mistakes import SampledImages, check_boxes, notes_on_scores
from kdyolo.utils.system import pause_gc


@dataclass(frozen=True)
class Results:
    """Detections of one results file, with the ids of a ground truth.

    Attributes:
        path: The results file.
        detections: Its detections, in the order of the file, all on images of the ground truth.
        notes: Sentences that a person should read about how the file was read.
        irregular: Whether pycocotools would read the file otherwise, or not at all.
        translated: Whether ids were changed for a reason that the notes tell, which pycocotools is spared.
    """

    path: Path
    detections: list[Detection]
    notes: tuple[str, ...] = ()
    irregular: bool = False
    translated: bool = False


def read_detections(path: str | Path, truth: GroundTruth, category_offset: int | str = AUTO) -> Results:
    """Read a results file of any tool for a ground truth.

    Args:
        path: COCO results (JSON, also gzipped), or stock Ultralytics' ``predictions.json``.
        truth: Ground truth that they will be compared with.
        category_offset: Number to add to each category id; ``"from-0"`` or ``"from-1"`` where ids are the places of the
            categories in the order of the ground truth's ids, ``"coco"`` where they are COCO's ids for these places;
            ``"auto"`` recognises these.

    Raises:
        ConfigError: The offset is none of these.
        DatasetError: The file cannot be read or does not belong to the ground truth, or has one of the usual mistakes
            by which the result would be meaningless.
    """
    offset = checked_offset(category_offset)
    with pause_gc():
        return _read(_entries(path, truth), truth, offset)


def _entries(path: str | Path, truth: GroundTruth) -> Entries:
    """The entries; without file names where ids made of names, as stock Ultralytics', are those of the ground truth."""
    if truth.named_by_ids:
        entries = read_entries(path, named=False)
        if truth.images.keys() >= set(map(itemgetter("image_id"), entries.records)):
            return entries
    return read_entries(path)


def _read(entries: Entries, truth: GroundTruth, offset: int | str) -> Results:
    records: Any = entries.records
    if not records:
        return Results(entries.path, records, entries.notes, entries.irregular)
    images, image_notes = tie_images(entries, truth)
    sample = SampledImages.of(records, images, truth)
    check_boxes(entries, sample, truth)
    categories, category_notes = tie_categories(entries, truth, sample, offset)
    notes = (*entries.notes, *image_notes, *category_notes, *_differences(entries, truth), *notes_on_scores(records))
    detections = _translated(records, images, categories)
    irregular = entries.irregular or detections is not records
    other = any(truth.category_of(key) != c for key, c in categories.items() if c in truth.categories)
    return Results(entries.path, detections, notes, irregular, translated=bool(image_notes) or other)


def _differences(entries: Entries, truth: GroundTruth) -> list[str]:
    if not (entries.text_categories or truth.text_categories):
        return []
    counts = Counter(record["category_id"] for record in entries.records)
    return differences_of_categories(counts, entries.text_categories, truth.text_categories)


def _translated(records: Any, images: ImageTie, categories: Mapping[Key, int | None]) -> list[Detection]:
    same = all(key == image for (key, _), image in images.items())
    if same and all(key == category for key, category in categories.items()):
        return records  # type: ignore[no-any-return]
    translated: list[Any] = [
        {
            **record,
            "image_id": images[record["image_id"], record.get("file_name")],
            "category_id": categories[record["category_id"]],
        }
        for record in records
        if categories[record["category_id"]] is not None
    ]
    return translated
