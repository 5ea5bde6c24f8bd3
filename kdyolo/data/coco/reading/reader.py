"""Reader of one COCO annotation file, with a check of every record in it.

The fast way decodes chunks of the file into typed records, each when it is used, and builds nothing that is not asked
for. Only where something is irregular is the file read as a whole, and at last record by record with the standard
library, to say exactly which record is wrong.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec

from kdyolo.data.coco.reading.json_chunks import Chunk, FastPathUnavailable, cut
from kdyolo.data.coco.reading.schema import (
    AnnotationRecord,
    CategoryRecord,
    DetailedAnnotation,
    ImageRecord,
    Kind,
    RecordLog,
    brief,
    not_coco,
)
from kdyolo.data.coco.reading.validation import FindProblems, check_categories, usable_images, valid_annotations
from kdyolo.data.image_names import normalise
from kdyolo.errors import DatasetError
from kdyolo.utils.plain_files import refuse_endless

_COMPRESSED = {b"\x1f\x8b": "gunzip", b"PK\x03\x04": "unzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz"}

_Annotation = TypeVar("_Annotation", bound=AnnotationRecord)
_Record = TypeVar("_Record", bound=ImageRecord | AnnotationRecord | CategoryRecord)


class _CocoFile(msgspec.Struct, Generic[_Annotation]):
    images: list[ImageRecord]
    annotations: list[_Annotation]
    categories: list[CategoryRecord]


class _Head(msgspec.Struct):
    images: list[ImageRecord]
    annotations: Literal[0]  # stands for the list
    categories: list[CategoryRecord]


_decode_head = msgspec.json.Decoder(_Head).decode


@dataclass
class Annotations:
    """The valid records of one file, and what was left out of it.

    Attributes:
        path: The annotation file.
        images: Image id → record, in the order of the file; ``file_name`` is relative and has no ``.`` or ``..`` in it.
            Before ``check_images``, the records as they stand in the file.
        categories: Category id → name.
        batches: Functions that each give some annotations, in the order of the file.
        checked: Whether it is known that every annotation belongs to one of ``images`` and to one of ``categories``,
            and that no two have one id. Otherwise the caller checks that while using them, and reads the file as a
            whole where it does not hold.
        skipped_images: Reason → number of images left out; empty unless invalid records may be skipped.
        skipped_annotations: Reason → number of annotations left out; empty unless invalid records may be skipped.
        unchecked: The check that ``check_images`` makes, possibly while annotations are already in use.
    """

    path: Path
    images: dict[int, ImageRecord]
    categories: dict[int, str]
    batches: list[Callable[[], list[AnnotationRecord]]]
    checked: bool
    skipped_images: dict[str, int]
    skipped_annotations: dict[str, int]
    unchecked: Callable[[], dict[int, ImageRecord]] | None = None

    def check_images(self) -> None:
        """Check the images, if that has not been done yet.

        Raises:
            FastPathUnavailable: Some images are to be left out.
            DatasetError: An image is invalid.
        """
        if self.unchecked:
            self.images, self.unchecked = self.unchecked(), None


def read_annotations(
    path: Path,
    image_folder: Path,
    *,
    skip_invalid: bool = False,
    detailed: bool = False,
    areas: bool = False,
    problems: FindProblems | None = None,
    whole: bool = False,
) -> Annotations:
    """Read a COCO file and check its records.

    Args:
        path: JSON file in COCO's object detection format, UTF-8 with or without a byte-order mark.
        image_folder: Folder of the images of this file; each image must exist, none is opened.
        skip_invalid: Whether invalid images and annotations are counted by reason and left out, instead of raising.
        detailed: Whether annotations are ``DetailedAnnotation`` records.
        areas: Whether an ``area`` that is no number makes an annotation invalid; needs ``detailed``.
        problems: Function that gives the unusable images of a folder with the reasons; without it, an image that
            exists is usable.
        whole: Whether everything is read now, and all of it checked.

    Raises:
        DatasetError: The file cannot be read or is no COCO file, or a record in it is invalid. Records are counted from
            0, as ``jq '.annotations[17]'`` does.
    """
    record_type = DetailedAnnotation if detailed else AnnotationRecord
    log = RecordLog(path, skip_invalid)
    refuse_endless(path, error=DatasetError)
    if not whole:
        with suppress(FastPathUnavailable, OSError):  # what cannot be read says so below
            return _read_chunks(path, image_folder, record_type, problems, log)
    data = _read_bytes(path)
    try:
        file = msgspec.json.decode(data, type=_CocoFile[record_type])  # type: ignore[valid-type]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        file = _decode_by_record(path, data, record_type, log)
    del data  # half a gigabyte for train2017
    categories = check_categories(file.categories, log)
    images = usable_images(file.images, image_folder, problems, log)
    annotations = list(valid_annotations(file.annotations, images, categories, areas, log))
    skipped = dict(log.skipped["image"]), dict(log.skipped["annotation"])
    return Annotations(path, images, categories, [lambda: annotations], True, *skipped)


def _read_chunks(
    path: Path, image_folder: Path, record_type: type[AnnotationRecord], problems: FindProblems | None, log: RecordLog
) -> Annotations:
    head, chunks = cut(path, _decode_head)
    categories = check_categories(head.categories, log)

    def check() -> dict[int, ImageRecord]:
        images = usable_images(head.images, image_folder, problems, log)
        if log.skipped["image"]:
            raise FastPathUnavailable
        return images

    decode = msgspec.json.Decoder(list[record_type]).decode  # type: ignore[valid-type]
    buffer = bytearray(max(chunk.size for chunk in chunks))
    batches: list[Callable[[], list[AnnotationRecord]]] = [partial(_decode_chunk, c, decode, buffer) for c in chunks]
    unchecked = {record.id: record for record in head.images}
    return Annotations(path, unchecked, categories, batches, False, {}, {}, check)


def _decode_chunk(
    chunk: Chunk, decode: Callable[[memoryview], list[AnnotationRecord]], buffer: bytearray
) -> list[AnnotationRecord]:
    try:
        return decode(chunk.read(buffer))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FastPathUnavailable from error


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}. Expected a COCO JSON file.") from error
    if not data or data.isspace():
        raise DatasetError(f"{path}: expected a COCO JSON file, found an empty one. Download or export it again.")
    for magic, program in _COMPRESSED.items():
        if data.startswith(magic):
            raise DatasetError(f"{path}: expected JSON, found a compressed file. Unpack it first, with {program}.")
    return data.removeprefix(codecs.BOM_UTF8)


# --- The careful way: which record is it? -----------------------------------------------------------------------------


def _decode_by_record(
    path: Path, data: bytes, record_type: type[_Annotation], log: RecordLog
) -> _CocoFile[_Annotation]:
    """The same as the typed decoder, naming what it refused."""
    document = _load_json(path, data)
    if not isinstance(document, dict):
        not_coco(path, f"a JSON {_json_type(document)} at the top level")
    images, annotations, categories = (_entries(path, document, key) for key in ("images", "annotations", "categories"))
    return _CocoFile(
        _convert_each(images, ImageRecord, "image", log),
        _convert_each(annotations, record_type, "annotation", log),
        _convert_each(categories, CategoryRecord, "category", log),
    )


def _load_json(path: Path, data: bytes) -> Any:
    """The standard library's reading, which also takes the NaN and Infinity that Python's own ``json`` writes."""
    try:
        text = data.decode("utf-8")
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not JSON: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        what = "truncated: the file ends too early" if cut else "not JSON"
        raise DatasetError(
            f"{path}: {what}: {error.msg} at line {error.lineno} column {error.colno}. Download or export it again."
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of nested brackets
        raise DatasetError(f"{path}: not readable as JSON: {error}. Download or export it again.") from error


def _entries(path: Path, document: dict[str, Any], key: str) -> list[Any]:
    if key not in document:
        found = brief(", ".join(repr(name) for name in list(document)[:8])) or "nothing"
        not_coco(path, f"no {key!r} (only {found})")
    value = document[key]
    if not isinstance(value, list):
        not_coco(path, f"a JSON {_json_type(value)} under {key!r}")
    return value


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _convert_each(entries: list[Any], record_type: type[_Record], kind: Kind, log: RecordLog) -> list[_Record]:
    records = []
    for index, entry in enumerate(entries):
        try:
            records.append(msgspec.convert(entry, record_type))
        except (msgspec.ValidationError, UnicodeError) as error:  # half of a surrogate pair is no text
            log.invalid(kind, index, entry.get("id") if isinstance(entry, dict) else None, str(error))
    return records


def without_invalid(data: Annotations, image_folder: Path) -> bytes:
    """The annotation file without the records that were left out, everything else in it unchanged.

    Scoring detections with it must find exactly the images that were converted.

    Args:
        data: The records of the file, some of them skipped.
        image_folder: Folder of the images that the file was read with.
    """
    document = _load_json(data.path, _read_bytes(data.path))
    images = dict(data.images)
    annotations = {record.id: record for batch in data.batches for record in batch()}

    def is_image(entry: Any) -> bool:
        record = images.get(entry["id"]) if isinstance(entry, dict) and type(entry.get("id")) is int else None
        if record is None or normalise(str(entry.get("file_name")), image_folder) != record.file_name:
            return False
        return images.pop(record.id) is record  # the first of its id

    def is_annotation(entry: Any) -> bool:
        record = annotations.get(entry["id"]) if isinstance(entry, dict) and type(entry.get("id")) is int else None
        if record is None or any(entry.get(key) != getattr(record, key) for key in ("image_id", "category_id")):
            return False
        if not isinstance(entry.get("bbox"), list) or tuple(entry["bbox"]) != record.bbox:
            return False
        return annotations.pop(record.id) is record

    document["images"] = [entry for entry in document["images"] if is_image(entry)]
    document["annotations"] = [entry for entry in document["annotations"] if is_annotation(entry)]
    return json.dumps(document).encode()
