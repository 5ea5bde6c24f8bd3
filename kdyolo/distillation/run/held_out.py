"""Held-out images of a distillation: loss and feature quality after an epoch, what position alone gives, a picture.

The centred cosine takes each channel's mean over the whole held-out set off, not each cell's: means of cells would be
those of a few images, so that every student would be judged by another yardstick, and figures of other tools could not
be set beside. But features depend on where a cell lies (borders, padding, what usually stands in the middle), so a
student that never looks scores above 0. What it scores is measured: each cell predicted by its mean over training
images, the *floor* of a level, which stands beside the level's cosine in ``results.csv``. Beside it stands the cosine
with each cell's mean off all the same, ``content/P3`` and so on, which is 0 for such a student.

The images are shown whole and unchanged after each epoch, so the teacher would say the same of them each time: its
targets are kept in memory, where those of all images fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kdyolo.distillation.losses import MapLoss
from kdyolo.distillation.proof.feature_pictures import draw_feature_pairs
from kdyolo.distillation.proof.feature_quality import FeatureQualityMeter
from kdyolo.distillation.proof.labelled_objects import LabelledObjects
from kdyolo.distillation.proof.object_features import join_levels, knn_accuracy, pool_objects
from kdyolo.distillation.student import Student
from kdyolo.distillation.taps import STRIDES
from kdyolo.distillation.targets import LevelTarget, TargetSource
from kdyolo.distillation.views import Views

_MOST_KEPT = 512 << 20  # bytes of targets that are kept


@dataclass(frozen=True, eq=False)
class HeldOutImages:
    """Images that are never learned from, and what is measured on them.

    Attributes:
        student: The student.
        source: Where its targets come from.
        loss: Loss of a map.
        levels: Taught levels, shallow to deep.
        count: Number of the images.
        batches: Gives them, whole and unchanged, in order.
        files: The files, in the same order.
        objects: Labelled objects on them; None where there are none.
    """

    student: Student
    source: TargetSource
    loss: MapLoss
    levels: tuple[str, ...]
    count: int
    batches: Callable[[], Iterator[Views]]
    files: Sequence[Path] = ()
    objects: LabelledObjects | None = None
    _kept: list[list[LevelTarget]] = field(default_factory=list)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Columns of ``results.csv``: loss in all and of each level, and its quality as :class:`FeatureQuality` has it.

        Where there are labelled objects, also the share in 0–1 that 5 nearest neighbours in other images tell the class
        of, from the features in their boxes, of each level and joined.
        """
        was_training = self.student.training
        self.student.eval()
        losses = dict.fromkeys(self.levels, 0.0)
        meters = {level: FeatureQualityMeter(self.count) for level in self.levels}
        pooled: list[list[Tensor]] = []
        seen = 0
        for views, targets in self._taught():
            maps = self.student.features(views.student)
            if self.objects:
                pooled.append(self._pooled(self.objects, maps, views, seen))
            seen += len(views.student)
            for level, features, target in zip(self.levels, maps, targets, strict=True):
                predicted = self.student.heads[level](features)
                meters[level].update(predicted, target.values, target.weight, features)
                losses[level] += float(self.loss(predicted, target.values, target.weight)) * len(views.student)
        self.student.train(was_training)
        losses = {level: total / self.count for level, total in losses.items()}
        proof = {level: meter.result() for level, meter in meters.items()}
        return {
            "val/loss": sum(losses.values()) / len(losses),
            **{f"val/loss_{level}": value for level, value in losses.items()},
            **{f"cosine/{level}": found.centred_cosine for level, found in proof.items()},
            **{f"content/{level}": found.content_cosine for level, found in proof.items()},
            **{f"dead/{level}": found.dead_channels for level, found in proof.items()},
            **{f"rank/{level}": found.effective_rank for level, found in proof.items()},
            **(self._neighbours(self.objects, pooled) if self.objects else {}),
        }

    def _taught(self) -> Iterator[tuple[Views, list[LevelTarget]]]:
        """Each batch with its targets, which are kept if those of all images fit."""
        for number, views in enumerate(self.batches()):
            if number < len(self._kept):
                device = views.seen.device
                yield views, [LevelTarget(t.values.to(device), t.weight.to(device)) for t in self._kept[number]]
                continue
            targets = self.source(views)
            size = sum(tensor.numel() * tensor.element_size() for t in targets for tensor in (t.values, t.weight))
            if size / len(views.seen) * self.count <= _MOST_KEPT:
                self._kept.append([LevelTarget(t.values.cpu(), t.weight.cpu()) for t in targets])
            yield views, targets

    def _pooled(self, objects: LabelledObjects, maps: Sequence[Tensor], views: Views, first: int) -> list[Tensor]:
        """Features [n, C] of the objects of a batch, level by level; ``first`` is the number of its first image."""
        files = self.files[first : first + len(views.seen)]
        boxes = [objects.boxes(file, area) for file, area in zip(files, views.seen.tolist(), strict=True)]
        found = pool_objects(maps, [STRIDES[level] for level in self.levels], boxes)
        return [features.float().cpu() for features in found]

    def _neighbours(self, objects: LabelledObjects, pooled: Sequence[Sequence[Tensor]]) -> dict[str, float]:
        levels = dict(zip(self.levels, (torch.cat(parts) for parts in zip(*pooled, strict=True)), strict=True))
        features = {**levels, "joined": join_levels(list(levels.values()))}
        classes, images = objects.classes, objects.images
        return {f"knn/{level}": knn_accuracy(values, classes, images) for level, values in features.items()}

    @torch.no_grad()
    def floors(self, training: Iterable[Views]) -> dict[str, float]:
        """Level → centred cosine of predicting each cell's mean over training images, without looking at any image.

        Args:
            training: Images to learn from, whole and unchanged, as the held-out ones are shown.
        """
        sums: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        for views in training:
            for level, target in zip(self.levels, self.source(views), strict=True):
                sums[level] = sums.get(level, 0) + (target.values * target.weight).sum(0, keepdim=True)
                weights[level] = weights.get(level, 0) + target.weight.sum(0, keepdim=True)
        meters = {level: FeatureQualityMeter(self.count) for level in self.levels}
        for _, targets in self._taught():
            for level, target in zip(self.levels, targets, strict=True):
                mean = sums[level] / weights[level].clamp(min=1e-6)
                meters[level].update(mean.expand_as(target.values), target.values, target.weight)
        return {level: meter.result().centred_cosine for level, meter in meters.items()}

    @torch.no_grad()
    def draw(self, path: Path, count: int = 4) -> None:
        """Draw some of the images with what the teacher says of them and what the student predicts."""
        self.student.eval()
        views, targets = next(self._taught())
        both = zip(self.levels, targets, self.student(views.student), strict=True)
        levels = {
            level: (target.values[:count], predicted[:count], target.weight[:count])
            for level, target, predicted in both
        }
        draw_feature_pairs(views.student[:count], levels, path)
