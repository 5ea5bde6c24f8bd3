"""Regularity of typed records: whether the fast ways can take them, or the file has to be read record by record."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from kdyolo.data.coco.reading.json_chunks import FastPathUnavailable
from kdyolo.data.coco.reading.schema import AnnotationRecord, CategoryRecord, ImageRecord
from kdyolo.data.image_names import LARGEST, all_plain, find_missing, has_surrogates, image_problem, normalise

FindProblems = Callable[[Path, Iterable[str]], dict[str, str]]

_Annotation = TypeVar("_Annotation", bound=AnnotationRecord)


def regular_categories(records: list[CategoryRecord]) -> dict[int, str]:
    """Category id → name.

    Raises:
        FastPathUnavailable: Two categories have one id, a name is no text, or there is no category.
    """
    names = {record.id: record.name for record in records}
    if not names or len(names) < len(records) or any(map(has_surrogates, names.values())):
        raise FastPathUnavailable
    return names


def empty_rows(records: Sequence[CategoryRecord], used: Collection[int]) -> frozenset[int]:
    """Categories without annotations that seem to be no classes, such as the first row that Roboflow writes.

    Args:
        records: All categories of a file.
        used: Ids of those that have annotations.

    Returns:
        Ids of unused rows that are the supercategory of another one, or have the name of another one.
    """
    names = Counter(record.name for record in records)
    parents = Counter(record.supercategory for record in records if isinstance(record.supercategory, str))
    return frozenset(
        record.id
        for record in records
        if record.id not in used
        and (names[record.name] > 1 or parents[record.name] > (record.supercategory == record.name))
    )


def regular_images(records: list[ImageRecord], folder: Path, problems: FindProblems | None) -> dict[int, ImageRecord]:
    """Image id → record, its file name relative to ``folder``.

    Args:
        records: Image records of the file, in its order.
        folder: Folder with the images.
        problems: Function that gives the unusable images of a folder with the reasons; without it, an image that
            exists is usable.

    Raises:
        FastPathUnavailable: An image cannot be used as its record stands there, or there is none.
    """
    images = _regular_records(records, folder)
    names = [image.file_name for image in images.values()]
    if not images or find_missing(folder, names) or (problems and problems(folder, names)):
        raise FastPathUnavailable
    return images


def _regular_records(records: list[ImageRecord], folder: Path) -> dict[int, ImageRecord]:
    images = {record.id: record for record in records}
    sides = [*(record.width for record in records), *(record.height for record in records), 1]
    if len(images) < len(records) or not all(0 < side <= LARGEST for side in (min(sides), max(sides))):
        raise FastPathUnavailable
    if all_plain([record.file_name for record in records]):
        return images  # as nearly all files
    stems = set()  # file names without suffix, which are the labels' names
    for record in records:
        name = normalise(record.file_name, folder)
        if image_problem(name, record.width, record.height):
            raise FastPathUnavailable
        stems.add(name.rpartition(".")[0])
        images[record.id] = msgspec.structs.replace(record, file_name=name)
    if len(stems) < len(records):
        raise FastPathUnavailable
    return images


def regular_annotations(
    records: list[_Annotation], images: Collection[int], categories: Collection[int]
) -> list[_Annotation]:
    """The annotations, each with an id of its own, an image and a category that exist, and a box of finite numbers.

    Raises:
        FastPathUnavailable: One is not so.
    """
    regular = len({record.id for record in records}) == len(records) and all(
        record.image_id in images
        and record.category_id in categories
        and record.iscrowd in (0, 1)
        and all(map(math.isfinite, (*record.bbox, record.area)))
        for record in records
    )
    if not regular:
        raise FastPathUnavailable
    return records
