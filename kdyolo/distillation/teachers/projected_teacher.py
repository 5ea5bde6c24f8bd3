"""Teacher whose maps are projected to fewer channels by a PCA of their cells, so that a cache of them is smaller."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdyolo.distillation.geometry import Grid, coverage
from kdyolo.distillation.teachers.protocol import Teacher, fold_teacher


class ProjectedTeacher(nn.Module):
    """Another teacher, of whose maps only the first principal components are kept.

    Until they are measured, the first channels stand for them: as many, which is all that a plan needs to know.

    Args:
        teacher: The teacher, which gives everything but ``maps`` its own value.
        indices: Indices of the maps that are projected; others stay as they are.
        components: Number of channels to keep; a map that has no more keeps its own number.

    Attributes:
        teacher: The teacher.
        components: Number of channels that were asked for.
        explained: Name of a projected map → share in 0–1 of its variance that is kept; empty until it is measured.
    """

    def __init__(self, teacher: Teacher, indices: Iterable[int], components: int) -> None:
        super().__init__()
        self.teacher, self.components = teacher, components
        self.name, self.digest, self.licence = teacher.name, teacher.digest, teacher.licence
        self.size, self.mean, self.std = teacher.size, tuple(teacher.mean), tuple(teacher.std)
        self.report = getattr(teacher, "report", "own module")
        self.explained: dict[str, float] = {}
        self._indices = sorted(set(indices))
        maps = list(teacher.maps)
        for index in self._indices:
            own = maps[index].channels
            maps[index] = replace(maps[index], channels=min(own, components))
            self.register_buffer(f"centre{index}", torch.zeros(own))
            self.register_buffer(f"axes{index}", torch.eye(own)[:, : maps[index].channels].contiguous())
        self.maps = tuple(maps)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images as the teacher takes them → its maps, [B, components, h, w] of those that are projected."""
        maps = list(self.teacher(images))
        for index in self._indices:
            centre, axes = self.get_buffer(f"centre{index}"), self.get_buffer(f"axes{index}")
            maps[index] = torch.einsum("bchw,cn->bnhw", maps[index].float() - centre[:, None, None], axes)
        return maps

    def fold(self) -> None:
        """Have the teacher compute as fast as a CPU can, where it knows how."""
        fold_teacher(self.teacher)

    @torch.inference_mode()
    def measure(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Find the principal components of each map over the image's own cells; padding has no part in them.

        Args:
            batches: Images [B, 3, size, size] as the teacher takes them, and the left, top, width and height [B, 4] of
                each on its canvas, in pixels.
        """
        zero = torch.zeros((), dtype=torch.float64)
        sums = dict.fromkeys(self._indices, (zero, zero, zero))  # of weights, weighted cells, their outer products
        for images, areas in batches:
            maps = self.teacher(images)
            for index, (weight, first, second) in sums.items():
                described, features = self.teacher.maps[index], maps[index].double()
                grid = Grid(features.shape[-1], described.stride, described.offset)
                share = coverage(grid, areas).double().flatten()
                cells = features.permute(0, 2, 3, 1).flatten(0, 2)
                weighted = cells * share[:, None]
                sums[index] = weight + share.sum(), first + weighted.sum(0), second + weighted.T @ cells
        for index, (weight, first, second) in sums.items():
            centre = first / weight
            values, vectors = torch.linalg.eigh(second / weight - torch.outer(centre, centre))
            axes = vectors.flip(1)[:, : self.maps[index].channels]
            axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # one sign, whoever computes it
            kept = float(values.flip(0)[: axes.shape[1]].sum() / values.sum().clamp(min=1e-12))
            self.explained[self.maps[index].name] = kept
            self.get_buffer(f"centre{index}").copy_(centre)
            self.get_buffer(f"axes{index}").copy_(axes)

    def tensors(self) -> dict[str, Tensor]:
        """The projection by name, on the CPU."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.named_buffers(recurse=False)}

    def take(self, tensors: Mapping[str, Tensor], explained: Mapping[str, float]) -> None:
        """Project as was measured before.

        Args:
            tensors: What :meth:`tensors` gave.
            explained: What was in ``explained``.

        Raises:
            KeyError: A tensor is missing.
            RuntimeError: One has another shape.
        """
        for name, buffer in self.named_buffers(recurse=False):
            buffer.copy_(tensors[name])
        self.explained = dict(explained)

    @property
    def projection(self) -> str:
        """Hex digest of the projection."""
        found = hashlib.sha256()
        for name, tensor in sorted(self.tensors().items()):
            found.update(name.encode() + tensor.numpy().tobytes())
        return found.hexdigest()


def projection_of(teacher: Teacher) -> str:
    """Hex digest of a teacher's projection; empty where it has none."""
    return teacher.projection if isinstance(teacher, ProjectedTeacher) else ""


def components_of(teacher: Teacher) -> int:
    """Number of channels that a teacher's maps are projected to; 0 where they are not."""
    return teacher.components if isinstance(teacher, ProjectedTeacher) else 0


def explained_text(explained: Mapping[str, float], components: int) -> str:
    """How much a projection keeps, e.g. ``"PCA to 64 channels keeps 93.1% of the variance of blocks.2"``."""
    shares = ", ".join(f"{100 * share:.1f}% of the variance of {name}" for name, share in explained.items())
    return f"PCA to {components} channels keeps {shares}"
