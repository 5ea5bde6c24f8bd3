"""COCO annotation files of any tool, read as the ground truth of an evaluation. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import msgspec

from kdyolo.coco_json.files import read_bytes, read_json_document
from kdyolo.coco_json.records import RegularDocument, regular_document
from kdyolo.coco_json.values import id_key, real_number
from kdyolo.errors import DatasetError
from kdyolo.metrics.differences import differences_of_ids, differences_of_values
from kdyolo.metrics.ground_truth import Annotation, GroundTruth, Id, Key
from kdyolo.metrics.truth_mistakes import check_truth
from kdyolo.utils.system import pause_gc
from kdyolo.utils.text import number_and_noun, quoted

# An evaluator's precision has 97 KB for each category, whether it has objects or not: 10 IoU, 101 recalls, 12 kinds.
MOST_CATEGORIES = 10_000
EXPECTED = "COCO annotations: an object with images, annotations, categories"
_MOST_MISTAKES = 5
_LISTS = {"image": "images", "annotation": "annotations", "category": "categories"}

_T = TypeVar("_T")


class _NamedImage(TypedDict):
    id: Id
    file_name: str


class _Image(_NamedImage, total=False):
    width: Any
    height: Any


class _Category(TypedDict):
    id: Id
    name: str


class _Instances(TypedDict):
    images: list[_Image]
    annotations: list[Annotation]
    categories: list[_Category]


# Typed decoding skips what no evaluation needs, above all the polygons: 8× faster than json for instances_val2017.
_DECODER = msgspec.json.Decoder(_Instances)


def read_ground_truth(path: str | Path) -> GroundTruth:
    """Read COCO instance annotations for scoring.

    What :mod:`kdyolo.coco_json` reads in one way is read so, and told in the notes; so is where pycocotools would read
    it otherwise.

    Args:
        path: JSON file, also gzipped (``.gz``); UTF-8 with or without a byte-order mark.

    Raises:
        DatasetError: The file cannot be read, or records in it have no meaning; the message names their places, e.g.
            ``$.annotations[17]``.
    """
    path = Path(path)
    file = decode_typed(path, _DECODER)
    if file is None or not _is_regular(file):
        return _read_carefully(path)
    annotations = file["annotations"]
    ids = [annotation["id"] for annotation in annotations if "id" in annotation]
    unique = set(ids)
    regular = len(unique) == len(annotations) and 0 not in unique
    notes = [] if regular else differences_of_ids(ids)
    return _ground_truth(
        path,
        dict(sorted((image["id"], image["file_name"]) for image in file["images"])),
        {category["id"]: category["name"] for category in file["categories"]},
        annotations,
        notes,
        _sizes(file["images"]),
        irregular=not (regular and all("iscrowd" in annotation for annotation in annotations)),
    )


def decode_typed(path: Path, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    """The typed content of a JSON file; None where it is not as the types say.

    Raises:
        DatasetError: The file cannot be read.
    """
    data = read_bytes(path)
    try:
        with pause_gc():
            return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_regular(file: _Instances) -> bool:
    """Whether nothing is to be made up or decided: each id once, areas, finite numbers, crowds or not."""
    for records in (file["images"], file["categories"]):
        if not records or len({record["id"] for record in records}) < len(records):
            return False
    return all(
        "area" in a and math.isfinite(sum(a["bbox"]) + a["area"]) and a.get("iscrowd", 0) in (0, 1)
        for a in file["annotations"]
    )


def _ground_truth(
    path: Path,
    images: dict[int, str],
    categories: dict[int, str],
    annotations: list[Annotation],
    notes: list[str],
    sizes: dict[int, tuple[float, float]],
    **more: Any,
) -> GroundTruth:
    if len(categories) > MOST_CATEGORIES:
        raise DatasetError(
            f"{path}: expected at most {MOST_CATEGORIES:,} categories, for each of which an evaluator takes 97 KB; "
            f"found {len(categories):,}. Keep those that have objects."
        )
    complete = all(a["category_id"] in categories for a in annotations)
    kept = [a for a in annotations if a["image_id"] in images and a["category_id"] in categories]
    if lost := len(annotations) - len(kept):
        what = "annotation{ belongs|s belong} to no image or category of the file and do{es|} not count"
        notes.append(number_and_noun(lost, what))
    for annotation in kept:
        annotation.setdefault("iscrowd", 0)
    notes += check_truth(path, kept, sizes)
    return GroundTruth(
        path, images, dict(sorted(categories.items())), kept, tuple(notes), sizes, complete=complete, **more
    )


def _sizes(images: Iterable[Mapping[str, Any]]) -> dict[int, tuple[float, float]]:
    """Image id → width and height, where both are numbers above 0."""
    sizes = {}
    for image in images:
        width, height = real_number(image.get("width")), real_number(image.get("height"))
        if width and height and width > 0 < height:
            sizes[image["id"]] = (width, height)
    return sizes


# ---- the careful way -------------------------------------------------------------------------------------------------


def _read_carefully(path: Path) -> GroundTruth:
    """Read what is irregular, record by record."""
    document = read_json_document(path, EXPECTED)
    _refuse_other_files(path, document)
    regular = _regular(path, document)
    written = {ids: {id_key(r["id"]): r["id"] for r in document[ids]} for ids in ("images", "categories")}
    found = {
        "image_id": {written["images"][key]: number for key, number in regular.image_ids.items()},
        "category_id": {written["categories"][key]: number for key, number in regular.category_ids.items()},
    }
    named = {image["id"]: image["file_name"] for image in regular.images if isinstance(image.get("file_name"), str)}
    of_images = {number: key for key, number in regular.image_ids.items()}
    return _ground_truth(
        path,
        {image: named.get(image) or str(of_images[image]) for image in _in_order(found["image_id"])},
        {category["id"]: str(category["name"]) for category in regular.categories},
        regular.annotations,
        [
            *regular.repairs.notes(),
            *differences_of_ids(annotation["id"] for annotation in document["annotations"] if "id" in annotation),
            *differences_of_values(document, regular.annotations, found),
        ],
        _sizes(regular.images),
        unnamed=frozenset(image for image in of_images if not named.get(image)),
        own_images=_changed(regular.image_ids),
        own_categories=_changed(regular.category_ids),
        text_categories=frozenset(number for key, number in found["category_id"].items() if key != id_key(key)),
        irregular=True,
    )


def _refuse_other_files(path: Path, document: Any) -> None:
    if isinstance(document, list) and any(isinstance(entry, dict) and "score" in entry for entry in document[:1]):
        raise DatasetError(
            f"{path}: expected {EXPECTED}; found a list of predictions with scores. The order is kdyolo score "
            "PRED.json ANN.json: are the two files exchanged?"
        )
    if not isinstance(document, dict):
        raise DatasetError(f"{path}: expected {EXPECTED}; found {quoted(document)}.")
    if missing := [name for name in _LISTS.values() if not isinstance(document.get(name), list)]:
        found = ", ".join(map(repr, list(document)[:8])) or "nothing"
        raise DatasetError(f"{path}: expected {EXPECTED}; has no list of {', '.join(missing)}, only {quoted(found)}.")
    for kind in ("image", "category"):
        if not document[_LISTS[kind]]:
            raise DatasetError(f"{path}: has no {kind}. Expected {EXPECTED}.")


def _regular(path: Path, document: Any) -> RegularDocument:
    """The document in one form.

    Raises:
        DatasetError: Records have no meaning; the message has the first of them, and how many there are.
    """
    mistakes: list[str] = []

    def invalid(kind: str, index: int, _: Any, reason: str, detail: str) -> None:
        mistakes.append(f"$.{_LISTS[kind]}[{index}]: {reason}{detail and ': '}{detail}")

    regular = regular_document(document, invalid)
    if mistakes:
        more = f"; and {len(mistakes) - _MOST_MISTAKES:,} more" if len(mistakes) > _MOST_MISTAKES else ""
        raise DatasetError(
            f"{path}: {len(mistakes):,} records cannot be read: {'; '.join(mistakes[:_MOST_MISTAKES])}{more}. Correct "
            "or remove them."
        )
    return regular


def _in_order(written: Mapping[Any, int]) -> list[int]:
    """Ids in the order in which evaluators go through the images, which decides between equal scores."""
    if all(isinstance(key, str) for key in written):
        return [written[key] for key in sorted(written)]
    return sorted(written.values())


def _changed(ids: Mapping[Key, int]) -> dict[Key, int]:
    """Ids in the file → ids in use; empty where both are the same."""
    return {} if all(key == number for key, number in ids.items()) else dict(ids)
