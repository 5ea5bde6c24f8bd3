"""Validation of well-formed COCO records: repeated ids and names, references to nothing, unusable sizes and boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from kdyolo.data.coco.reading.schema import (
    AnnotationRecord,
    CategoryRecord,
    DetailedAnnotation,
    ImageRecord,
    RecordLog,
    not_coco,
)
from kdyolo.data.image_names import LARGEST, all_plain, find_missing, has_surrogates, image_problem, normalise
from kdyolo.errors import DatasetError

FindProblems = Callable[[Path, Iterable[str]], dict[str, str]]

_Annotation = TypeVar("_Annotation", bound=AnnotationRecord)


def check_categories(records: list[CategoryRecord], log: RecordLog) -> dict[int, str]:
    """Check the categories.

    Returns:
        Category id → name.

    Raises:
        DatasetError: Two categories have one id or one name, a name is no text, or there is no category.
    """
    names: dict[int, str] = {}
    taken: set[str] = set()
    for index, record in enumerate(records):
        if record.id in names:
            log.invalid("category", index, record.id, "duplicate category id", f"{names[record.id]!r} has it too")
        if has_surrogates(record.name):
            log.invalid("category", index, record.id, "name is not text", repr(record.name))
        if record.name in taken:
            log.invalid("category", index, record.id, "duplicate category name", repr(record.name))
        names[record.id] = record.name
        taken.add(record.name)
    if not names:
        not_coco(log.path, "no category in 'categories'")
    return names


def usable_images(
    records: list[ImageRecord], folder: Path, problems: FindProblems | None, log: RecordLog
) -> dict[int, ImageRecord]:
    """The valid images whose file exists and has no problem.

    Args:
        records: Image records of the file, in its order.
        folder: Folder with the images.
        problems: Function that gives the unusable images of a folder with the reasons; without it, an image that
            exists is usable.
        log: Log of the invalid images.

    Returns:
        Image id → record, its file name relative to ``folder``.

    Raises:
        DatasetError: An image is invalid and not to be skipped (missing files are reported together), or none is left.
    """
    images = _valid_images(records, folder, log)
    missing = find_missing(folder, [record.file_name for record in images.values()])
    if missing and not log.skip_invalid:
        raise _missing_images(missing, records, images, folder, log)
    reasons = dict.fromkeys(missing, ("image file is missing", ""))
    if problems:
        present = [record.file_name for record in images.values() if record.file_name not in missing]
        found = problems(folder, present)
        reasons |= {name: ("image cannot be used", f"{folder / name}: {why}") for name, why in found.items()}
    if reasons:
        for index, key in enumerate([record.id for record in records]):
            if key in images and images[key].file_name in reasons:
                log.invalid("image", index, key, *reasons[images.pop(key).file_name])
    if not images:
        counts = ", ".join(f"{reason} ({count})" for reason, count in log.skipped["image"].items())
        raise DatasetError(
            f"{log.path}: no valid image is left: {counts}. Correct the file or the image folder {folder}."
        )
    return images


def _missing_images(
    missing: set[str], records: list[ImageRecord], images: dict[int, ImageRecord], folder: Path, log: RecordLog
) -> DatasetError:
    lost = [(i, record.id) for i, record in enumerate(records) if images[record.id].file_name in missing]
    first = ", ".join(f"{images[key].file_name} (image {i}, id {key})" for i, key in lost[:3])
    return DatasetError(
        f"{log.path}: {len(lost)} of {len(images)} image files are missing in {folder}: {first}"
        f"{', …' if len(lost) > 3 else ''}. Unpack all of the images there, or leave those without a file out "
        "with --skip-invalid (skip_invalid=True)."
    )


def _valid_images(records: list[ImageRecord], folder: Path, log: RecordLog) -> dict[int, ImageRecord]:
    """Image id → record with normalised file name, of those whose id, file name and size can be used."""
    if not records and not log.skipped["image"]:
        not_coco(log.path, "no image in 'images'")
    valid = {record.id: record for record in records}
    names = [record.file_name for record in records]
    sides = [*(record.width for record in records), *(record.height for record in records), 1]
    if (
        len(valid) == len(records)
        and all_plain(names)
        and all(0 < side <= LARGEST for side in (min(sides), max(sides)))
    ):
        return valid  # as nearly all files
    valid = {}
    owner_of: dict[str, str] = {}  # file name without suffix, which is the label's name → file name
    for index, record in enumerate(records):
        name = normalise(record.file_name, folder)
        stem = name.rpartition(".")[0]
        if record.id in valid:
            # The id stays with the first record, and so do its annotations.
            log.invalid("image", index, record.id, "duplicate image id", f"{valid[record.id].file_name!r} has it too")
        elif problem := image_problem(name, record.width, record.height):
            log.invalid("image", index, record.id, *problem)
        elif owner_of.get(stem) == name:
            log.invalid("image", index, record.id, "two images of one name", repr(name))
        elif stem in owner_of:
            both = f"{owner_of[stem]!r} and {name!r} would both own '{stem}.txt'"
            log.invalid("image", index, record.id, "two images share a label file", both)
        else:
            owner_of[stem] = name
            valid[record.id] = msgspec.structs.replace(record, file_name=name)
    return valid


def valid_annotations(
    records: list[_Annotation], images: dict[int, ImageRecord], categories: dict[int, str], areas: bool, log: RecordLog
) -> Iterator[_Annotation]:
    """The annotations with an id of their own, an image and a category that exist, and a box of finite numbers.

    Args:
        records: Annotation records of the file, in its order.
        images: Image id → valid record.
        categories: Category id → name.
        areas: Whether an ``area`` that is no number makes an annotation invalid.
        log: Log of the invalid annotations.

    Raises:
        DatasetError: An annotation is invalid and not to be skipped.
    """
    seen: set[int] = set()
    for index, record in enumerate(records):
        if record.id in seen:
            log.invalid("annotation", index, record.id, "duplicate annotation id")
        elif record.image_id not in images:
            skipped = record.image_id in log.skipped_image_ids
            reason = "its image was skipped" if skipped else "unknown image"
            log.invalid("annotation", index, record.id, reason, f"no image has id {record.image_id}")
        elif record.category_id not in categories:
            log.invalid("annotation", index, record.id, "unknown category", f"no category has id {record.category_id}")
        elif not all(map(math.isfinite, record.bbox)):
            log.invalid("annotation", index, record.id, "bbox is not finite", str(list(record.bbox)))
        elif areas and isinstance(record, DetailedAnnotation) and area_problem(record.area):
            log.invalid("annotation", index, record.id, "area is not a number", repr(record.area))
        else:
            seen.add(record.id)
            yield record


def area_problem(area: object) -> bool:
    """Whether an annotation's ``area`` is neither missing nor a number that can be compared."""
    return area is not None and (type(area) not in (int, float) or area != area)  # the last is true of NaN alone
