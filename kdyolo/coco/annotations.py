"""Read one COCO annotation file and check every record in it.

The fast path decodes the bytes once into typed records and never builds the segmentations. Only when that is refused is
the file read a second time with the standard library, record by record, to say exactly which one is wrong.
"""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, NoReturn, TypeVar

import msgspec

from kdyolo.errors import DatasetError

# Ultralytics leaves files with any other suffix out of a list without a word (its IMG_FORMATS; a test compares them).
IMAGE_SUFFIXES = frozenset(
    {"avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"}
)

Kind = Literal["image", "annotation", "category"]


class ImageRecord(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``images``; width and height in pixels."""

    id: int
    file_name: str
    width: int
    height: int


class AnnotationRecord(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``annotations``; ``bbox`` is left, top, width, height in pixels."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int | bool = 0


class CategoryRecord(msgspec.Struct, frozen=True, gc=False):
    """One entry of ``categories``."""

    id: int
    name: str


class _CocoFile(msgspec.Struct):
    images: list[ImageRecord]
    annotations: list[AnnotationRecord]
    categories: list[CategoryRecord]


_DECODER = msgspec.json.Decoder(_CocoFile)
_Record = TypeVar("_Record", ImageRecord, AnnotationRecord, CategoryRecord)


@dataclass(frozen=True)
class Annotations:
    """The valid records of one file, and what was left out of it.

    Attributes:
        path: the file.
        images: image id → record, in the order of the file; ``file_name`` is relative and has no ``.`` or ``..`` in it.
        annotations: only those that belong to one of ``images`` and to one of ``categories``.
        categories: category id → name.
        total: number of entries that ``annotations`` has in the file.
        skipped_images: reason → count; empty unless invalid records may be skipped.
        skipped_annotations: the same for annotations.
    """

    path: Path
    images: dict[int, ImageRecord]
    annotations: list[AnnotationRecord]
    categories: dict[int, str]
    total: int
    skipped_images: dict[str, int]
    skipped_annotations: dict[str, int]


def read_annotations(path: Path, image_folder: Path, *, skip_invalid: bool = False) -> Annotations:
    """Read a COCO file and check each of its records.

    Args:
        path: JSON file in COCO's object detection format, UTF-8 with or without a byte-order mark.
        image_folder: where the images of this file lie; each must exist, none is opened.
        skip_invalid: count invalid images and annotations by reason and leave them out, instead of raising.

    Raises:
        DatasetError: the file cannot be read or is no COCO file, or a record in it is invalid. Records are counted from
            0, as ``jq '.annotations[17]'`` does.
    """
    log = _Log(path, skip_invalid)
    data = _read_bytes(path)
    try:
        file = _DECODER.decode(data)
        total = len(file.annotations)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        file, total = _decode_by_record(path, data, log)
    del data  # half a gigabyte for train2017
    categories = _check_categories(file.categories, log)
    images = _present_images(_check_images(file.images, log), image_folder, log)
    annotations = list(_valid_annotations(file.annotations, images, categories, log))
    return Annotations(
        path, images, annotations, categories, total, dict(log.skipped["image"]), dict(log.skipped["annotation"])
    )


@dataclass
class _Log:
    """Decides what an invalid record does: it raises, or it is counted under its reason and left out."""

    path: Path
    skip_invalid: bool
    skipped: dict[Kind, Counter[str]] = field(default_factory=lambda: {"image": Counter(), "annotation": Counter()})
    skipped_image_ids: set[int] = field(default_factory=set)

    def invalid(self, kind: Kind, index: int, record_id: object, reason: str, detail: str = "") -> None:
        if self.skip_invalid and kind != "category":
            self.skipped[kind][reason] += 1
            if kind == "image" and isinstance(record_id, int):
                self.skipped_image_ids.add(record_id)
            return
        name = f"{kind} {index} (no id)" if record_id is None else f"{kind} {index} (id {record_id!r})"
        advice = "Correct the record"
        if kind != "category":
            advice += ", or leave invalid records out with --skip-invalid (skip_invalid=True)"
        raise DatasetError(f"{self.path}: {name}: {reason}{detail and ': '}{detail}. {advice}.")


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}. Expected a COCO JSON file.") from error
    if not data or data.isspace():
        raise DatasetError(f"{path}: expected a COCO JSON file, found an empty one. Download or export it again.")
    return data.removeprefix(codecs.BOM_UTF8)


# --- The slow path: which record is it? -------------------------------------------------------------------------------


def _decode_by_record(path: Path, data: bytes, log: _Log) -> tuple[_CocoFile, int]:
    """The same as the fast path, naming what it refused; also the number of annotations before any was skipped."""
    document = _load_json(path, data)
    if not isinstance(document, dict):
        _not_coco(path, f"a JSON {_json_type(document)} at the top level")
    images, annotations, categories = (_entries(path, document, key) for key in ("images", "annotations", "categories"))
    file = _CocoFile(
        _convert_each(images, ImageRecord, "image", log),
        _convert_each(annotations, AnnotationRecord, "annotation", log),
        _convert_each(categories, CategoryRecord, "category", log),
    )
    return file, len(annotations)


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
        found = ", ".join(repr(name) for name in list(document)[:8]) or "nothing"
        _not_coco(path, f"no {key!r} (only {found})")
    value = document[key]
    if not isinstance(value, list):
        _not_coco(path, f"a JSON {_json_type(value)} under {key!r}")
    return value


def _not_coco(path: Path, found: str) -> NoReturn:
    raise DatasetError(
        f"{path}: expected an object with the lists 'images', 'annotations' and 'categories', found {found}. "
        "Give a file in COCO's object detection format, such as instances_train2017.json."
    )


def _json_type(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _convert_each(entries: list[Any], record_type: type[_Record], kind: Kind, log: _Log) -> list[_Record]:
    records = []
    for index, entry in enumerate(entries):
        try:
            records.append(msgspec.convert(entry, record_type))
        except msgspec.ValidationError as error:
            log.invalid(kind, index, entry.get("id") if isinstance(entry, dict) else None, str(error))
    return records


# --- Records that are well formed, but wrong --------------------------------------------------------------------------


def _check_categories(records: list[CategoryRecord], log: _Log) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, record in enumerate(records):
        if record.id in names:
            log.invalid("category", index, record.id, "duplicate category id", f"{names[record.id]!r} has it too")
        if record.name in names.values():
            log.invalid("category", index, record.id, "duplicate category name", repr(record.name))
        names[record.id] = record.name
    if not names:
        _not_coco(log.path, "no category in 'categories'")
    return names


def _check_images(records: list[ImageRecord], log: _Log) -> dict[int, tuple[int, ImageRecord]]:
    """Image id → (index in the file, record with a normalised file name), for the valid ones."""
    if not records and not log.skipped["image"]:
        _not_coco(log.path, "no image in 'images'")
    valid: dict[int, tuple[int, ImageRecord]] = {}
    owner_of: dict[str, str] = {}  # file name without suffix, which is the label's name → file name
    for index, record in enumerate(records):
        name = str(PurePosixPath(record.file_name))
        stem = name.rpartition(".")[0]
        reason, detail = _image_problem(record) or ("", "")
        if record.id in valid:
            # The id stays with the first record, and so do its annotations.
            log.invalid(
                "image", index, record.id, "duplicate image id", f"{valid[record.id][1].file_name!r} has it too"
            )
        elif reason:
            log.invalid("image", index, record.id, reason, detail)
        elif owner_of.get(stem) == name:
            log.invalid("image", index, record.id, "two images of one name", repr(name))
        elif stem in owner_of:
            both = f"{owner_of[stem]!r} and {name!r} would both own '{stem}.txt'"
            log.invalid("image", index, record.id, "two images share a label file", both)
        else:
            owner_of[stem] = name
            valid[record.id] = (
                index,
                record if name == record.file_name else msgspec.structs.replace(record, file_name=name),
            )
    return valid


def _image_problem(record: ImageRecord) -> tuple[str, str] | None:
    """What is wrong with this image on its own: (reason, detail)."""
    name = record.file_name
    if record.width <= 0 or record.height <= 0:
        return "width and height must be positive", f"found {record.width}×{record.height}"
    windows = PureWindowsPath(name)  # knows / and \ and drives, so that no system is left out
    if windows.anchor or ".." in windows.parts:
        return "file_name leaves the image folder", repr(name)
    if name.rpartition(".")[2].lower() not in IMAGE_SUFFIXES or not PurePosixPath(name).suffix:
        return (
            "file_name has no suffix that Ultralytics reads",
            f"{name!r} is none of {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    if name.splitlines() != [name] or "\0" in name or _surrogates(name):
        return "file_name does not fit on a line of UTF-8 text", repr(name)
    return None


def _surrogates(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _present_images(indexed: dict[int, tuple[int, ImageRecord]], folder: Path, log: _Log) -> dict[int, ImageRecord]:
    """Those whose file exists, as image id → record; missing files are reported together."""
    missing = {key: pair for key, pair in indexed.items() if not (folder / pair[1].file_name).is_file()}
    if missing and not log.skip_invalid:
        first = ", ".join(f"{record.file_name} (image {i}, id {key})" for key, (i, record) in list(missing.items())[:3])
        raise DatasetError(
            f"{log.path}: {len(missing)} of {len(indexed)} image files are missing in {folder}: {first}"
            f"{', …' if len(missing) > 3 else ''}. Unpack all of the images there, or leave those without a file out "
            "with --skip-invalid (skip_invalid=True)."
        )
    for key, (index, _) in missing.items():
        log.invalid("image", index, key, "image file is missing")
    present = {key: record for key, (_, record) in indexed.items() if key not in missing}
    if not present:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in log.skipped["image"].items())
        raise DatasetError(
            f"{log.path}: no valid image is left: {reasons}. Correct the file or the image folder {folder}."
        )
    return present


def _valid_annotations(
    records: list[AnnotationRecord], images: dict[int, ImageRecord], categories: dict[int, str], log: _Log
) -> Iterator[AnnotationRecord]:
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
        else:
            seen.add(record.id)
            yield record
