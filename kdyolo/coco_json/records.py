"""Records of COCO's annotation files in one regular form, with what was read otherwise than it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdyolo.coco_json.segmentations import box_and_area
from kdyolo.coco_json.values import flag, id_key, real_number
from kdyolo.utils.text import quoted

Key = int | str
_IDENTITY = ("file_name", "name", "width", "height")  # two records that agree in these are one
Invalid = Callable[[str, int, Any, str, str], None]  # kind of record, index, id, reason, detail


@dataclass
class Repairs:
    """What was read otherwise than it is written.

    Attributes:
        counts: What, in words → number of records.
    """

    counts: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """A sentence for each kind."""
        return [f"{count:,} {what}" for what, count in self.counts.items()]


@dataclass
class RegularDocument:
    """A COCO annotation file in one form.

    Attributes:
        images: Records with a whole number as ``id``.
        annotations: Records with whole numbers as ``image_id`` and ``category_id``, a box of four numbers, ``area`` and
            ``iscrowd``.
        categories: Records with a whole number as ``id``.
        image_ids: Id in the file → ``id`` in use.
        category_ids: Id in the file → ``id`` in use.
        repairs: What was read otherwise than it is written.
    """

    images: list[dict[str, Any]]
    annotations: list[Any]
    categories: list[dict[str, Any]]
    image_ids: dict[Key, int]
    category_ids: dict[Key, int]
    repairs: Repairs


def regular_document(document: Mapping[str, list[Any]], invalid: Invalid) -> RegularDocument:
    """Bring a document into one form.

    Args:
        document: Content of the file, with lists of images, annotations and categories.
        invalid: Called for each record that has no meaning, which is then left out.
    """
    repairs = Repairs()
    images, image_ids = _numbered(document["images"], "image", repairs, invalid)
    categories, category_ids = _numbered(document["categories"], "category", repairs, invalid)
    annotations = []
    for index, record in enumerate(document["annotations"]):
        try:
            annotations.append(_annotation(record, image_ids, category_ids, repairs))
        except _Invalid as reason:
            invalid("annotation", index, record.get("id") if isinstance(record, dict) else None, *reason.args)
    return RegularDocument(images, annotations, categories, image_ids, category_ids, repairs)


class _Invalid(Exception):
    """A record without meaning: reason and detail."""


def _numbered(
    records: list[Any], kind: str, repairs: Repairs, invalid: Invalid
) -> tuple[list[dict[str, Any]], dict[Key, int]]:
    """Records of images or categories with whole numbers as ids; identical ones once."""
    found: dict[Key, dict[str, Any]] = {}
    for index, record in enumerate(records):
        key = id_key(record.get("id")) if isinstance(record, dict) else None
        if key is None:
            given = record.get("id") if isinstance(record, dict) else record
            invalid(kind, index, given, "id", f"id is {quoted(given)}, no id")
        elif key in found and all(found[key].get(name) == record.get(name) for name in _IDENTITY):
            repairs.counts[f"{kind} records stand there twice, identically: read once"] += 1
        elif key in found:
            invalid(kind, index, key, "repeated id", f"two records have the {kind} id {quoted(key)}")
        else:
            found[key] = record
    texts = any(isinstance(key, str) for key in found)
    ids = {key: number if texts else int(key) for number, key in enumerate(found, 1)}
    if texts:
        repairs.counts[f"{kind} ids are texts: numbered in the order of the file"] += len(found)
    named = kind == "category"
    return [{**({"name": str(key)} if named else {}), **record, "id": ids[key]} for key, record in found.items()], ids


def _annotation(
    record: Any, image_ids: Mapping[Key, int], category_ids: Mapping[Key, int], repairs: Repairs
) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise _Invalid("record", f"is {quoted(record)}, no object")
    ids = {key: id_key(record.get(key)) for key in ("image_id", "category_id")}
    for key, known in (("image_id", image_ids), ("category_id", category_ids)):
        if ids[key] is None or (isinstance(ids[key], str) and ids[key] not in known):
            raise _Invalid(key, f"{key} is {quoted(record.get(key))}, no id")
    crowd = flag(record.get("iscrowd"))
    if crowd is None:
        raise _Invalid("iscrowd", f"iscrowd is {quoted(record['iscrowd'])}, neither 0 nor 1")
    if type(record.get("iscrowd")) not in (int, bool):
        repairs.counts["annotations have no iscrowd of 0 or 1: read as such"] += 1
    box = _box(record, repairs)
    area = real_number(record.get("area"))
    if area is None:
        measured = box_and_area(record["segmentation"]) if record.get("segmentation") else ""
        area = box[2] * box[3] if isinstance(measured, str) else measured[1]
        repairs.counts["annotations have no area: that of their outline or box counts"] += 1
    return {
        "id": record.get("id"),
        "image_id": image_ids.get(ids["image_id"] or 0),
        "category_id": category_ids.get(ids["category_id"] or 0),
        "bbox": box,
        "area": area,
        "iscrowd": crowd,
    }


def _box(record: dict[str, Any], repairs: Repairs) -> list[float]:
    given = record.get("bbox")
    if given is None or given == []:
        measured = box_and_area(record.get("segmentation"))
        if isinstance(measured, str):
            raise _Invalid("bbox", f"no bbox, and segmentation {measured}")
        repairs.counts["annotations have no bbox: that of their outline counts"] += 1
        return measured[0]
    numbers = [number for value in given if (number := real_number(value)) is not None] if type(given) is list else []
    if len(numbers) != 4 or len(given) != 4:
        raise _Invalid("bbox", f"bbox is {quoted(given).replace('nan', 'NaN')}, not four numbers")
    return numbers
