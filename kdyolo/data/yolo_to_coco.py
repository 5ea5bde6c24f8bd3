"""YOLO → COCO: annotations from the labels of a data set.

Where the labels were converted from COCO, what labels cannot hold (ids, exact boxes, crowds) comes back too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kdyolo.data.coco.reader import read_annotations
from kdyolo.data.coco.schema import DetailedAnnotation, ImageRecord
from kdyolo.data.dataset_yaml import Dataset, load_dataset
from kdyolo.data.image_names import image_files, label_file
from kdyolo.data.yolo_labels import Label, box_corners, clip_box, label_line, polygon_line, read_labels
from kdyolo.errors import DatasetError
from kdyolo.utils.atomic import write_atomic

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class ExportSummary:
    """Result of ``to_coco``.

    Attributes:
        path: The JSON file that was written.
        images: Number of images.
        annotations: Number of annotations.
        restored: Number of annotations that are those of the original file, with its ids and boxes.
        crowds: Number of restored annotations that are crowd regions, which labels leave out.
    """

    path: Path
    images: int
    annotations: int
    restored: int
    crowds: int

    def __str__(self) -> str:
        text = f"{self.path}: {self.images:,} images, {self.annotations:,} annotations"
        if not self.restored:
            return text
        return f"{text}, {self.restored:,} of them as in the original file ({self.crowds:,} crowd regions)"


def to_coco(dataset: str | Path, out: str | Path, *, split: str | None = None) -> ExportSummary:
    """Write COCO annotations from the labels of an Ultralytics dataset.

    Labels are what counts: objects that were added, moved or removed since the conversion are so in the result. Where
    the YAML names the annotations that it was converted from, images keep their ids and sizes, and objects that did not
    change their ids, exact boxes, areas and segmentations; crowd regions, which labels leave out, come back. Elsewhere
    ids are new, sizes are read from the images, and boxes get the fewest decimals (from 2 on, as COCO has) that give
    the same label again.

    Args:
        dataset: The dataset YAML.
        out: JSON file to write, completely or not at all.
        split: One of train, val and test; by default all that the YAML names.

    Returns:
        Path and counts of what was written.

    Raises:
        DatasetError: The YAML, an image or a label is not what it should be (the message names file and line), ids of
            several splits collide, or ``out`` cannot be written.

    Examples:
        >>> from kdyolo import to_coco
        >>> to_coco("datasets/coco/coco.yaml", "again.json", split="val").images
        4
    """
    data, out = load_dataset(Path(dataset).expanduser()), Path(out).expanduser()
    splits = [_read_split(data, role, paths, out) for role, paths in data.roles(split).items()]
    image_ids = _image_ids(splits)
    taken = _unique("annotation id", (a.id for s in splits for of_image in s.annotations.values() for a in of_image))
    collector = _Collector(data.category_ids, count(max(taken, default=0) + 1))
    images = []
    for of_split in splits:
        for name in of_split.names:
            image = of_split.images.get(name) or _new_image(of_split.folder / name, name, image_ids[name])
            images.append(msgspec.to_builtins(image))
            labels = read_labels(label_file(of_split.folder / name), data.category_ids)
            collector.add(image, labels, of_split.annotations.get(image.id, []))
    categories = [{"id": data.category_ids[index], "name": name} for index, name in data.class_names.items()]
    _write(out, {"images": images, "annotations": collector.annotations, "categories": categories})
    return ExportSummary(out, len(images), len(collector.annotations), collector.restored, collector.crowds)


@dataclass(frozen=True)
class _Split:
    """The images of a split, and what they were converted from as far as that is known.

    Attributes:
        folder: Folder that the names are relative to.
        names: File names of all images.
        images: File name → original record.
        annotations: Image id → original records.
    """

    folder: Path
    names: list[str]
    images: dict[str, ImageRecord] = field(default_factory=dict)
    annotations: dict[int, list[DetailedAnnotation]] = field(default_factory=dict)


def _read_split(data: Dataset, role: str, paths: list[Path], out: Path) -> _Split:
    folder, names = image_files(paths)
    source = data.annotations(role)
    if source is None or not source.is_file():
        return _Split(folder, names)
    if out.exists() and not out.is_symlink() and out.samefile(source):
        raise DatasetError(f"{out}: the data set was converted from this very file. Choose another one to write.")
    original = read_annotations(source, folder, skip_invalid=True, detailed=True, whole=True)
    annotations: dict[int, list[DetailedAnnotation]] = defaultdict(list)
    for annotation in chain.from_iterable(batch() for batch in original.batches):
        if isinstance(annotation, DetailedAnnotation) and annotation.category_id in data.category_ids.values():
            annotations[annotation.image_id].append(annotation)
    return _Split(folder, names, {image.file_name: image for image in original.images.values()}, annotations)


def _image_ids(splits: Sequence[_Split]) -> dict[str, int]:
    """File name → id, over all splits: the original; else the number in the name if all have one; else a new one."""
    names = _unique("file name", (name for split in splits for name in split.names))
    known = {name: image.id for split in splits for name, image in split.images.items() if name in names}
    taken = _unique("image id", known.values())
    new = sorted(names - known.keys())
    stems = [Path(name).stem for name in new]
    # Ultralytics' predictions.json calls an image by such a number as well.
    numbers = [int(stem) for stem in stems if stem.isdecimal()]
    if len(numbers) < len(new) or len({*numbers, *taken}) < len(numbers) + len(taken):
        numbers = list(range(max(taken, default=0) + 1, max(taken, default=0) + 1 + len(new)))
    return known | dict(zip(new, numbers, strict=True))


def _unique(what: str, values: Iterable[K]) -> set[K]:
    seen: set[K] = set()
    for value in values:
        if value in seen:
            raise DatasetError(
                f"the splits of this data set share the {what} {value!r}, so one file cannot hold them all. "
                "Write them one by one, with --split (split='val')."
            )
        seen.add(value)
    return seen


def _new_image(path: Path, name: str, number: int) -> ImageRecord:
    from kdyolo.data.image_verification import verify_image  # Pillow waits until it is needed

    found = verify_image(path)
    if found.problem:
        raise DatasetError(f"{path}: cannot be used: {found.problem}. Replace or remove it.")
    return ImageRecord(number, name, found.width, found.height)


@dataclass
class _Collector:
    """Collects the annotations of the result."""

    category_ids: Mapping[int, int]
    new_ids: Iterator[int]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    restored: int = 0
    crowds: int = 0

    def add(self, image: ImageRecord, labels: list[Label], originals: list[DetailedAnnotation]) -> None:
        """The objects of an image: for each label the original that gave it, if one did, and crowds that gave none."""
        polygons = any(label.is_polygon for label in labels)
        class_of = {category_id: index for index, category_id in self.category_ids.items()}
        unused: dict[str, list[DetailedAnnotation]] = defaultdict(list)
        for annotation in sorted(originals, key=lambda annotation: bool(annotation.iscrowd)):
            unused[_label_of(annotation, class_of[annotation.category_id], image, polygons)].append(annotation)
        for label in labels:
            same = unused.get(label.text)
            self.annotations.append(self._restore(same.pop(0)) if same else self._new(image, label))
        left = {annotation.id for same in unused.values() for annotation in same}
        crowds = [annotation for annotation in originals if annotation.iscrowd and annotation.id in left]
        self.annotations += map(self._restore, crowds)
        self.crowds += len(crowds)

    def _restore(self, annotation: DetailedAnnotation) -> dict[str, Any]:
        self.restored += 1
        record: dict[str, Any] = msgspec.to_builtins(annotation)
        record["iscrowd"] = int(annotation.iscrowd)
        if record["area"] is None:
            record["area"] = annotation.bbox[2] * annotation.bbox[3]
        if record["segmentation"] is None:
            del record["segmentation"]
        return record

    def _new(self, image: ImageRecord, label: Label) -> dict[str, Any]:
        head = {"id": next(self.new_ids), "image_id": image.id, "category_id": self.category_ids[label.index]}
        if label.is_polygon:
            return {**head, **label.polygon(image.width, image.height), "iscrowd": 0}
        box = label.box(image.width, image.height)
        return {**head, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}


def _label_of(annotation: DetailedAnnotation, index: int, image: ImageRecord, as_polygon: bool) -> str:
    """The label that the converter writes for an annotation, or nothing where it drops it."""
    width, height = image.width, image.height
    box = clip_box(annotation.bbox, width, height)
    line = label_line(index, box, width, height)
    if line is None or not as_polygon:
        return line or ""
    from kdyolo.data.coco.segmentation import polygon_of

    corners = polygon_of(annotation, width, height)
    line = polygon_line(index, corners, width, height) if corners else None
    return line or polygon_line(index, box_corners(box), width, height) or ""


def _write(out: Path, content: object) -> None:
    try:
        write_atomic(out, msgspec.json.encode(content), shared=True)
    except OSError as error:
        raise DatasetError(
            f"{out}: cannot be written: {error}. Check the folder, free space and permissions."
        ) from error
