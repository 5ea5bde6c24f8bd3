"""Ground truth and detections, read from COCO's two kinds of JSON and checked. No torch."""

from __future__ import annotations

import codecs
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec

from kdyolo.errors import ConfigError, DatasetError
from kdyolo.utils.plain_files import refuse_endless
from kdyolo.utils.system import pause_gc

# An evaluator's precision has 97 KB for each category, whether it has objects or not: 10 IoU, 101 recalls, 12 kinds.
MOST_CATEGORIES = 10_000
MOST_UNZIPPED = 100  # bytes for one of a gzipped file; annotations have some 20

_T = TypeVar("_T")
_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # what evaluators have room for
_Box = Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]


class Detection(TypedDict):
    """One entry of a results file; ``bbox`` is left, top, width, height in pixels of the original image."""

    image_id: _Int
    category_id: _Int
    bbox: _Box
    score: float


class _Required(TypedDict):
    image_id: _Int
    category_id: _Int
    bbox: _Box


class Annotation(_Required, total=False):
    """One entry of ``annotations``; ``bbox`` as in :class:`Detection`, ``area`` in square pixels."""

    area: float
    iscrowd: _Int | bool


class _Image(TypedDict):
    id: _Int
    file_name: str


class _Category(TypedDict):
    id: _Int
    name: str


class _Instances(TypedDict):
    images: list[_Image]
    annotations: list[Annotation]
    categories: list[_Category]


# Typed decoding skips what no evaluation needs, above all the polygons: 8× faster than json for instances_val2017.
_GROUND_TRUTH = msgspec.json.Decoder(_Instances)
_DETECTIONS = msgspec.json.Decoder(list[Detection])


@dataclass(frozen=True)
class GroundTruth:
    """The objects of a set of images.

    Attributes:
        path: Annotation file, for messages.
        images: Image id → ``file_name``, in ascending order of the ids, which is the order of all COCO evaluators.
        categories: Category id → name, in ascending order of the ids.
        annotations: Annotations of ``images`` and ``categories``, in the order of the file, all with ``area`` and
            ``iscrowd``.
        notes: Sentences that a person should read about how the file was read.
    """

    path: Path
    images: dict[int, str]
    categories: dict[int, str]
    annotations: list[Annotation]
    notes: tuple[str, ...] = ()

    @property
    def objects(self) -> int:
        """Number of annotations that count: all but crowd regions."""
        return sum(not a["iscrowd"] for a in self.annotations)

    def only(self, category_ids: Iterable[int]) -> GroundTruth:
        """The same images with the objects of some categories.

        Raises:
            DatasetError: A category is not in the file.
        """
        wanted = sorted(set(category_ids))
        if missing := [category for category in wanted if category not in self.categories]:
            raise DatasetError(
                f"{self.path}: expected the categories of the data set, but has none with id "
                f"{', '.join(map(str, missing[:5]))}{', …' if len(missing) > 5 else ''}. Give the annotation file that "
                "the data set was converted from."
            )
        kept = [a for a in self.annotations if a["category_id"] in set(wanted)]
        return replace(self, categories={c: self.categories[c] for c in wanted}, annotations=kept)


def read_ground_truth(path: str | Path) -> GroundTruth:
    """Read COCO instance annotations for scoring.

    Args:
        path: JSON file, also gzipped (``.gz``); UTF-8 with or without a byte-order mark.

    Raises:
        DatasetError: The file cannot be read, or a record in it is wrong; the message names its place, e.g.
            ``$.annotations[17].bbox``.
    """
    path = Path(path)
    file: _Instances = _decode(path, _GROUND_TRUTH, "COCO annotations: an object with images, annotations, categories")
    images = _by_id(path, "image", ((image["id"], image["file_name"]) for image in file["images"]))
    categories = _by_id(path, "category", ((category["id"], category["name"]) for category in file["categories"]))
    if len(categories) > MOST_CATEGORIES:
        raise DatasetError(
            f"{path}: expected at most {MOST_CATEGORIES:,} categories, for each of which an evaluator takes 97 KB; "
            f"found {len(categories):,}. Keep those that have objects."
        )
    notes = []
    annotations = [a for a in file["annotations"] if a["image_id"] in images and a["category_id"] in categories]
    if lost := len(file["annotations"]) - len(annotations):
        notes.append(f"{lost} annotations belong to no image or category of the file and do not count")
    without_area = 0
    for index, annotation in enumerate(annotations):
        if not all(map(math.isfinite, annotation["bbox"])):
            raise DatasetError(f"{path}: $.annotations[{index}].bbox is not finite: {annotation['bbox']}. Correct it.")
        annotation.setdefault("iscrowd", 0)
        if "area" not in annotation:
            without_area += 1
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    if without_area:
        notes.append(f"{without_area} annotations have no area: that of their box decides between small, medium, large")
    return GroundTruth(path, images, categories, annotations, tuple(notes))


def read_detections(path: str | Path) -> list[Detection]:
    """Read a COCO results file, of any tool: a JSON list of ``image_id``, ``category_id``, ``bbox`` and ``score``.

    Raises:
        DatasetError: The file cannot be read, a record in it is wrong, or a box has a negative side.
    """
    path = Path(path)
    detections: list[Detection] = _decode(
        path, _DETECTIONS, "COCO results: a list of image_id, category_id, bbox [left, top, width, height] and score"
    )
    for index, detection in enumerate(detections):
        left, top, width, height = detection["bbox"]
        if width < 0 or height < 0 or not math.isfinite(left + top + width * height + detection["score"]):
            raise DatasetError(
                f"{path}: $[{index}].bbox must be left, top, width, height in pixels, found {detection['bbox']}. "
                "Convert corners (x1, y1, x2, y2) to widths and heights first."
            )
    return detections


def check_detections(detections: Iterable[Mapping[str, Any]], truth: GroundTruth, source: str) -> list[str]:
    """Compare the ids of detections with those of the ground truth.

    Args:
        detections: Records as :func:`read_detections` returns them.
        truth: Ground truth that they will be compared with.
        source: Name of the detections in messages.

    Returns:
        Notes for a person: detections of categories that the ground truth lacks do not count, as in pycocotools.

    Raises:
        DatasetError: A detection belongs to no image of the ground truth, or none has a category of it.
    """
    image_ids: set[int] = set()
    categories: dict[int, int] = {}
    for detection in detections:
        image_ids.add(detection["image_id"])
        categories[detection["category_id"]] = categories.get(detection["category_id"], 0) + 1
    if unknown := sorted(image_ids - truth.images.keys()):
        raise DatasetError(
            f"{source}: {len(unknown)} of its {len(image_ids)} image ids are not in {truth.path}, e.g. {unknown[0]}. "
            "Expected results on these images; are they of another split?"
        )
    lost = {category: count for category, count in categories.items() if category not in truth.categories}
    if lost and len(lost) == len(categories):
        given, known = (", ".join(map(str, list(ids)[:5])) for ids in (sorted(lost), truth.categories))
        raise DatasetError(
            f"{source}: none of its category ids ({given}, …) is in {truth.path}, which has {known}, …. "
            "Expected category ids of the annotation file, not class indices."
        )
    if lost:
        count, example = sum(lost.values()), min(lost)
        return [f"{count} detections of categories that {truth.path.name} lacks (id {example}) do not count"]
    return []


def of_categories(
    truth: GroundTruth, detections: Sequence[Detection], category_ids: Iterable[int] | None
) -> tuple[GroundTruth, Sequence[Detection]]:
    """Only the objects and the detections of some categories, on all images: what ``catIds`` is in pycocotools.

    Args:
        truth: Images, categories and objects.
        detections: Detections on these images.
        category_ids: Ids of the categories; None for all.

    Raises:
        DatasetError: A category is not in the ground truth.
    """
    if category_ids is None:
        return truth, detections
    only = truth.only(category_ids)
    return only, [d for d in detections if d["category_id"] in only.categories]


def find_categories(truth: GroundTruth, wanted: Iterable[str]) -> list[int]:
    """Ids of categories that are given by their names or by their ids.

    Raises:
        ConfigError: There is none of that name or id.
    """
    ids = {name: category for category, name in truth.categories.items()}
    found = {each: ids.get(each, int(each) if each.isdecimal() else None) for each in wanted}
    if unknown := [each for each, category in found.items() if category not in truth.categories]:
        listed = ", ".join(f"{category} ({name})" for category, name in list(truth.categories.items())[:5])
        raise ConfigError(
            f"{truth.path} has no category {', '.join(map(repr, unknown))}: expected names or ids of its "
            f"{len(truth.categories)} categories: {listed}{', …' if len(truth.categories) > 5 else ''}."
        )
    return sorted({category for category in found.values() if category is not None})


def _decode(path: Path, decoder: msgspec.json.Decoder[_T], expected: str) -> _T:
    refuse_endless(path, error=DatasetError)
    try:
        data = path.read_bytes()
        data = _unzipped(path, data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path}: cannot be read: {reason}. Expected {expected}.") from error
    try:
        with pause_gc():
            return decoder.decode(data.removeprefix(codecs.BOM_UTF8))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}: {error}. Expected {expected}.") from error


def _unzipped(path: Path, data: bytes) -> bytes:
    most = max(1 << 24, MOST_UNZIPPED * len(data))
    with gzip.open(io.BytesIO(data)) as file:
        unzipped = file.read(most + 1)
    if len(unzipped) > most:
        raise DatasetError(
            f"{path}: refused, it unpacks to more than {MOST_UNZIPPED} times its {len(data):,} bytes, as no "
            "annotations do; this may be a bomb. If it is what it should be, unpack it with gunzip."
        )
    return unzipped


def _by_id(path: Path, kind: str, records: Iterable[tuple[int, str]]) -> dict[int, str]:
    """Id → name, sorted by id."""
    found: dict[int, str] = {}
    for record_id, name in records:
        if record_id in found:
            raise DatasetError(
                f"{path}: two records have the {kind} id {record_id}: {found[record_id]!r} and {name!r}."
            )
        found[record_id] = name
    if not found:
        raise DatasetError(f"{path}: has no {kind}. Expected COCO annotations with images and categories.")
    return dict(sorted(found.items()))
