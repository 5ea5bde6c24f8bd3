"""Teacher protocol: a frozen network from images in 0–1 to feature maps whose cells lie at known places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class TeacherMap:
    """One feature map of a teacher.

    Attributes:
        name: Name of the map, by which a tap may ask for it, e.g. ``"blocks.2"``.
        channels: Number of channels.
        stride: Stride of the cells, in pixels of the teacher's image.
        offset: Shift of the cells in pixels: the centre of cell i lies at ``(i + 0.5) * stride + offset``.
    """

    name: str
    channels: int
    stride: int
    offset: float = 0.0


class Teacher(Protocol):
    """What distillation needs of a teacher; any module with these attributes is one.

    Attributes:
        name: Name of the network, e.g. ``"vit_small_patch16_dinov3"``.
        digest: SHA-256 of its weights.
        licence: Licence of its weights, as published; None where unknown.
        size: Side of the square images that it takes, in pixels.
        mean: Mean of each channel that it takes off the images itself.
        std: Deviation of each channel by which it divides them itself.
        maps: Feature maps in the order in which a call returns them, shallow to deep.
    """

    name: str
    digest: str
    licence: str | None
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    maps: tuple[TeacherMap, ...]

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """Images [B, 3, size, size] (RGB in 0–1) → maps [B, channels, height, width], one for each of ``maps``."""


@runtime_checkable
class FoldingTeacher(Protocol):
    """A teacher that can compute the same maps faster on a CPU, once its weights are there for good."""

    def fold(self) -> None:
        """Compute as fast as a CPU can from now on."""


def fold_teacher(teacher: Teacher) -> None:
    """Have a teacher compute as fast as a CPU can, where it knows how."""
    if isinstance(teacher, FoldingTeacher):
        teacher.fold()
