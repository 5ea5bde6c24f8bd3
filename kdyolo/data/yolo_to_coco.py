"""YOLO → COCO: annotations from the labels of a data set.

Where the labels were converted from COCO, what labels cannot hold (ids, exact boxes, crowds) comes back too.
"""

from __future__ import annotations

import gzip
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kdyolo.arguments import checked
from kdyolo.data.coco.reading.reader import read_annotations
from kdyolo.data.coco.reading.schema import DetailedAnnotation, ImageRecord
from kdyolo.data.dataset_yaml import Dataset, dataset_file, load_dataset
from kdyolo.data.image_names import image_files, label_file
from kdyolo.data.label_files import LabelForm, label_form, read_labels
from kdyolo.data.yolo_labels import Label, box_corners, clip_box, label_line, polygon_line
from kdyolo.errors import DatasetError
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.tables import ShownInOneLine
from kdyolo.utils.text import number_and_noun, plural

K = TypeVar("K", bound=Hashable)

_REPEATED = "label{ repeats|s repeat} another one of {its|their} image and {is|are} left out, as by Ultralytics."
_MIXED = (
    "image{ mixes|s mix} boxes and polygons: each line is written as what it is; Ultralytics leaves such images out."
)
_WITHOUT_POSE = "image{ has|s have} objects without keypoints, which Ultralytics trains on as boxes, not as poses."


@dataclass(frozen=True, repr=False)
class ExportSummary(ShownInOneLine):
    """Result of ``to_coco``.

    Attributes:
        path: The JSON file that was written.
        images: Number of images.
        annotations: Number of annotations.
        restored: Number of annotations that are those of the original file, with its ids and boxes.
        crowds: Number of restored annotations that are crowd regions, which labels leave out.
        notes: Sentences on what was left out, or is read otherwise than by Ultralytics.
    """

    path: Path
    images: int
    annotations: int
    restored: int
    crowds: int
    notes: tuple[str, ...] = ()

    def headline(self) -> str:
        """The file, and what is in it."""
        return str(self).splitlines()[0]

    def facts(self) -> dict[str, str]:
        """The file, and what is in it."""
        counts = ("images", "annotations", "restored", "crowds")
        notes = {"notes": "; ".join(self.notes)} if self.notes else {}
        return {"file": str(self.path), **{name: f"{getattr(self, name):,}" for name in counts}, **notes}

    def __str__(self) -> str:
        text = f"{self.path}: {plural(self.images, 'image')}, {plural(self.annotations, 'annotation')}"
        if self.restored:
            text += f", {self.restored:,} of them as in the original file ({self.crowds:,} crowd regions)"
        return "\n".join([text, *(f"  {note}" for note in self.notes)])


@checked
def to_coco(dataset: str | Path, out: str | Path, *, split: str | None = None) -> ExportSummary:
    """Write COCO annotations from the labels of an Ultralytics dataset.

    Labels are what counts: objects that were added, moved or removed since the conversion are so in the result. Where
    the YAML names the annotations that it was converted from, images keep their ids and sizes, and objects that did not
    change their ids, exact boxes, areas and segmentations; crowd regions, which labels leave out, come back. Elsewhere
    ids are new, sizes are read from the images, and boxes get the fewest decimals (from 2 on, as COCO has) that give
    the same label again. Poses (``kpt_shape`` in the YAML) become ``keypoints``, rotated boxes the polygon of their
    corners with the upright box around it.

    Args:
        dataset: The dataset YAML, the folder that it is in, or the name of one that Ultralytics ships.
        out: JSON file to write, completely or not at all; with gzip if its name ends in .gz.
        split: One of train, val and test; by default all that the YAML names, without a test split that is not there.

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
    data, out = load_dataset(_yaml(Path(dataset).expanduser())), Path(out).expanduser()
    form, notes = label_form(data), list[str]()
    splits = _without_repeats(list(_splits(data, split, out, notes)), notes)
    shown = _file_names(splits, notes)
    image_ids = _image_ids(splits, shown)
    taken = _unique("annotation id", (a.id for s in splits for of_image in s.annotations.values() for a in of_image))
    collector = _Collector(data.category_ids, form, count(max(taken, default=0) + 1))
    images = []
    for of_split in splits:
        for name in of_split.names:
            path = of_split.folder / name
            image = of_split.images.get(name) or _new_image(path, name, image_ids[path])
            images.append(msgspec.to_builtins(image) | {"file_name": shown[path]})
            collector.add(image, read_labels(label_file(path), form), of_split.annotations.get(image.id, []))
    categories = [
        {"id": data.category_ids[index], "name": name, **form.category(index)}
        for index, name in data.class_names.items()
    ]
    _write(out, {"images": images, "annotations": collector.annotations, "categories": categories})
    notes += collector.notes()
    written = collector.annotations
    return ExportSummary(out, len(images), len(written), collector.restored, collector.crowds, tuple(notes))


def _yaml(path: Path) -> Path:
    """The path, or the YAML that a folder or the name of a shipped one means."""
    bare = path.suffix not in (".yaml", ".yml") and not os.path.lexists(path)
    return dataset_file(str(path)) if bare or path.is_dir() else path


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


def _splits(data: Dataset, role: str | None, out: Path, notes: list[str]) -> Iterator[_Split]:
    roles = data.roles(role)
    for name, paths in roles.items():
        # Roboflow and others name a test split always; Ultralytics asks for it only where it is evaluated.
        if name == "test" and len(roles) > 1 and (absent := next((p for p in paths if not p.exists()), None)):
            notes.append(f"test is left out: there is no {absent}.")
        else:
            yield _read_split(data, name, paths, out)


def _read_split(data: Dataset, role: str, paths: list[Path], out: Path) -> _Split:
    folder, names = image_files(paths)
    source = data.annotations(role)
    if source is None or not source.is_file():
        return _Split(folder, names)
    if out.exists() and not out.is_symlink() and out.samefile(source):
        raise DatasetError(f"{out}: the data set was converted from this very file. Choose another one to write.")
    original = read_annotations(source, folder, skip_invalid="any", detailed=True, whole=True)
    annotations: dict[int, list[DetailedAnnotation]] = defaultdict(list)
    for annotation in chain.from_iterable(batch() for batch in original.batches):
        if isinstance(annotation, DetailedAnnotation) and annotation.category_id in data.category_ids.values():
            annotations[annotation.image_id].append(annotation)
    return _Split(folder, names, {image.file_name: image for image in original.images.values()}, annotations)


def _without_repeats(splits: Sequence[_Split], notes: list[str]) -> list[_Split]:
    """The splits, with an image that several have only in the first of them."""
    seen: set[Path] = set()
    found, repeated = [], 0
    for split in splits:
        names = [name for name in split.names if split.folder / name not in seen]
        if len(names) < len(split.names):
            repeated += len(split.names) - len(names)
            ids = {split.images[name].id for name in names if name in split.images}
            kept = {image_id: of for image_id, of in split.annotations.items() if image_id in ids}
            split = replace(split, names=names, annotations=kept)
        seen |= {split.folder / name for name in names}
        found.append(split)
    if repeated:
        notes.append(number_and_noun(repeated, "image{ is|s are} in several splits; each is written once."))
    return found


def _file_names(splits: Sequence[_Split], notes: list[str]) -> dict[Path, str]:
    """Image → the file name to write: relative to its split, unless splits share names; then to all splits."""
    names = {split.folder / name: name for split in splits for name in split.names}
    if len(set(names.values())) == len(names):
        return names
    common = Path(os.path.commonpath([split.folder for split in splits]))
    notes.append(f"Images of several splits have the same name; names are relative to {common} therefore.")
    return {path: path.relative_to(common).as_posix() for path in names}


def _image_ids(splits: Sequence[_Split], names: Mapping[Path, str]) -> dict[Path, int]:
    """Image → id, over all splits: the original; else the number in the name if all have one; else a new one."""
    known = {s.folder / name: s.images[name].id for s in splits for name in s.names if name in s.images}
    taken = _unique("image id", known.values())
    new = sorted(names.keys() - known.keys(), key=lambda path: names[path])
    # Ultralytics' predictions.json calls an image by such a number as well.
    numbers = [int(path.stem) for path in new if path.stem.isdecimal()]
    if len(numbers) < len(new) or len({*numbers, *taken}) < len(numbers) + len(taken):
        numbers = list(range(max(taken, default=0) + 1, max(taken, default=0) + 1 + len(new)))
    return known | dict(zip(new, numbers, strict=True))


def _unique(what: str, values: Iterable[K]) -> set[K]:
    seen: set[K] = set()
    for value in values:
        if value in seen:
            raise DatasetError(
                f"the splits of this data set share the {what} {value!r}, so one file cannot hold them all. "
                "Write them one by one, with --split."
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
    form: LabelForm
    new_ids: Iterator[int]
    annotations: list[dict[str, Any]] = field(default_factory=list)
    restored: int = 0
    crowds: int = 0
    odd: Counter[str] = field(default_factory=Counter)

    def add(self, image: ImageRecord, labels: list[Label], originals: list[DetailedAnnotation]) -> None:
        """The objects of an image: for each label the original that gave it, if one did, and crowds that gave none."""
        polygons = any(label.is_polygon for label in labels)
        class_of = {category_id: index for index, category_id in self.category_ids.items()}
        unused: dict[str, list[DetailedAnnotation]] = defaultdict(list)
        for annotation in sorted(originals, key=lambda annotation: bool(annotation.iscrowd)):
            unused[_label_of(annotation, class_of[annotation.category_id], image, polygons)].append(annotation)
        seen: set[bytes] = set()
        for label in labels:
            if same := unused.get(label.text):
                self.annotations.append(self._restore(same.pop(0)) | label.pose(image.width, image.height))
            elif label.row not in seen:
                self.annotations.append(self._new(image, label))
            else:
                self.odd[_REPEATED] += 1
            seen.add(label.row)
        self._note_mixed(labels)
        left = {annotation.id for same in unused.values() for annotation in same}
        crowds = [annotation for annotation in originals if annotation.iscrowd and annotation.id in left]
        self.annotations += map(self._restore, crowds)
        self.crowds += len(crowds)

    def _restore(self, annotation: DetailedAnnotation) -> dict[str, Any]:
        self.restored += 1
        record: dict[str, Any] = msgspec.to_builtins(annotation)
        record["iscrowd"] = int(annotation.iscrowd)
        if record["segmentation"] is None:
            del record["segmentation"]
        return record

    def _new(self, image: ImageRecord, label: Label) -> dict[str, Any]:
        head = {"id": next(self.new_ids), "image_id": image.id, "category_id": self.category_ids[label.index]}
        pose = self.form.pose_of(label, image.width, image.height)
        if label.is_polygon:
            return {**head, **label.polygon(image.width, image.height), "iscrowd": 0, **pose}
        box = label.box(image.width, image.height)
        return {**head, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **pose}

    def _note_mixed(self, labels: Sequence[Label]) -> None:
        polygons = sum(label.is_polygon for label in labels)
        if 0 < polygons < len(labels):
            self.odd[_MIXED] += 1
        elif self.form.keypoints and not polygons and any(not label.keypoints for label in labels):
            self.odd[_WITHOUT_POSE] += 1

    def notes(self) -> list[str]:
        """A sentence on each kind of labels that Ultralytics does not read as they are written here, or not twice."""
        return [number_and_noun(self.odd[text], text) for text in (_REPEATED, _MIXED, _WITHOUT_POSE) if self.odd[text]]


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
    encoded = msgspec.json.encode(content)
    try:
        # Without a time, so that the same labels give the same bytes.
        write_atomic(out, gzip.compress(encoded, mtime=0) if out.suffix == ".gz" else encoded, shared=True)
    except OSError as error:
        raise DatasetError(
            f"{out}: cannot be written: {error}. Check the folder, free space and permissions."
        ) from error
