"""Objectness: pairs of an object and a background box of its size in the same image, which features should tell apart.

This is what every place of a detector's head decides first. Classes are many, and most have few objects; here every
object counts for the same question. A pair has one size and one image, so that neither tells anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdyolo.data.dataset_yaml import load_dataset
from kdyolo.data.image_names import label_file
from kdyolo.data.image_verification import verify_image
from kdyolo.data.label_files import label_form, read_labels
from kdyolo.distillation.geometry import area_on_canvas
from kdyolo.distillation.proof.labelled_objects import FEWEST_IMAGES, FEWEST_OBJECTS, LabelledObjects

_TRIES = 200  # places that a background box is looked for at
_MOST_COVERED = 0.1  # share of it that any labelled object may cover


@dataclass(frozen=True)
class Background:
    """Background boxes beside objects, by image.

    Attributes:
        boxes: Boxes [m, 4] of each image: left, top, right and bottom in pixels of the network's input.
        paired: Which of each image's objects [n] have one; m of them are True. Large objects leave no place for one.
    """

    boxes: tuple[Tensor, ...]
    paired: tuple[Tensor, ...]

    @property
    def are_objects(self) -> Tensor:
        """Of all boxes, each image's objects before its background: whether each is an object."""
        kinds = [torch.arange(len(p) + len(b)) < len(p) for p, b in zip(self.paired, self.boxes, strict=True)]
        return torch.cat(kinds)

    @property
    def in_pairs(self) -> Tensor:
        """Of all boxes, in the same order: whether each is of a pair."""
        pairs = zip(self.paired, self.boxes, strict=True)
        return torch.cat([part for p, b in pairs for part in (p, torch.ones(len(b), dtype=torch.bool))])

    @property
    def images(self) -> Tensor:
        """Number of the image of each box that is of a pair, counted from 0 over the images that have pairs."""
        sizes = torch.tensor([2 * len(boxes) for boxes in self.boxes if len(boxes)], dtype=torch.long)
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    @property
    def are_enough(self) -> bool:
        """Whether telling them apart says anything."""
        with_pairs = sum(1 for boxes in self.boxes if len(boxes))
        return sum(map(len, self.boxes)) >= FEWEST_OBJECTS and with_pairs >= FEWEST_IMAGES


def draw_background(objects: LabelledObjects, data: Path, imgsz: int, resize: str, seed: int) -> Background:
    """Draw a background box for each object that leaves a place for one.

    It has the object's size, lies wholly in the image, and no labelled object, however small, of whatever class, covers
    more than a tenth of it.

    Args:
        objects: The objects.
        data: Dataset YAML that they are of.
        imgsz: Side of the square that images are put in, in pixels.
        resize: ``letterbox`` or ``stretch``.
        seed: Seed of the places.
    """
    form = label_form(load_dataset(data))
    every = LabelledObjects(objects.files, tuple(tuple(read_labels(label_file(f), form)) for f in objects.files), {})
    drawn = []
    for number, file in enumerate(objects.files):
        facts = verify_image(file)
        area = area_on_canvas(facts.width, facts.height, imgsz, resize)
        places = np.random.default_rng([seed, number])
        drawn.append(_beside(objects.boxes(file, area), every.boxes(file, area), area, places))
    return Background(tuple(boxes for boxes, _ in drawn), tuple(paired for _, paired in drawn))


def _beside(objects: Tensor, every: Tensor, area: Sequence[int], places: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Background boxes [m, 4] of one image, and which objects [n] have one."""
    start, room = torch.tensor(area[:2]), torch.tensor(area[2:])
    found, paired = [], []
    for box in objects:
        size = box[2:] - box[:2]
        corners = start + torch.from_numpy(places.random((_TRIES, 2))).float() * (room - size).clamp(min=0)
        tried = torch.cat([corners, corners + size], dim=1)
        free = _covered(tried, every) <= _MOST_COVERED
        paired.append(bool(free.any()))
        found += [tried[free][:1]] if free.any() else []
    return torch.cat(found) if found else objects.new_zeros(0, 4), torch.tensor(paired, dtype=torch.bool)


def _covered(boxes: Tensor, objects: Tensor) -> Tensor:
    """Largest share [n] of each box that one of the objects covers."""
    left_top = torch.maximum(boxes[:, None, :2], objects[None, :, :2])
    right_bottom = torch.minimum(boxes[:, None, 2:], objects[None, :, 2:])
    common = (right_bottom - left_top).clamp(min=0).prod(2)
    return (common / (boxes[:, 2:] - boxes[:, :2]).prod(1, keepdim=True)).amax(1)
