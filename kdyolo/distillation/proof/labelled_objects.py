"""Labelled objects of a data set's images that backbones are probed with, placed as training places them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from kdyolo.data.dataset_yaml import load_dataset
from kdyolo.data.image_names import image_files, label_file, refuse_odd_image
from kdyolo.data.image_verification import ImageVerifier, verify_image
from kdyolo.data.label_files import LabelForm, label_form, read_labels
from kdyolo.data.yolo_labels import Label
from kdyolo.distillation.geometry import STRETCH, place
from kdyolo.errors import DatasetError
from kdyolo.utils.progress import progress_over
from kdyolo.utils.text import number_and_noun, plural

FEWEST_OBJECTS, FEWEST_CLASSES, FEWEST_IMAGES = 10, 2, 3  # the last for each class
_SMALLEST_SIDE = 8.0  # pixels of the network's input, below which an object's box is no cell of any level
_MOST_CLASSES = 100_000  # of labels beside images
_NAMED = 3


@dataclass(frozen=True)
class LabelledObjects:
    """Objects whose class is to be told, by image.

    Attributes:
        files: Images with such objects.
        labels: Labels of each image's objects.
        class_names: Class index → name, of the classes that are asked for.
    """

    files: tuple[Path, ...]
    labels: tuple[tuple[Label, ...], ...]
    class_names: dict[int, str]

    @property
    def are_enough(self) -> bool:
        """Whether a classification of them says anything."""
        return len(self.classes) >= FEWEST_OBJECTS and len(self.class_names) >= FEWEST_CLASSES

    @property
    def classes(self) -> Tensor:
        """Class of each object [N], counted from 0 over the classes that are asked for."""
        place_of = {index: place for place, index in enumerate(self.class_names)}
        return torch.tensor([place_of[label.index] for labels in self.labels for label in labels])

    @property
    def images(self) -> Tensor:
        """Number of each object's image [N]."""
        return torch.tensor([image for image, labels in enumerate(self.labels) for _ in labels])

    def boxes(self, file: Path, area: Sequence[int]) -> Tensor:
        """Boxes [n, 4] of an image's objects on a canvas: left, top, right, bottom in pixels; none of other images.

        Args:
            file: The image.
            area: Left, top, width and height of the image on the canvas, in pixels.
        """
        left, top, width, height = area
        found = self._of_file.get(file, ())
        return torch.tensor([_corners(label, (left, top, width, height)) for label in found]).view(-1, 4)

    @cached_property
    def _of_file(self) -> dict[Path, tuple[Label, ...]]:
        return dict(zip(self.files, self.labels, strict=True))

    def batches(self, imgsz: int, resize: str, size: int) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """Images [B, 3, imgsz, imgsz], RGB in 0–1, and the boxes of each [n, 4]: left, top, right, bottom in pixels.

        Args:
            imgsz: Side of the square that images are put in, in pixels.
            resize: ``letterbox`` or ``stretch``.
            size: Images in a batch.

        Raises:
            DatasetError: An image can no longer be read.
        """
        starts = range(0, len(self.files), size)
        for start in progress_over(starts, "computing features", len(starts), "batches"):
            loaded = [_load(file, imgsz, resize) for file in self.files[start : start + size]]
            images = torch.stack([image for image, _ in loaded])
            files = self.files[start : start + size]
            yield images, [self.boxes(file, area) for file, (_, area) in zip(files, loaded, strict=True)]


def find_objects(
    data: Path, split: str, imgsz: int, resize: str, most_images: int | None = None, seed: int = 0
) -> LabelledObjects:
    """Find the objects of a split that are large enough and of classes that several images show.

    Args:
        data: Dataset YAML.
        split: ``train``, ``val`` or ``test``.
        imgsz: Side of the square that images are put in, in pixels: boxes below 8 pixels there are left out.
        resize: ``letterbox`` or ``stretch``.
        most_images: Number of images to draw by the seed; None: all.
        seed: Seed of that draw.

    Raises:
        DatasetError: The data set cannot be read, has images that cannot, or too few labelled objects or classes.
    """
    dataset = load_dataset(data)
    folder, names = image_files(dataset.roles(split)[split])
    if most_images is not None and most_images < len(names):
        chosen = np.random.default_rng([seed, len(names)]).permutation(len(names))[:most_images]
        names = [names[i] for i in sorted(chosen)]
    _check_readable(folder, names)
    form = label_form(dataset)
    found = {folder / name: read_labels(label_file(folder / name), form) for name in names}
    if not any(found.values()):
        raise DatasetError(f"{data}: no labels: expected objects in the {split} images, found {len(names):,} without.")
    kept = _usable(found, dataset.class_names, imgsz, resize)
    if not kept.are_enough:
        objects, of_classes = len(kept.classes), number_and_noun(len(kept.class_names), "class{|es}")
        raise DatasetError(
            f"{data}: too little to probe with in {split}: {plural(objects, 'object')} of {of_classes}. Expected at "
            f"least {FEWEST_OBJECTS} objects of {FEWEST_CLASSES} classes, each at least {_SMALLEST_SIDE:.0f} px wide "
            f"and high at {imgsz} px, and of each class in {FEWEST_IMAGES} images. Give more images, another --split, "
            "or a larger --imgsz."
        )
    return kept


def objects_beside(files: Sequence[Path], imgsz: int, resize: str) -> LabelledObjects | None:
    """Objects of images by the label files that lie where Ultralytics looks for them; no data set says what they mean.

    Args:
        files: The images.
        imgsz: Side of the square that images are put in, in pixels.
        resize: ``letterbox`` or ``stretch``.

    Returns:
        The objects, in the order of the images; None where there are none, too few, or text files of another meaning.
    """
    form = LabelForm(classes=_MOST_CLASSES)
    try:
        found = {file: read_labels(label_file(file), form) for file in files}
    except DatasetError:
        return None
    names = {label.index: str(label.index) for labels in found.values() for label in labels}
    kept = _usable(found, names, imgsz, resize)
    return kept if kept.are_enough else None


def _usable(found: Mapping[Path, list[Label]], names: Mapping[int, str], imgsz: int, resize: str) -> LabelledObjects:
    """The objects that are large enough, of classes that enough images show."""
    large = {file: _large(of, file, imgsz, resize) for file, of in found.items() if of}
    shown: dict[int, int] = {}
    for labels in large.values():
        for index in {label.index for label in labels}:
            shown[index] = shown.get(index, 0) + 1
    classes = {index: names[index] for index in sorted(shown) if shown[index] >= FEWEST_IMAGES}
    kept = {file: tuple(label for label in labels if label.index in classes) for file, labels in large.items()}
    kept = {file: labels for file, labels in kept.items() if labels}
    return LabelledObjects(tuple(kept), tuple(kept.values()), classes)


def _check_readable(folder: Path, names: list[str]) -> None:
    problems = ImageVerifier().problems(folder, names)
    if problems:
        shown = "; ".join(f"{folder / name}: {why}" for name, why in list(problems.items())[:_NAMED])
        raise DatasetError(
            f"{len(problems):,} of {number_and_noun(len(names), 'image{|s}')} cannot be read, e.g. {shown}. "
            "Mend or remove them."
        )


def _bounds(label: Label) -> tuple[float, float, float, float]:
    """Left, top, right and bottom as fractions of the image."""
    if label.is_polygon:
        xs, ys = label.coordinates[::2], label.coordinates[1::2]
        return min(xs), min(ys), max(xs), max(ys)
    cx, cy, w, h = label.coordinates
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def _corners(label: Label, area: tuple[int, int, int, int]) -> list[float]:
    """Left, top, right and bottom in pixels of the canvas, on which the image takes ``area``."""
    left, top, width, height = area
    x1, y1, x2, y2 = _bounds(label)
    return [left + x1 * width, top + y1 * height, left + x2 * width, top + y2 * height]


def _large(labels: list[Label], file: Path, imgsz: int, resize: str) -> list[Label]:
    area = _area(file, imgsz, resize)
    corners = [_corners(label, area) for label in labels]
    wide = [min(x2 - x1, y2 - y1) >= _SMALLEST_SIDE for x1, y1, x2, y2 in corners]
    return [label for label, enough in zip(labels, wide, strict=True) if enough]


def _area(file: Path, imgsz: int, resize: str) -> tuple[int, int, int, int]:
    facts = verify_image(file)
    if facts.problem:
        raise DatasetError(f"{file}: not an image that can be read ({facts.problem}).")
    scale = imgsz / max(facts.width, facts.height)
    if resize == STRETCH:
        return 0, 0, imgsz, imgsz
    return 0, 0, round(facts.width * scale), round(facts.height * scale)


def _load(file: Path, imgsz: int, resize: str) -> tuple[Tensor, tuple[int, int, int, int]]:
    refuse_odd_image(file)
    pixels = cv2.imread(str(file))
    if pixels is None:
        raise DatasetError(f"{file}: not an image that can be read.")
    canvas, area = place(pixels.astype(np.uint8, copy=False), imgsz, resize)
    return torch.from_numpy(canvas[..., ::-1].copy()).permute(2, 0, 1).float() / 255, area
