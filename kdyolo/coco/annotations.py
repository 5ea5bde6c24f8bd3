"""Read one COCO annotation file and check every record in it.

The fast path decodes slices of the file into typed records, each when it is used, and builds nothing that nobody asks
for. Only when something is irregular is the file read as a whole, at last with the standard library record by record,
to say exactly which one is wrong.
"""

from __future__ import annotations

import codecs
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar

import msgspec

from kdyolo.coco.image_files import LARGEST, all_plain, find_missing, has_surrogates, image_problem, normalise
from kdyolo.coco.slices import NeedsWholeFile, Slice, cut
from kdyolo.errors import DatasetError

_COMPRESSED = {b"\x1f\x8b": "gunzip", b"PK\x03\x04": "unzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz"}

FindProblems = Callable[[Path, Iterable[str]], dict[str, str]]
_LONGEST = 500  # characters of a quotation in a message
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


class DetailedAnnotation(AnnotationRecord, frozen=True, gc=False):
    """The same with what only some conversions ask for; both are checked where they are used."""

    area: Any = None
    segmentation: Any = None


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
        path: the file.
        images: image id → record, in the order of the file; ``file_name`` is relative and has no ``.`` or ``..`` in it.
            Before ``check_images``, the records as they stand in the file.
        categories: category id → name.
        batches: functions that each give some annotations, in the order of the file.
        checked: every annotation belongs to one of ``images`` and to one of ``categories``, and no two have one id.
            Otherwise whoever uses them has to look, and to read the file as a whole when one does not.
        skipped_images: reason → count; empty unless invalid records may be skipped.
        skipped_annotations: the same for annotations.
        unchecked: what ``check_images`` will do, which may be done while annotations are already used.
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
            NeedsWholeFile: some are to be left out.
            DatasetError: one is invalid.
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
        image_folder: where the images of this file lie; each must exist, none is opened.
        skip_invalid: count invalid images and annotations by reason and leave them out, instead of raising.
        detailed: give ``DetailedAnnotation`` records.
        problems: tells which images of a folder cannot be used, and why; otherwise that they exist is enough.
        areas: an ``area`` that is no number is invalid; needs ``detailed``.
        whole: read everything now, and check all of it.

    Raises:
        DatasetError: the file cannot be read or is no COCO file, or a record in it is invalid. Records are counted from
            0, as ``jq '.annotations[17]'`` does.
    """
    record_type = DetailedAnnotation if detailed else AnnotationRecord
    log = _Log(path, skip_invalid)
    if not whole:
        with suppress(NeedsWholeFile, OSError):  # what cannot be read says so below
            return _read_slices(path, image_folder, record_type, problems, log)
    data = _read_bytes(path)
    try:
        file = msgspec.json.decode(data, type=_CocoFile[record_type])  # type: ignore[valid-type]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        file = _decode_by_record(path, data, record_type, log)
    del data  # half a gigabyte for train2017
    categories = _check_categories(file.categories, log)
    images = _usable_images(file.images, image_folder, problems, log)
    annotations = list(_valid_annotations(file.annotations, images, categories, areas, log))
    skipped = dict(log.skipped["image"]), dict(log.skipped["annotation"])
    return Annotations(path, images, categories, [lambda: annotations], True, *skipped)


def _read_slices(
    path: Path, image_folder: Path, record_type: type[AnnotationRecord], problems: FindProblems | None, log: _Log
) -> Annotations:
    head, slices = cut(path, _decode_head)
    categories = _check_categories(head.categories, log)

    def check() -> dict[int, ImageRecord]:
        images = _usable_images(head.images, image_folder, problems, log)
        if log.skipped["image"]:
            raise NeedsWholeFile
        return images

    decode = msgspec.json.Decoder(list[record_type]).decode  # type: ignore[valid-type]
    buffer = bytearray(max(of_file.size for of_file in slices))
    batches: list[Callable[[], list[AnnotationRecord]]] = [partial(_decode_slice, s, decode, buffer) for s in slices]
    unchecked = {record.id: record for record in head.images}
    return Annotations(path, unchecked, categories, batches, False, {}, {}, check)


def _decode_slice(
    of_file: Slice, decode: Callable[[memoryview], list[AnnotationRecord]], buffer: bytearray
) -> list[AnnotationRecord]:
    try:
        return decode(of_file.read(buffer))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NeedsWholeFile from error


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
        name = f"{kind} {index} (no id)" if record_id is None else f"{kind} {index} (id {_brief(repr(record_id))})"
        advice = "Correct the record"
        if kind != "category":
            advice += ", or leave invalid records out with --skip-invalid (skip_invalid=True)"
        raise DatasetError(f"{self.path}: {name}: {_brief(reason)}{detail and ': '}{_brief(detail)}. {advice}.")


def _brief(text: str) -> str:
    """One line of a bearable length, which any terminal can print."""
    text = " ".join(text.split()).encode(errors="backslashreplace").decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


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


# --- The slow path: which record is it? -------------------------------------------------------------------------------


def _decode_by_record(path: Path, data: bytes, record_type: type[_Annotation], log: _Log) -> _CocoFile[_Annotation]:
    """The same as the typed decoder, naming what it refused."""
    document = _load_json(path, data)
    if not isinstance(document, dict):
        _not_coco(path, f"a JSON {_json_type(document)} at the top level")
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
        found = _brief(", ".join(repr(name) for name in list(document)[:8])) or "nothing"
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
        except (msgspec.ValidationError, UnicodeError) as error:  # half of a surrogate pair is no text
            log.invalid(kind, index, entry.get("id") if isinstance(entry, dict) else None, str(error))
    return records


# --- Records that are well formed, but wrong --------------------------------------------------------------------------


def _check_categories(records: list[CategoryRecord], log: _Log) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, record in enumerate(records):
        if record.id in names:
            log.invalid("category", index, record.id, "duplicate category id", f"{names[record.id]!r} has it too")
        if has_surrogates(record.name):
            log.invalid("category", index, record.id, "name is not text", repr(record.name))
        if record.name in names.values():
            log.invalid("category", index, record.id, "duplicate category name", repr(record.name))
        names[record.id] = record.name
    if not names:
        _not_coco(log.path, "no category in 'categories'")
    return names


def _usable_images(
    records: list[ImageRecord], folder: Path, problems: FindProblems | None, log: _Log
) -> dict[int, ImageRecord]:
    """The valid ones whose file exists and has no problem, by their ids; missing files are reported together."""
    images = _valid_images(records, folder, log)
    missing = find_missing(folder, [record.file_name for record in images.values()])
    _tell_missing(missing, images, records, folder, log)
    if missing:
        images = {key: record for key, record in images.items() if record.file_name not in missing}
    found = problems(folder, (record.file_name for record in images.values())) if problems else {}
    if found:
        index_of = _indices(images, records, folder)
        for key in [key for key, record in images.items() if record.file_name in found]:
            name = images.pop(key).file_name
            log.invalid("image", index_of[key], key, "image cannot be used", f"{folder / name}: {found[name]}")
    if not images:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in log.skipped["image"].items())
        raise DatasetError(
            f"{log.path}: no valid image is left: {reasons}. Correct the file or the image folder {folder}."
        )
    return images


def _valid_images(records: list[ImageRecord], folder: Path, log: _Log) -> dict[int, ImageRecord]:
    """Those with an id, a file name and a size that can be used, by their ids; their file names are normalised."""
    if not records and not log.skipped["image"]:
        _not_coco(log.path, "no image in 'images'")
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


def _tell_missing(
    missing: set[str], images: dict[int, ImageRecord], records: list[ImageRecord], folder: Path, log: _Log
) -> None:
    if not missing:
        return
    index_of = _indices(images, records, folder)
    lost = {key: record.file_name for key, record in images.items() if record.file_name in missing}
    if not log.skip_invalid:
        first = ", ".join(f"{name} (image {index_of[key]}, id {key})" for key, name in list(lost.items())[:3])
        raise DatasetError(
            f"{log.path}: {len(lost)} of {len(images)} image files are missing in {folder}: {first}"
            f"{', …' if len(lost) > 3 else ''}. Unpack all of the images there, or leave those without a file out "
            "with --skip-invalid (skip_invalid=True)."
        )
    for key in lost:
        log.invalid("image", index_of[key], key, "image file is missing")


def _indices(images: dict[int, ImageRecord], records: list[ImageRecord], folder: Path) -> dict[int, int]:
    """Image id → index in the file, for messages; of several such records, that of the first."""
    names = {key: record.file_name for key, record in images.items()}
    pairs = reversed(list(enumerate(records)))
    return {record.id: i for i, record in pairs if names.get(record.id) == normalise(record.file_name, folder)}


def _valid_annotations(
    records: list[_Annotation], images: dict[int, ImageRecord], categories: dict[int, str], areas: bool, log: _Log
) -> Iterator[_Annotation]:
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


def without_invalid(data: Annotations, image_folder: Path) -> bytes:
    """The annotation file without the records that were left out, everything else in it as it was.

    Whoever scores detections with it must find exactly the images that were converted.

    Args:
        data: What was read from the file, with some records skipped.
        image_folder: As it was read with.
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


def area_problem(area: object) -> bool:
    """Whether an annotation's ``area`` is neither missing nor a number that can be compared."""
    return area is not None and (type(area) not in (int, float) or area != area)  # the last is true of NaN alone
