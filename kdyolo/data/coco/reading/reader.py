"""Reader of one COCO annotation file, with a check of every record in it.

The fast way decodes chunks of the file into typed records, each when it is used, and builds nothing that is not asked
for. A file that is laid out in an unusual way is decoded as a whole. Both take regular records only; where anything is
irregular, the file is read record by record with the standard library, by ``careful``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec

from kdyolo.coco_json.files import is_gzipped, read_bytes
from kdyolo.coco_json.records import Key
from kdyolo.data.coco.reading.annotations import Annotations
from kdyolo.data.coco.reading.careful import read_carefully
from kdyolo.data.coco.reading.json_chunks import Chunk, FastPathUnavailable, cut
from kdyolo.data.coco.reading.regularity import (
    FindProblems,
    empty_rows,
    regular_annotations,
    regular_categories,
    regular_images,
)
from kdyolo.data.coco.reading.schema import (
    AnnotationRecord,
    CategoryRecord,
    DetailedAnnotation,
    ImageRecord,
    SkipInvalid,
)
from kdyolo.errors import DatasetError
from kdyolo.utils.plain_files import refuse_endless

_Annotation = TypeVar("_Annotation", bound=AnnotationRecord)


class _CocoFile(msgspec.Struct, Generic[_Annotation]):
    images: list[ImageRecord]
    annotations: list[_Annotation]
    categories: list[CategoryRecord]


class _Head(msgspec.Struct):
    images: list[ImageRecord]
    annotations: Literal[0]  # stands for the list
    categories: list[CategoryRecord]


_decode_head = msgspec.json.Decoder(_Head).decode


def read_annotations(
    path: Path,
    image_folder: Path,
    *,
    skip_invalid: SkipInvalid = False,
    detailed: bool = False,
    problems: FindProblems | None = None,
    category_numbers: dict[Key, int] | None = None,
    by_name: bool = False,
    whole: bool = False,
) -> Annotations:
    """Read a COCO file and check its records.

    Args:
        path: JSON file in COCO's object detection format, UTF-8 with or without a byte-order mark, also gzipped.
        image_folder: Folder of the images of this file; each image must exist, none is opened unless its record has no
            size.
        skip_invalid: Whether invalid images and annotations are counted by reason and left out, instead of raising:
            True for a few of them, "any" for any number.
        detailed: Whether annotations are ``DetailedAnnotation`` records.
        problems: Function that gives the unusable images of a folder with the reasons; without it, an image that
            exists is usable.
        category_numbers: Numbers of categories whose ids are texts; shared by the splits of a data set.
        by_name: Whether categories are numbered by their names, from ``category_numbers``, whatever their ids.
        whole: Whether everything is read now, and all of it checked.

    Raises:
        DatasetError: The file cannot be read or is no COCO file, or a record in it is invalid. Records are counted from
            0, as ``jq '.annotations[17]'`` does.
    """
    record_type = DetailedAnnotation if detailed else AnnotationRecord
    refuse_endless(path, error=DatasetError)
    carefully = partial(
        read_carefully, path, image_folder, record_type, skip_invalid, problems, category_numbers, by_name
    )
    if by_name:
        return carefully()
    if not whole:
        with suppress(FastPathUnavailable, OSError):  # what cannot be read says so below
            return _read_chunks(path, image_folder, record_type, problems)
    try:
        return _read_typed(path, image_folder, record_type, problems)
    except FastPathUnavailable:
        return carefully()


def _read_chunks(
    path: Path, image_folder: Path, record_type: type[AnnotationRecord], problems: FindProblems | None
) -> Annotations:
    head, chunks = cut(path, _decode_head)
    categories = regular_categories(head.categories)
    if empty_rows(head.categories, used=()):  # whether annotations use them is not known yet
        raise FastPathUnavailable
    decode = msgspec.json.Decoder(list[record_type]).decode  # type: ignore[valid-type]
    buffer = bytearray(max(chunk.size for chunk in chunks))
    batches: list[Callable[[], list[AnnotationRecord]]] = [partial(_decode_chunk, c, decode, buffer) for c in chunks]
    unchecked = {record.id: record for record in head.images}
    check = partial(regular_images, head.images, image_folder, problems)
    return Annotations(path, unchecked, categories, batches, checked=False, unchecked=check)


def _decode_chunk(
    chunk: Chunk, decode: Callable[[memoryview], list[AnnotationRecord]], buffer: bytearray
) -> list[AnnotationRecord]:
    try:
        return decode(chunk.read(buffer))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FastPathUnavailable from error


def _read_typed(
    path: Path, image_folder: Path, record_type: type[AnnotationRecord], problems: FindProblems | None
) -> Annotations:
    """The whole file as typed records.

    Raises:
        DatasetError: The file cannot be read.
        FastPathUnavailable: A record is irregular.
    """
    data = read_bytes(path)
    try:
        file = msgspec.json.decode(data, type=_CocoFile[record_type])  # type: ignore[valid-type]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FastPathUnavailable from error
    del data  # half a gigabyte for train2017
    categories = regular_categories(file.categories)
    images = regular_images(file.images, image_folder, problems)
    annotations: list[AnnotationRecord] = regular_annotations(file.annotations, images, categories)
    empty = empty_rows(file.categories, used={record.category_id for record in annotations})
    content = partial(read_bytes, path) if is_gzipped(path) else None
    return Annotations(path, images, categories, [lambda: annotations], checked=True, empty_rows=empty, content=content)
