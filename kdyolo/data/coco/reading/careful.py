"""Careful reading of a COCO annotation file, record by record: what has one meaning is read so, the rest is named.

``coco_json`` decides what a value means, as for an evaluation; here are the questions that only a conversion asks:
whether the image exists, how large it is, and what the annotation file of the result says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from kdyolo.coco_json.files import is_gzipped, read_bytes
from kdyolo.coco_json.records import Key, RegularDocument, regular_document
from kdyolo.coco_json.values import id_key, shown
from kdyolo.data.coco.reading.annotations import Annotations
from kdyolo.data.coco.reading.image_records import find_images
from kdyolo.data.coco.reading.losses import check_losses
from kdyolo.data.coco.reading.regularity import FindProblems, empty_rows
from kdyolo.data.coco.reading.schema import (
    AnnotationRecord,
    CategoryRecord,
    DetailedAnnotation,
    ImageRecord,
    RecordLog,
    SkipInvalid,
    brief,
    not_coco,
)
from kdyolo.data.image_names import has_surrogates
from kdyolo.errors import DatasetError
from kdyolo.utils.text import number_and_noun

_COMPRESSED = {b"PK\x03\x04": "unzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz"}
_LISTS = ("images", "annotations", "categories")
_RENUMBERED = "annotation{ is|s are} numbered anew, from 1, as ids are missing, repeated or texts"
_RESPELT = "annotation id{ is|s are} in another spelling of a whole number: read as such"
_NOT_FINITE = "record{ has|s have} NaN or Infinity in fields that do not count, left out of the new annotation file"


def read_carefully(
    path: Path,
    image_folder: Path,
    record_type: type[AnnotationRecord],
    skip_invalid: SkipInvalid,
    problems: FindProblems | None,
    category_numbers: dict[Key, int] | None,
    by_name: bool = False,
) -> Annotations:
    """Read a COCO file whose records may be written in any way that has one meaning.

    The arguments are those of :func:`~kdyolo.data.coco.reading.reader.read_annotations`.

    Raises:
        DatasetError: The file is no COCO file; a record is invalid, and not to be skipped; or too many would be.
    """
    document = _load_document(path)
    log = RecordLog(path, bool(skip_invalid))
    regular = regular_document(document, log.invalid, category_numbers, by_name)
    categories = _categories(regular, log)
    images, notes = find_images(regular, image_folder, problems, log)
    rows = list(_usable(regular, document["annotations"], images, log))
    if skip_invalid is True:
        check_losses(document["annotations"], log, regular.category_ids, {c.id: c.name for c in categories})
    notes = [*regular.repairs.notes(), *notes, *_number(rows, document["annotations"])]
    changed = _changed_document(document, regular, categories, images, rows)
    if stripped := sum(map(_strip, (entry for name in _LISTS for entry in changed[name]))):
        notes.append(number_and_noun(stripped, _NOT_FINITE))
    skipped = dict(log.skipped["image"]), dict(log.skipped["annotation"])
    as_it_is = not (notes or by_name or any(skipped) or is_gzipped(path))
    annotations = [_record(record_type, entry, document["annotations"][row]) for row, entry in rows]
    return Annotations(
        path,
        images,
        {category.id: category.name for category in categories},
        [lambda: annotations],
        True,
        empty_rows(categories, used={record.category_id for record in annotations}),
        *skipped,
        tuple(notes),
        None if as_it_is else partial(_encode, changed),
    )


def _record(record_type: type[AnnotationRecord], entry: Mapping[str, Any], raw: Mapping[str, Any]) -> AnnotationRecord:
    values: dict[str, Any] = {**entry, "bbox": tuple(entry["bbox"])}
    if issubclass(record_type, DetailedAnnotation):
        return record_type(**values, segmentation=raw.get("segmentation"))
    return record_type(**values)


def _categories(regular: RegularDocument, log: RecordLog) -> list[CategoryRecord]:
    if not regular.categories:
        not_coco(log.path, "no category in 'categories'")
    records = []
    for row, entry in zip(regular.category_rows, regular.categories, strict=True):
        name = entry["name"]
        number = isinstance(name, (int, float)) and not isinstance(name, bool)
        if not (isinstance(name, str) or number) or has_surrogates(str(name)):
            log.invalid("category", row, entry["id"], "name is not text", repr(name))
        if number:
            regular.repairs.counts["category name{ is a number|s are numbers}: read as text"] += 1
        records.append(CategoryRecord(entry["id"], str(name), entry.get("supercategory")))
    return records


def _usable(
    regular: RegularDocument, raw: list[Any], images: Mapping[int, ImageRecord], log: RecordLog
) -> Iterable[tuple[int, dict[str, Any]]]:
    """Places and records of the annotations whose image and category exist."""
    for row, record in zip(regular.annotation_rows, regular.annotations, strict=True):
        written = raw[row]
        if record["image_id"] is None:
            detail = f"no image has id {shown(written['image_id'])}"
            log.invalid("annotation", row, written.get("id"), "unknown image", detail)
        elif record["image_id"] not in images:
            log.invalid("annotation", row, written.get("id"), "its image was skipped")
        elif record["category_id"] is None:
            detail = f"no category has id {shown(written['category_id'])}"
            log.invalid("annotation", row, written.get("id"), "unknown category", detail)
        else:
            yield row, record


def _number(rows: list[tuple[int, dict[str, Any]]], raw: list[Any]) -> Iterable[str]:
    """Give each annotation a whole number as id, its own where all have one that no other has; what was changed."""
    given = [raw[row].get("id") for row, _ in rows]
    keys = [id_key(value) for value in given]
    new = len(set(keys)) < len(keys) or not all(isinstance(key, int) for key in keys)
    for number, (key, (_, record)) in enumerate(zip(keys, rows, strict=True), 1):
        record["id"] = number if new else key
    if new:
        yield number_and_noun(len(rows), _RENUMBERED)
    elif respelt := sum(type(value) is not int for value in given):
        yield number_and_noun(respelt, _RESPELT)


# --- The annotation file of the result --------------------------------------------------------------------------------


def _changed_document(
    document: Mapping[str, Any],
    regular: RegularDocument,
    categories: Iterable[CategoryRecord],
    images: Mapping[int, ImageRecord],
    rows: Iterable[tuple[int, dict[str, Any]]],
) -> dict[str, Any]:
    """The document with regular values in its records, without those left out; everything else in it unchanged.

    Scoring detections with it must find exactly the images that were converted.
    """
    entries = {entry["id"]: entry for entry in regular.images}
    return {
        **document,
        "images": [
            _with(entries[key], {"file_name": image.file_name, "width": image.width, "height": image.height})
            for key, image in images.items()
        ],
        "annotations": [_with(document["annotations"][row], record) for row, record in rows],
        "categories": [
            _with(entry, {"name": category.name})
            for entry, category in zip(regular.categories, categories, strict=True)
        ],
    }


def _with(entry: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A record with these values, each as it is written where that means the same."""
    changes = {key: value for key, value in values.items() if not _is_same(entry.get(key), value)}
    return {**entry, **changes}


def _is_same(written: Any, value: Any) -> bool:
    return type(written) in (int, float, str, list) and bool(written == value)


def _strip(entry: dict[str, Any]) -> bool:
    """Remove the fields that hold NaN or Infinity, which are no JSON; whether there are any."""
    if _is_json(entry):
        return False
    for key in [key for key, value in entry.items() if not _is_json(value)]:
        del entry[key]
    return True


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


# --- The file as a whole ----------------------------------------------------------------------------------------------


def _load_document(path: Path) -> dict[str, Any]:
    """The content of a file: an object that has the three lists."""
    data = read_bytes(path)
    if not data or data.isspace():
        raise DatasetError(f"{path}: expected a COCO JSON file, found an empty one. Download or export it again.")
    for magic, program in _COMPRESSED.items():
        if data.startswith(magic):
            raise DatasetError(f"{path}: expected JSON, found a compressed file. Unpack it first, with {program}.")
    document = _load_json(path, data)
    if not isinstance(document, dict):
        not_coco(path, f"a JSON {_json_type(document)} at the top level")
    for name in _LISTS:
        if name not in document:
            found = brief(", ".join(repr(key) for key in list(document)[:8])) or "nothing"
            not_coco(path, f"no {name!r} (only {found})")
        if not isinstance(document[name], list):
            not_coco(path, f"a JSON {_json_type(document[name])} under {name!r}")
    if not document["images"]:
        not_coco(path, "no image in 'images'")
    return document


def _load_json(path: Path, data: bytes) -> Any:
    """The standard library's reading, which also takes the NaN and Infinity that Python's own ``json`` writes."""
    try:
        text = data.decode("utf-8")
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not JSON: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        _refuse_json(path, text, error)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of nested brackets
        raise DatasetError(f"{path}: not readable as JSON: {error}. Download or export it again.") from error


def _refuse_json(path: Path, text: str, error: json.JSONDecodeError) -> NoReturn:
    cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
    what = "truncated: the file ends too early" if cut else "not JSON"
    raise DatasetError(
        f"{path}: {what}: {error.msg} at line {error.lineno} column {error.colno}. Download or export it again."
    ) from error


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
