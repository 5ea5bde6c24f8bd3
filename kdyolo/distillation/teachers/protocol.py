"""Teacher protocol: a frozen network from images in 0–1 to feature maps whose cells lie at known places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kdyolo.errors import ConfigError
from kdyolo.utils.text import quoted


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


@torch.inference_mode()
def check_answer(teacher: Teacher, indices: Iterable[int], device: torch.device) -> None:
    """Ask a teacher about one grey image, and compare its answer with what it says of itself.

    A map of another stride than said would be learned at the wrong places, which shows in no number.

    Args:
        teacher: The teacher; a module is moved to the device.
        indices: Indices of the maps that are looked at.
        device: Device that it will be asked on.

    Raises:
        ConfigError: It fails, its maps are others, or are not numbers.
    """
    if isinstance(teacher, nn.Module):
        teacher.to(device).eval()
    size, start = teacher.size, f"teacher {teacher.name}"
    try:
        answer = list(teacher(torch.full((1, 3, size, size), 0.5, device=device)))
    except Exception as e:  # whatever a network raises on images of a size that it cannot take
        raise ConfigError(
            f"{start}: fails on an image of {size} px ({type(e).__name__}: {quoted(e)}). Try another --teacher-size."
        ) from e
    if len(answer) != len(teacher.maps):
        raise ConfigError(f"{start}: expected the {len(teacher.maps)} maps that it names, it gave {len(answer)}.")
    for index in sorted(set(indices)):
        if wrong := _wrong_answer(teacher.maps[index], answer[index], size):
            raise ConfigError(f"{start}, map {teacher.maps[index].name}: {wrong}")


def _wrong_answer(described: TeacherMap, found: object, size: int) -> str:
    """What is wrong with a map of one image; empty if nothing is."""
    if not isinstance(found, Tensor) or found.ndim != 4 or found.shape[:2] != (1, described.channels):
        what = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        return f"expected a tensor [B, {described.channels}, height, width], found {what} of one image."
    cells = tuple(found.shape[2:])
    if cells[0] != cells[1] or abs(cells[0] * described.stride - size) > described.stride:
        return (
            f"expected {size / described.stride:g} cells along each side of {size} px at stride {described.stride}, "
            f"found {cells[0]}×{cells[1]}. Try another --teacher-size, or another teacher."
        )
    return "" if bool(found.isfinite().all()) else "NaN or Inf in it. Look at the teacher's weights."
