"""Targets: a teacher's maps on the student's cells, standardised per channel by statistics that were measured first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from kdyolo.distillation.geometry import Grid, bring_to, coverage
from kdyolo.distillation.taps import STRIDES
from kdyolo.distillation.teachers.protocol import Teacher, fold_teacher
from kdyolo.distillation.views import Views
from kdyolo.errors import RunError

_SMALLEST = 1e-4  # deviation of a channel, relative to the usual one, by which is still divided


@dataclass(frozen=True)
class LevelTarget:
    """What one level of the student is to predict.

    Attributes:
        values: Standardised target [B, C, h, w] on the student's cells, in float32.
        weight: Weight of each cell [B, 1, h, w] in 0–1: the share of it that is image.
    """

    values: Tensor
    weight: Tensor


class TargetSource(Protocol):
    """Where targets come from: a live teacher, or what was kept of one."""

    def __call__(self, views: Views) -> list[LevelTarget]:
        """Targets of a batch, one for each tap, shallow to deep."""


class LiveTargets:
    """Targets of a teacher that runs along.

    Args:
        teacher: The teacher; a module is moved to the device.
        taps: Level → index of the teacher's map, shallow to deep.
        imgsz: Side of the student's images, in pixels.
        device: Device to compute on.
        amp: Whether half precision was asked for; see :func:`teacher_precision`.

    Attributes:
        statistics: Mean and deviation of each channel [C], level by level; 0 and 1 until they are measured.
    """

    def __init__(self, teacher: Teacher, taps: Mapping[str, int], imgsz: int, device: torch.device, amp: bool) -> None:
        self.teacher, self.taps, self.imgsz, self.device = teacher, dict(taps), imgsz, device
        self.precision = teacher_precision(device.type, amp, device.type == "cuda" and torch.cuda.is_bf16_supported())
        if isinstance(teacher, nn.Module):
            teacher.to(device).eval()
        if device.type == "cpu":  # on GPUs folding is not measured; with AMP it would also round otherwise
            fold_teacher(teacher)
        channels = {level: teacher.maps[index].channels for level, index in taps.items()}
        self.statistics = {
            level: (torch.zeros(n, device=device), torch.ones(n, device=device)) for level, n in channels.items()
        }

    def __call__(self, views: Views) -> list[LevelTarget]:
        """Standardised targets of a batch."""
        targets = []
        for level, raw in zip(self.taps, self.raw(views), strict=True):
            mean, std = (values.view(1, -1, 1, 1) for values in self.statistics[level])
            targets.append(
                LevelTarget((raw.values - mean) / std, raw.weight.clone())
            )  # of inference mode: not for gradients
        return targets

    def maps_of(self, views: Views) -> dict[int, Tensor]:
        """Index → the teacher's map [B, C, h, w], of those that teach a level, ascending: kept ones, or its answer."""
        indices = sorted(set(self.taps.values()))
        if views.kept is not None:
            return dict(zip(indices, views.kept, strict=True))
        with self._precision():
            maps = self.teacher(views.teacher)
        return {index: maps[index] for index in indices}

    @torch.inference_mode()
    def raw(self, views: Views) -> list[LevelTarget]:
        """Targets as the teacher gives them, on the student's cells; padding keeps whatever is there, at weight 0."""
        maps = self.maps_of(views)
        targets = []
        for level, index in self.taps.items():
            described, features = self.teacher.maps[index], maps[index]
            theirs = Grid(features.shape[-1], described.stride, described.offset)
            own = Grid(self.imgsz // STRIDES[level], STRIDES[level])
            values = bring_to(features, theirs, views.taught, own, views.seen)
            targets.append(LevelTarget(values, coverage(own, views.seen) * views.overlap(own)))
        return targets

    def measure(self, batches: Iterable[Views]) -> None:
        """Measure mean and deviation of each channel over the image's own cells of some batches.

        Raises:
            RunError: A map holds NaN or Inf, or is the same in all cells of all images.
        """
        sums = {level: [torch.zeros_like(m).double() for _ in range(2)] for level, (m, _) in self.statistics.items()}
        counts = dict.fromkeys(self.taps, 0.0)
        for views in batches:
            for level, raw in zip(self.taps, self.raw(views), strict=True):
                values = raw.values.double()
                counts[level] += float(raw.weight.sum())
                for power, total in enumerate(sums[level], start=1):
                    total += (values**power * raw.weight).sum((0, 2, 3))
        for level, (first, second) in sums.items():
            mean = first / counts[level]
            std = (second / counts[level] - mean.square()).clamp(min=0).sqrt()
            self._check_statistics(level, mean, std)
            std = std.clamp(min=max(_SMALLEST * float(std.median()), 1e-12))
            self.statistics[level] = (mean.float(), std.float())

    def _check_statistics(self, level: str, mean: Tensor, std: Tensor) -> None:
        name = self.teacher.maps[self.taps[level]].name
        start = f"teacher {self.teacher.name}, map {name} for {level}"
        if not bool((mean.isfinite() & std.isfinite()).all()):
            raise RunError(f"{start}: NaN or Inf in it. Look at the teacher's weights, and leave out --amp.")
        if bool((std <= _SMALLEST * mean.abs().clamp(min=1e-12)).all()):
            raise RunError(f"{start}: the same in all cells of all images, nothing can be learned. Choose another tap.")

    def take(self, statistics: Mapping[str, Sequence[Tensor]]) -> None:
        """Take mean and deviation of each channel [C] that were measured before, level by level.

        Raises:
            ValueError: They are of other levels or of another number of channels.
        """
        shapes = {level: [tuple(values.shape) for values in pair] for level, pair in statistics.items()}
        own = {level: [tuple(values.shape) for values in pair] for level, pair in self.statistics.items()}
        if shapes != own:
            raise ValueError(f"statistics of shapes {shapes}, expected {own}")
        self.statistics = {k: (mean.to(self.device), std.to(self.device)) for k, (mean, std) in statistics.items()}

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision is not None)


def teacher_precision(device: str, amp: bool, has_bf16: bool) -> torch.dtype | None:
    """What a teacher computes in; None: in float32.

    bf16 has the range of float32, so nothing overflows. That of fp16 is smaller, so it is only taken if asked for.

    Args:
        device: ``"cuda"``, or another kind of device, on which half precision is slower.
        amp: Whether half precision was asked for.
        has_bf16: Whether the device computes in bf16.
    """
    if device != "cuda":
        return None
    return torch.bfloat16 if has_bf16 else torch.float16 if amp else None
