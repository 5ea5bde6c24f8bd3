"""Ground truth of an evaluation: images, categories and objects, and the forms of annotations and detections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from kdyolo.coco_json.values import id_key
from kdyolo.errors import ConfigError, DatasetError
from kdyolo.utils.text import number_and_noun

Key = int | str  # an id as files have it
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # what evaluators have room for
Box = Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]


class _Found(TypedDict):
    image_id: int
    category_id: int
    bbox: list[float]
    score: float


class Detection(_Found, total=False):
    """One detection; ``bbox`` is left, top, width, height in pixels of the original image.

    ``area`` is that of its mask, in square pixels, where it has no box of its own; otherwise the box's area counts.
    """

    area: float


def area_of(detection: Detection) -> float:
    """The area of a detection in square pixels, by which it is small, medium or large."""
    return detection["area"] if "area" in detection else detection["bbox"][2] * detection["bbox"][3]


class _Required(TypedDict):
    image_id: Id
    category_id: Id
    bbox: Box


class Annotation(_Required, total=False):
    """One entry of ``annotations``; ``bbox`` as in :class:`Detection`, ``area`` in square pixels."""

    id: Id
    area: float
    iscrowd: Id | bool


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
        sizes: Image id → width and height in pixels, where the file has them.
        unnamed: Images without a ``file_name``; the name in ``images`` is their id.
        own_images: Id in the file → image id, where the file has texts for ids; empty where ids are the file's own.
        own_categories: Id in the file → category id, in the same way.
        text_categories: Category ids that are numbers but stand in the file as texts.
        irregular: Whether pycocotools would read the file otherwise, or not at all.
        complete: Whether every annotation of the file belongs to one of its categories.
    """

    path: Path
    images: dict[int, str]
    categories: dict[int, str]
    annotations: list[Annotation]
    notes: tuple[str, ...] = ()
    sizes: dict[int, tuple[float, float]] = field(default_factory=dict)
    unnamed: frozenset[int] = frozenset()
    own_images: dict[Key, int] = field(default_factory=dict)
    own_categories: dict[Key, int] = field(default_factory=dict)
    text_categories: frozenset[int] = frozenset()
    irregular: bool = False
    complete: bool = True

    def image_of(self, key: Key) -> int | None:
        """The image that an id in the file's own writing stands for; None for none."""
        return _stands_for(key, self.own_images, self.images)

    def category_of(self, key: Key) -> int | None:
        """The category that an id in the file's own writing stands for; None for none."""
        return _stands_for(key, self.own_categories, self.categories)

    @cached_property
    def image_keys(self) -> dict[int, Key]:
        """Image id → the id in the file's own writing, where that is another."""
        return {image: key for key, image in self.own_images.items()}

    @cached_property
    def category_keys(self) -> dict[int, Key]:
        """Category id → the id in the file's own writing, where that is another."""
        return {category: key for key, category in self.own_categories.items()}

    @cached_property
    def named_by_ids(self) -> bool:
        """Whether each image's id is the number that its file is named by, as in COCO's own files."""
        return not self.own_images and all(
            (stem := name.rpartition("/")[2].rpartition(".")[0]).isdecimal() and int(stem) == image
            for image, name in self.images.items()
        )

    def in_use(self, detections: list[Any]) -> list[Detection]:
        """Detections with the ids in use, of those with the file's own."""
        if not (self.own_images or self.own_categories):
            return detections
        records: list[Any] = [
            {**d, "image_id": self.image_of(d["image_id"]), "category_id": self.category_of(d["category_id"])}
            for d in detections
        ]
        return records

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

    def completed(self, names: Mapping[int, str]) -> GroundTruth:
        """The same ground truth with these categories too, of which no object is in its images.

        Tools list the categories that occur in a file, so that splits of one data set can differ in them.

        Args:
            names: Category id → name. Where no id is known the file is another data set's, and stays as it is; so does
                one that has lost a category of its annotations.
        """
        if not (self.complete and names.keys() & self.categories.keys()):
            return self
        return replace(self, categories=dict(sorted({**names, **self.categories}.items())))


def check_detections(detections: Sequence[Mapping[str, Any]], truth: GroundTruth, source: str) -> list[str]:
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
    image_ids = set(map(itemgetter("image_id"), detections))
    categories = Counter(map(itemgetter("category_id"), detections))
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
        what = number_and_noun(count, "detection{|s} of categories")
        do = "does" if count == 1 else "do"
        return [f"{what} that {truth.path.name} lacks (id {example}) {do} not count"]
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
            f"--category: {truth.path} has no category {', '.join(map(repr, unknown))}: expected names or ids of its "
            f"{len(truth.categories)} categories: {listed}{', …' if len(truth.categories) > 5 else ''}."
        )
    return sorted({category for category in found.values() if category is not None})


def _stands_for(key: Key, own: Mapping[Key, int], ids: Mapping[int, Any]) -> int | None:
    found = key if isinstance(key, int) else id_key(key)  # a number may be written as text on one side only
    if own:
        return own.get(key if found is None else found)
    return found if isinstance(found, int) and found in ids else None
