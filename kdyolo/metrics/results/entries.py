"""Results files of any tool (detections), read into one form: lists and their wrappers, boxes, masks, keypoints."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from kdyolo.coco_json.files import read_json_document
from kdyolo.coco_json.segmentations import box_and_area
from kdyolo.coco_json.values import id_key, real_number
from kdyolo.errors import DatasetError
from kdyolo.metrics.coco_files import decode_typed
from kdyolo.metrics.ground_truth import Box, Id, Key
from kdyolo.utils.text import quoted

EXPECTED = "COCO results: a list of image_id, category_id, bbox [left, top, width, height] and score"
# Where tools put the list, if it is not the whole file; of several, the first that has scores.
WRAPPERS = ("annotations", "predictions", "results", "detections")
_MOST_MISTAKES = 5


class _Entry(TypedDict):
    image_id: Id | str
    category_id: Id
    bbox: Box
    score: float


class _NamedEntry(_Entry, total=False):
    file_name: str


_DECODERS: dict[bool, msgspec.json.Decoder[Any]] = {
    False: msgspec.json.Decoder(list[_Entry]),
    True: msgspec.json.Decoder(list[_NamedEntry]),
}


@dataclass(frozen=True)
class Entries:
    """The entries of a results file as it has them, not yet tied to a ground truth.

    Attributes:
        path: The results file, for messages.
        records: Entries with ``image_id`` and ``category_id`` (a number, or a text that is none), ``bbox`` and
            ``score`` as finite numbers, ``file_name`` where there is one, and ``area`` where the box is that of a mask.
        notes: Sentences that a person should read about how the file was read.
        irregular: Whether pycocotools may read the file otherwise, or not at all.
        named: Whether entries may have a ``file_name``.
        category_names: Category id → name, if the file brings a table of its own.
        text_categories: Category id → number of entries that have this number as text.
    """

    path: Path
    records: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    irregular: bool = False
    named: bool = True
    category_names: Mapping[Key, str] = field(default_factory=dict)
    text_categories: Mapping[Key, int] = field(default_factory=dict)


def read_entries(path: str | Path, named: bool = True) -> Entries:
    """Read a results file.

    Args:
        path: JSON file, also gzipped: a list of entries, or an object that has it under one of :data:`WRAPPERS`.
        named: Whether ``file_name`` is wanted, which takes time and memory.

    Raises:
        DatasetError: The file cannot be read, is no results file, or entries in it have no meaning.
    """
    path = Path(path)
    records = decode_typed(path, _DECODERS[named])
    return _read_document(path) if records is None else Entries(path, records, named=named)


def raw_list(document: Any) -> list[Any] | None:
    """The list of entries in the content of a results file; None if there is none."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict):
        return None
    lists: list[list[Any]] = [document[key] for key in WRAPPERS if isinstance(document.get(key), list)]
    scored = [entries for entries in lists if any(isinstance(e, dict) and "score" in e for e in entries)]
    return next(iter(scored or lists), None)


def _read_document(path: Path) -> Entries:
    document = read_json_document(path, expected=EXPECTED)
    entries = raw_list(document)
    if entries is None or not isinstance(document, list):
        _refuse_other_files(path, document, entries)
    reader = _Reader(path, _images_of(document))
    records = reader.read(entries or [])
    return Entries(
        path,
        records,
        reader.notes(),
        irregular=True,
        category_names=_categories_of(document),
        text_categories=reader.text_categories,
    )


def _refuse_other_files(path: Path, document: Any, entries: list[Any] | None) -> None:
    """Refuse what holds no list of entries, or entries of the wrong kind of file."""
    keys = ", ".join(map(repr, list(document)[:6])) if isinstance(document, dict) else ""
    scored = any(isinstance(entry, dict) and "score" in entry for entry in entries or [])
    if isinstance(document, dict) and "images" in document and not scored:
        raise DatasetError(
            f"{path}: expected predictions, found COCO annotations (an object with {quoted(keys, 200)}, without a "
            "score). The order is kdyolo score PRED.json ANN.json: are the two files exchanged?"
        )
    if entries is None:
        found = f"an object with {quoted(keys, 200)}" if keys else quoted(document)
        raise DatasetError(f"{path}: expected {EXPECTED}; found {found}.")


def _table(document: Any, kind: str, name: str) -> Iterator[tuple[Key, str]]:
    """Id → name of a wrapper's own ``images`` or ``categories``."""
    records = document.get(kind) if isinstance(document, dict) else None
    for record in records if isinstance(records, list) else []:
        key = id_key(record.get("id")) if isinstance(record, dict) else None
        if key is not None and isinstance(record.get(name), str):
            yield key, record[name]


def _images_of(document: Any) -> dict[Key, str]:
    return dict(_table(document, "images", "file_name"))


def _categories_of(document: Any) -> dict[Key, str]:
    return dict(_table(document, "categories", "name"))


class _Unreadable(Exception):
    """What has no meaning in an entry: its place there, and what it is."""


class _Reader:
    """Reader of entries one by one, with a count of what was read otherwise than it is written.

    Args:
        path: The results file, for messages.
        file_names: Image id → file name, where the file has a table of images.

    Attributes:
        text_categories: Category id → number of entries that have this number as text.
    """

    def __init__(self, path: Path, file_names: Mapping[Key, str]) -> None:
        self.path = path
        self._file_names = file_names
        self._texts = 0
        self.text_categories: Counter[Key] = Counter()
        self._boxes_of: Counter[str] = Counter()
        self._by_masks = False

    def read(self, entries: list[Any]) -> list[dict[str, Any]]:
        """The entries in one form.

        Raises:
            DatasetError: Some have no meaning; the message has the first of them, and how many there are.
        """
        first = entries[0] if entries and isinstance(entries[0], dict) else {}
        # As pycocotools' loadRes decides it: where the first entry has a mask alone, areas are those of the masks.
        self._by_masks = not first.get("bbox") and "segmentation" in first
        records, mistakes = [], []
        for index, entry in enumerate(entries):
            try:
                records.append(self._regular(entry))
            except _Unreadable as reason:
                mistakes.append(f"$[{index}]{reason}")
        if mistakes:
            more = f"; and {len(mistakes) - _MOST_MISTAKES:,} more" if len(mistakes) > _MOST_MISTAKES else ""
            raise DatasetError(
                f"{self.path}: {len(mistakes):,} of {len(entries):,} entries cannot be read: "
                f"{'; '.join(mistakes[:_MOST_MISTAKES])}{more}. Expected {EXPECTED}."
            )
        return records

    def notes(self) -> tuple[str, ...]:
        """What a person should know, a sentence for each kind."""
        notes = []
        if self._texts:
            notes.append(f"{self._texts:,} predictions have a number as text: read as the number")
        for kind, count in self._boxes_of.items():
            notes.append(f"{count:,} predictions have no bbox: scored with the box of their {kind}")
        return tuple(notes)

    def _regular(self, entry: Any) -> dict[str, Any]:
        if not isinstance(entry, dict):
            raise _Unreadable(f" is {quoted(entry)}, no object")
        name = entry.get("file_name")
        if "image_id" not in entry and isinstance(name, str) and name:
            image: Key = name
        else:
            image = _id(entry, "image_id")
        score = real_number(entry.get("score"))
        if score is None:
            raise _Unreadable(f".score is {_shown(entry, 'score')}, no number")
        category = _id(entry, "category_id")
        record: dict[str, Any] = {"image_id": image, "category_id": category, "score": score}
        texts = [key for key in record if isinstance(entry.get(key), str) and not isinstance(record[key], str)]
        self._texts += bool(texts)
        if "category_id" in texts:
            self.text_categories[category] += 1
        name = name if isinstance(name, str) else self._file_names.get(image)
        if name is not None:
            record["file_name"] = name
        return {**record, **self._box(entry)}

    def _box(self, entry: dict[str, Any]) -> dict[str, Any]:
        """``bbox`` of an entry, and ``area`` where it is not the box's."""
        given, segmentation = entry.get("bbox"), entry.get("segmentation")
        if given is None or given == []:
            return self._box_of_segmentation(entry, segmentation)
        numbers = [real_number(value) for value in given] if isinstance(given, list) else []
        if len(numbers) != 4 or None in numbers:
            raise _Unreadable(f".bbox is {quoted(given)}{_not_finite(given)}")
        self._texts += any(isinstance(value, str) for value in given)
        return {"bbox": numbers, **({"area": _measured(segmentation)[1]} if self._by_masks and segmentation else {})}

    def _box_of_segmentation(self, entry: dict[str, Any], segmentation: Any) -> dict[str, Any]:
        if segmentation:
            box, area = _measured(segmentation)
            self._boxes_of["mask"] += 1
            return {"bbox": box, "area": area}
        points, kind = _points(entry)
        if not points:
            raise _Unreadable(f" has {'an empty' if 'bbox' in entry else 'no'} bbox, and no segmentation")
        (left, right), (top, bottom) = ((min(axis), max(axis)) for axis in zip(*points, strict=True))
        self._boxes_of[kind] += 1
        return {"bbox": [left, top, right - left, bottom - top]}


def _id(entry: dict[str, Any], key: str) -> Key:
    found = id_key(entry.get(key))
    if found is None:
        raise _Unreadable(f".{key} is {_shown(entry, key)}, no id")
    return found


def _measured(segmentation: Any) -> tuple[list[float], float]:
    found = box_and_area(segmentation)
    if isinstance(found, str):
        raise _Unreadable(f".segmentation {found}")
    return found


def _points(entry: dict[str, Any]) -> tuple[list[tuple[float, float]], str]:
    """Points of an entry without box and mask: keypoints as pycocotools takes them, or a rotated box's corners."""
    for key, step, kind in (("keypoints", 3, "keypoints"), ("poly", 2, "rotated box")):
        values = entry.get(key)
        if isinstance(values, list) and values and len(values) % step == 0:
            numbers = [number for value in values if (number := real_number(value)) is not None]
            if len(numbers) == len(values):
                return list(zip(numbers[0::step], numbers[1::step], strict=True)), kind
    return [], ""


def _shown(entry: dict[str, Any], key: str) -> str:
    """The value as a message quotes it, NaN by its name."""
    return quoted(entry[key]).replace("nan", "NaN") if key in entry else "missing"


def _not_finite(box: Any) -> str:
    values = [value for value in box if isinstance(value, float)] if isinstance(box, list) else []
    if any(math.isnan(value) for value in values):
        return ", which has NaN"
    return ", which is infinite" if any(map(math.isinf, values)) else ""
