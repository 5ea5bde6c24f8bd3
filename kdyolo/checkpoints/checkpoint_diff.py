"""Differences of two checkpoints, by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from kdyolo.arguments import checked
from kdyolo.checkpoints.loading import ReadKeywords, checkpoint_arch
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.models.arch import layer_shapes
from kdyolo.models.yaml_layouts import family_of
from kdyolo.utils.tables import ShownAsTable, aligned
from kdyolo.utils.text import plural, printable, shortened


@dataclass(frozen=True)
class StageDiff:
    """Differences of two checkpoints in one part of the backbone.

    Attributes:
        name: Name of the part: ``stem``, ``p2`` … ``p5``.
        tensors: Number of tensors that both have.
        differing: Number of those tensors whose values differ.
        largest: Largest absolute difference of two values.
        relative: Norm of the difference over the norm of the first file's tensors.
        worst: Name of the tensor with the largest difference, if any.
    """

    name: str
    tensors: int
    differing: int
    largest: float
    relative: float
    worst: str | None


@dataclass(frozen=True, repr=False)
class CheckpointDiff(ShownAsTable):
    """Differences of two checkpoints.

    Attributes:
        parts: Differences in each part of the backbone, shallow to deep.
        only_first: Names of tensors that only the first checkpoint has.
        only_second: Names of tensors that only the second checkpoint has.
        other_shape: Names of tensors whose shapes differ.
        bn_eps: BatchNorm epsilons of the first and the second checkpoint.
    """

    parts: tuple[StageDiff, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    other_shape: tuple[str, ...]
    bn_eps: tuple[float, float]

    @property
    def equal(self) -> bool:
        """Whether both hold the same backbone, to the last bit."""
        names = self.only_first or self.only_second or self.other_shape
        return not names and not any(part.differing for part in self.parts) and self.bn_eps[0] == self.bn_eps[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "equal": self.equal}

    def headline(self) -> str:
        """Whether they are equal, else how much of them differs."""
        if self.equal:
            return "equal to the last bit"
        tensors, differing = (sum(getattr(part, name) for part in self.parts) for name in ("tensors", "differing"))
        others = len(self.only_first) + len(self.only_second) + len(self.other_shape)
        rest = f", {plural(others, 'other')} not in both" if others else ""
        return f"{differing:,} of {plural(tensors, 'tensor')} differ{rest}"

    def table(self) -> str:
        """A line for each part, and what else differs."""
        rows = [["stage", "tensors", "differ", "largest", "relative", "where"]]
        for p in self.parts:
            numbers = [str(p.tensors), str(p.differing), f"{p.largest:.3g}", f"{p.relative:.2%}"]
            rows.append([p.name, *numbers, p.worst or ""])
        lines = aligned(rows, "<>>>><")
        for title, names in (
            ("only in the first", self.only_first),
            ("only in the second", self.only_second),
            ("other shape", self.other_shape),
        ):
            if names:
                lines.append(f"{title}: {len(names)}, e.g. {names[0]}")
        if self.bn_eps[0] != self.bn_eps[1]:
            lines.append(f"BatchNorm epsilon: {self.bn_eps[0]:g} and {self.bn_eps[1]:g}")
        lines.append("equal to the last bit" if self.equal else "not equal")
        return "\n".join(shortened(printable(line), 1000) for line in lines)


@checked
def compare_checkpoints(
    first: str | Path, second: str | Path, *, model: str | None = None, **how: Unpack[ReadKeywords]
) -> CheckpointDiff:
    """Where two checkpoints' backbones differ, whatever names and containers they use.

    Args:
        first: A file that ``--backbone`` takes.
        second: Another.
        model: Model YAML that says of which family the backbones are, where the shapes fit several.
        **how: As in :func:`kdyolo.checkpoints.reader.read_checkpoint`.

    Raises:
        CheckpointError: A file cannot be read or holds no backbone.

    Examples:
        >>> from kdyolo import compare_checkpoints
        >>> diff = compare_checkpoints("ckpt.pth", "ckpt.pth")
        >>> print(diff.table())  # and diff.to_dict()
    """
    a, b = (read_checkpoint(path, **how) for path in (first, second))
    shapes = layer_shapes(checkpoint_arch(a, family_of(model)))
    common = [n for n in a.tensors if n in b.tensors and a.tensors[n].shape == b.tensors[n].shape]
    parts: dict[str, list[str]] = {}
    for name in common:
        layer = int(name.partition(".")[0])
        stride = shapes[layer].stride if layer < len(shapes) else 0
        part = {0: "head", 2: "stem"}.get(stride, f"p{stride.bit_length() - 1}")
        parts.setdefault(part, []).append(name)
    return CheckpointDiff(
        parts=tuple(_difference(part, names, a.tensors, b.tensors) for part, names in parts.items()),
        only_first=tuple(n for n in a.tensors if n not in b.tensors),
        only_second=tuple(n for n in b.tensors if n not in a.tensors),
        other_shape=tuple(n for n in a.tensors if n in b.tensors and n not in common),
        bn_eps=(a.bn_eps, b.bn_eps),
    )


def _difference(part: str, names: Sequence[str], a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> StageDiff:
    changed = [n for n in names if not torch.equal(a[n], b[n])]
    apart = {n: (a[n].double() - b[n].double()) for n in changed}
    largest = {n: float(d.abs().max()) for n, d in apart.items()}
    norm = sum(float(a[n].double().square().sum()) for n in names) ** 0.5
    distance = sum(float(d.square().sum()) for d in apart.values()) ** 0.5
    worst = max(largest, key=largest.__getitem__) if largest else None
    return StageDiff(
        part, len(names), len(changed), max(largest.values(), default=0.0), distance / norm if norm else 0.0, worst
    )
