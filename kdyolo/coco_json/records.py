"""Records of COCO's annotation files in one regular form, with what was read otherwise than it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdyolo.coco_json.segmentations import box_and_area
from kdyolo.coco_json.values import flag, id_key, real_number, shown
from kdyolo.utils.text import number_and_noun, quoted

Key = int | str
_IDENTITY = ("file_name", "name", "width", "height")  # two records that agree in these are one
Kind = Literal["image", "annotation", "category"]
Invalid = Callable[[Kind, int, Any, str, str], None]  # kind of record, index, id, reason in general, the values


@dataclass
class Repairs:
    """What was read otherwise than it is written.

    Attributes:
        counts: What, in words → number of records.
    """

    counts: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        """A sentence for each kind."""
        return [number_and_noun(count, what) for what, count in self.counts.items()]


@dataclass
class RegularDocument:
    """A COCO annotation file in one form.

    Attributes:
        images: Records with a whole number as ``id``.
        image_rows: Places of these records in the file, from 0.
        annotations: Records with whole numbers as ``image_id`` and ``category_id`` (None where the file has no such
            image or category), a box of four numbers, ``area`` and ``iscrowd``; ``id`` is as it is written.
        annotation_rows: Places of these records in the file, from 0.
        categories: Records with a whole number as ``id``, and a name.
        category_rows: Places of these records in the file, from 0.
        image_ids: Id in the file → ``id`` in use.
        category_ids: Id in the file → ``id`` in use.
        repairs: What was read otherwise than it is written.
    """

    images: list[dict[str, Any]]
    image_rows: list[int]
    annotations: list[Any]
    annotation_rows: list[int]
    categories: list[dict[str, Any]]
    category_rows: list[int]
    image_ids: dict[Key, int]
    category_ids: dict[Key, int]
    repairs: Repairs


def regular_document(
    document: Mapping[str, list[Any]],
    invalid: Invalid,
    category_numbers: dict[Key, int] | None = None,
    by_name: bool = False,
) -> RegularDocument:
    """Bring a document into one form.

    Args:
        document: Content of the file, with lists of images, annotations and categories.
        invalid: Called for each record that has no meaning, which is then left out.
        category_numbers: Numbers of categories whose ids are texts, to which new ones are added: shared by files that
            belong together. Without it, they are numbered from 1 in the order of the file.
        by_name: Whether categories are numbered by their names, whatever their ids.
    """
    repairs = Repairs()
    images, image_rows, image_ids = _numbered(document["images"], "image", {}, repairs, invalid)
    numbers = {} if category_numbers is None else category_numbers
    categories, category_rows, category_ids = _numbered(document["categories"], "category", numbers, repairs, invalid)
    if by_name:
        categories, category_ids = _by_name(categories, category_ids, numbers)
    annotations, rows = [], []
    for index, record in enumerate(document["annotations"]):
        try:
            annotations.append(_annotation(record, image_ids, category_ids, repairs))
            rows.append(index)
        except _Invalid as reason:
            invalid("annotation", index, record.get("id") if isinstance(record, dict) else None, *reason.args)
    return RegularDocument(
        images, image_rows, annotations, rows, categories, category_rows, image_ids, category_ids, repairs
    )


class _Invalid(Exception):
    """A record without meaning: reason and detail."""


def _numbered(
    records: list[Any], kind: Kind, numbers: dict[Key, int], repairs: Repairs, invalid: Invalid
) -> tuple[list[dict[str, Any]], list[int], dict[Key, int]]:
    """Records of images or categories with whole numbers as ids, identical ones once; their places; ids in use."""
    found: dict[Key, dict[str, Any]] = {}
    rows = []
    for index, record in enumerate(records):
        key = id_key(record.get("id")) if isinstance(record, dict) else None
        if not isinstance(record, dict):
            invalid(kind, index, None, "is no object", quoted(record))
        elif key is None:
            invalid(kind, index, record.get("id"), "has no id", "" if "id" not in record else shown(record["id"]))
        elif key in found and all(found[key].get(name) == record.get(name) for name in _IDENTITY):
            repairs.counts[f"{kind} record{{ stands|s stand}} there twice, identically: read once"] += 1
        elif key in found:
            names = (found[key].get("file_name", found[key].get("name")), record.get("file_name", record.get("name")))
            invalid(kind, index, key, f"repeated {kind} id", f"{shown(names[0])} has it too, this is {shown(names[1])}")
        else:
            found[key] = record
            rows.append(index)
    texts = any(isinstance(key, str) for key in found)
    respelt = sum(type(record["id"]) is not int for record in found.values())
    if texts:
        repairs.counts[f"{kind} id{{ is a text|s are texts}}: numbered in the order of the file"] += len(found)
    elif respelt:
        repairs.counts[f"{kind} id{{ is|s are}} in another spelling of a whole number: read as such"] += respelt
    ids = {key: numbers.setdefault(key, len(numbers) + 1) if texts else int(key) for key in found}
    named = kind == "category"
    regular = [{**({"name": str(key)} if named else {}), **record, "id": ids[key]} for key, record in found.items()]
    return regular, rows, ids


def _by_name(
    categories: list[dict[str, Any]], ids: dict[Key, int], numbers: dict[Key, int]
) -> tuple[list[dict[str, Any]], dict[Key, int]]:
    """Categories and ids in use, with a number for each name."""
    number_of = {c["id"]: numbers.setdefault(f"name {c['name']}", len(numbers) + 1) for c in categories}
    renumbered = [{**category, "id": number_of[category["id"]]} for category in categories]
    return renumbered, {key: number_of[number] for key, number in ids.items()}


def _annotation(
    record: Any, image_ids: Mapping[Key, int], category_ids: Mapping[Key, int], repairs: Repairs
) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise _Invalid("is no object", quoted(record))
    image = _reference(record, "image", image_ids, repairs)
    category = _reference(record, "category", category_ids, repairs)
    crowd = flag(record.get("iscrowd"))
    if crowd is None:
        raise _Invalid("iscrowd is neither 0 nor 1", shown(record["iscrowd"]))
    if "iscrowd" in record and type(record["iscrowd"]) not in (int, bool):
        repairs.counts["annotation{ has|s have} no iscrowd of 0 or 1: read as such"] += 1
    box = _box(record, repairs)
    area = real_number(record.get("area"))
    if area is not None and isinstance(record["area"], str):
        repairs.counts["annotation{ has|s have} the area as a text: read as a number"] += 1
    if area is None:
        measured = box_and_area(record["segmentation"]) if record.get("segmentation") else ""
        area = box[2] * box[3] if isinstance(measured, str) else measured[1]
        repairs.counts["annotation{ has|s have} no area: that of the outline or box counts"] += 1
    return {
        "id": record.get("id"),
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": area,
        "iscrowd": crowd,
    }


def _reference(record: dict[str, Any], kind: Kind, known: Mapping[Key, int], repairs: Repairs) -> int | None:
    """The id in use of an annotation's image or category; None where the file has none of this number."""
    given = record.get(f"{kind}_id")
    key = id_key(given)
    if key is None:
        raise _Invalid(f"{kind}_id is no id", shown(given))
    if isinstance(key, str) and key not in known:
        raise _Invalid(f"unknown {kind}", f"{kind}_id is {shown(given)}")
    if isinstance(key, int) and type(given) is not int:
        repairs.counts[
            f"annotation{{ has|s have}} the {kind}_id in another spelling of a whole number: read as such"
        ] += 1
    return known.get(key)


def _box(record: dict[str, Any], repairs: Repairs) -> list[float]:
    given = record.get("bbox")
    if given is None or given == []:
        measured = box_and_area(record.get("segmentation"))
        if isinstance(measured, str):
            raise _Invalid("has no bbox", f"and its segmentation {measured}")
        repairs.counts["annotation{ has|s have} no bbox: that of the outline counts"] += 1
        return measured[0]
    numbers = [number for value in given if (number := real_number(value)) is not None] if type(given) is list else []
    if len(numbers) != 4 or len(given) != 4:
        raise _Invalid("bbox is not four finite numbers", shown(given))
    if any(isinstance(value, str) for value in given):
        repairs.counts["annotation{ has|s have} a bbox of texts: read as numbers"] += 1
    return numbers
