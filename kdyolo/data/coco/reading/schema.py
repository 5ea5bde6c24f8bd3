"""Schema of COCO annotation files: typed records, and the log of those that are invalid."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from kdyolo.coco_json.records import Kind
from kdyolo.errors import DatasetError

_LONGEST = 500  # characters of a quotation in a message
SkipInvalid = bool | Literal["any"]  # whether invalid records are left out: none, few, or any number of them


class ImageRecord(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``images``; width and height in pixels."""

    id: int
    file_name: str
    width: int
    height: int


class AnnotationRecord(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``annotations``; ``bbox`` is left, top, width, height in pixels, ``area`` in pixels²."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: int | bool = 0


class CategoryRecord(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``categories``."""

    id: int
    name: str
    supercategory: Any = None


class DetailedAnnotation(AnnotationRecord, frozen=True, gc=False):
    """An annotation with its outline, which only some conversions ask for; it is checked where it is used."""

    segmentation: Any = None


@dataclass
class RecordLog:
    """Log of invalid records: each raises an error, or is counted under its reason and left out.

    Attributes:
        path: The annotation file.
        skip_invalid: Whether invalid images and annotations are counted instead of raising.
        skipped: Kind of record → reason → number of records left out.
        skipped_rows: Places, from 0, of the annotations left out.
    """

    path: Path
    skip_invalid: bool
    skipped: dict[Kind, Counter[str]] = field(default_factory=lambda: {"image": Counter(), "annotation": Counter()})
    skipped_rows: list[int] = field(default_factory=list)

    def invalid(self, kind: Kind, index: int, record_id: object, reason: str, detail: str = "") -> None:
        """Take note of an invalid record.

        Args:
            kind: Kind of record.
            index: Place in its list, from 0.
            record_id: Its id, or None.
            reason: What is wrong, the same words for all records of this problem.
            detail: The values that are wrong.

        Raises:
            DatasetError: Invalid records are not to be skipped, or the record is a category.
        """
        if self.skip_invalid and kind != "category":
            self.skipped[kind][reason] += 1
            if kind == "annotation":
                self.skipped_rows.append(index)
            return
        name = f"{kind} {index} (no id)" if record_id is None else f"{kind} {index} (id {brief(repr(record_id))})"
        advice = "Correct the record"
        if kind != "category":
            advice += ", or leave invalid records out with --skip-invalid"
        raise DatasetError(f"{self.path}: {name}: {brief(reason)}{detail and ': '}{brief(detail)}. {advice}.")


def brief(text: str) -> str:
    """One line of a bearable length, which any terminal can print."""
    text = " ".join(text.split()).encode(errors="backslashreplace").decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def not_coco(path: Path, found: str) -> NoReturn:
    """Raise the error about a file that is no COCO file, but ``found``."""
    raise DatasetError(
        f"{path}: expected an object with the lists 'images', 'annotations' and 'categories', found {found}. "
        "Give a file in COCO's object detection format, such as instances_train2017.json."
    )
