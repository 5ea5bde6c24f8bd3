"""Views: one random crop, flip, colour and mixture of an image, shown alike to teacher and student.

Every view follows from the seed of the run, the epoch and the image alone: neither the order of images nor the number
of worker processes changes it, and resuming needs no random state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from kdyolo.distillation.feature_cache import FeatureCache, ImageStamp
from kdyolo.distillation.geometry import Grid, area_on_canvas, coverage, place
from kdyolo.errors import DatasetError

_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
_MOST_KEPT = 512 << 20  # bytes of decoded images that are kept in memory
_MIXTURE = 0.4  # of the beta distribution that images are mixed by


@dataclass(frozen=True)
class Views:
    """A batch of images as both networks see it.

    Attributes:
        student: Images [B, 3, S, S] in 0–1, red first.
        teacher: The same views [B, 3, T, T] at the teacher's size.
        seen: Left, top, width and height [B, 4] of each image on the student's canvas, in pixels.
        taught: The same on the teacher's canvas.
        mixed: ``seen`` of the image that each is mixed with; None where none is.
        kept: The teacher's maps [B, C, h, w] of these views out of a cache; None where the teacher is asked.
    """

    student: Tensor
    teacher: Tensor
    seen: Tensor
    taught: Tensor
    mixed: Tensor | None = None
    kept: tuple[Tensor, ...] | None = None

    def overlap(self, grid: Grid) -> Tensor:
        """How much the image mixed in covers each cell [B, 1, cells, cells]; 1 where none is."""
        return torch.ones(1, device=self.seen.device) if self.mixed is None else coverage(grid, self.mixed)

    def to(self, device: torch.device) -> Views:
        """The views on a device, images as floats in 0–1."""
        student = self.student.to(device, non_blocking=True)
        same = self.teacher is self.student
        teacher = student if same else self.teacher.to(device, non_blocking=True)
        student = student.float() / 255
        kept = None if self.kept is None else tuple(maps.to(device, non_blocking=True) for maps in self.kept)
        areas = (self.seen.to(device), self.taught.to(device))
        return Views(student, student if same else teacher.float() / 255, *areas, kept=kept)

    def mixture(self, probability: float, generator: torch.Generator) -> Views:
        """Each image mixed with its neighbour in the batch, in one share for the whole batch (Zhang et al. 2018).

        Args:
            probability: How often a batch is mixed at all.
            generator: Source of chance, on the CPU.
        """
        if float(torch.rand((), generator=generator)) >= probability:
            return self
        share = float(np.random.default_rng(generator.initial_seed()).beta(_MIXTURE, _MIXTURE))

        def mix(images: Tensor) -> Tensor:
            return images * share + images.roll(1, 0) * (1 - share)

        student = mix(self.student)
        teacher = student if self.teacher is self.student else mix(self.teacher)
        return replace(self, student=student, teacher=teacher, mixed=self.seen.roll(1, 0))


@dataclass(frozen=True)
class ViewOptions:
    """How views are drawn.

    Attributes:
        size: Side of the student's images, in pixels.
        teacher_size: Side of the teacher's images, in pixels.
        resize: ``letterbox`` or ``stretch``, of images that are not cropped.
        crop: How often a part of the image is cropped, as a probability.
        flip: How often it is mirrored.
        colour: How often its colours change.
    """

    size: int
    teacher_size: int
    resize: str
    crop: float = 0.0
    flip: float = 0.0
    colour: float = 0.0


class ViewSet(Dataset[tuple[Any, ...]]):
    """Views of images; of an epoch, each image's is always the same.

    Args:
        files: The images.
        options: How views are drawn.
        seed: Seed of the run.

    Attributes:
        cache: The teacher's features of the images, whole or mirrored; None where the teacher sees each view.
    """

    def __init__(self, files: Sequence[Path], options: ViewOptions, seed: int) -> None:
        self.files, self.options, self.seed, self.epoch = list(files), options, seed, 0
        self.cache: FeatureCache | None = None
        self._stamps: list[ImageStamp] = []
        side = max(options.size, options.teacher_size)
        self._side = side
        self._crop = v2.RandomResizedCrop((side, side), scale=(0.3, 1.0), antialias=True)
        self._colour = v2.ColorJitter(0.4, 0.4, 0.3, 0.05)
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._bytes = 0

    def use(self, cache: FeatureCache | None) -> None:
        """Take the teacher's features from a cache that has those of all images."""
        self.cache = cache
        self._stamps = [ImageStamp.of(file) for file in self.files] if cache else []

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """The canvases (uint8, red first) of one view and where the image lies on each."""
        image = self._image(index)
        drawn = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(drawn))
            image, mirrored = self._view(image)
        options = self.options
        student, seen = place(image, options.size, options.resize)
        if self.cache is not None:
            height, width = image.shape[:2]
            taught = area_on_canvas(width, height, options.teacher_size, options.resize)
            return student, None, seen, taught, self.cache.read(self._stamps[index], mirrored)
        if options.teacher_size == options.size:
            return student, None, seen, seen, None
        teacher, taught = place(image, options.teacher_size, options.resize)
        return student, teacher, seen, taught, None

    def _view(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
        """A view of an image, and whether it is mirrored."""
        options = self.options
        crop, flip, colour = (float(v) for v in torch.rand(3))
        if not (crop < options.crop or flip < options.flip or colour < options.colour):
            return image, False
        view = torch.from_numpy(image).permute(2, 0, 1)
        if crop < options.crop:
            view = self._crop(view)
        if flip < options.flip:
            view = v2.functional.horizontal_flip(view)
        if colour < options.colour:
            view = self._colour(self._shrunk(view))
        return np.ascontiguousarray(view.permute(1, 2, 0).numpy()), flip < options.flip

    def _shrunk(self, view: Tensor) -> Tensor:
        """A view as small as the larger canvas shows it, if it is larger: colours of what is not shown cost as much."""
        height, width = view.shape[1:]
        wide, high = area_on_canvas(width, height, self._side, self.options.resize)[2:]
        if wide * high >= width * height:
            return view
        small = cv2.resize(view.permute(1, 2, 0).numpy(), (wide, high), interpolation=cv2.INTER_LINEAR)
        return torch.from_numpy(small).permute(2, 0, 1)

    def _image(self, index: int) -> NDArray[np.uint8]:
        """An image [H, W, 3], red first; decoded smaller where crops of it are needed only much smaller."""
        if index in self._kept:
            return self._kept[index]
        path = self.files[index]
        factor = 1
        if self.options.crop:
            with Image.open(path) as header:
                factor = max(n for n in _REDUCED if n == 1 or max(header.size) >= 2 * n * self._side)
        found = cv2.imread(str(path), _REDUCED[factor])
        if found is None:
            raise DatasetError(f"{path}: cannot be read any more. Put it back or mend it, then go on with "
                               "--resume.")  # fmt: skip
        image: NDArray[np.uint8] = np.ascontiguousarray(found[:, :, ::-1])
        if self._bytes + image.nbytes <= _MOST_KEPT:
            self._kept[index] = image
            self._bytes += image.nbytes
        return image


def stack_views(samples: Sequence[tuple[Any, ...]]) -> Views:
    """Samples of a :class:`ViewSet` as one batch, its images as bytes; one tensor for both where sizes are equal."""
    students, teachers, seen, taught, kept = zip(*samples, strict=True)

    def images(canvases: Sequence[NDArray[np.uint8]]) -> Tensor:
        return torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2).contiguous()

    student = images(students)
    teacher = student if teachers[0] is None else images(teachers)
    maps = None if kept[0] is None else tuple(torch.stack(found) for found in zip(*kept, strict=True))
    return Views(student, teacher, torch.tensor(seen), torch.tensor(taught), kept=maps)
