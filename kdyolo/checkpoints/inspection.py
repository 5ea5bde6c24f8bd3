"""Summary of a checkpoint: its origin, its stages in numbers, and the model that it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from typing_extensions import Unpack

from kdyolo.arguments import checked
from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.loading import ReadKeywords, checkpoint_arch, match
from kdyolo.checkpoints.reader import BackboneCheckpoint, read_checkpoint
from kdyolo.models.arch import layer_shapes
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.yaml_layouts import family_of
from kdyolo.utils.tables import ShownAsTable, aligned
from kdyolo.utils.text import printable, shortened

DEAD = 1e-4  # a BatchNorm whose scale, or whose input's standard deviation, is smaller gives a constant
LOSS_KEYS = ("loss", "val_loss", "train_loss", "best_loss", "best_val_loss")


@dataclass(frozen=True)
class StageStats:
    """Statistics of the layers of one part of a backbone.

    Attributes:
        name: Name of the part: ``stem`` (stride 2), then ``p2`` … ``p5``.
        layers: Numbers of its layers.
        tensors: Number of its tensors in the file.
        values: Number of values in these tensors.
        dtypes: Types of these tensors in the file, e.g. ``("float32", "int64")``.
        mean: Mean of its convolution weights.
        std: Standard deviation of its convolution weights.
        channels: Number of its BatchNorm channels.
        dead: Share of its BatchNorm channels, in 0–1, whose output is constant: scale or input deviation below 1e-4.
    """

    name: str
    layers: tuple[int, ...]
    tensors: int
    values: int
    dtypes: tuple[str, ...]
    mean: float
    std: float
    channels: int
    dead: float


@dataclass(frozen=True, repr=False)
class CheckpointSummary(ShownAsTable):
    """What :func:`inspect_checkpoint` found.

    Attributes:
        report: How the tensors fit the model that they fit best: source, counts, missing names, checksum.
        family: Family of the best fitting backbone, e.g. ``"yolov8"``.
        scale: Scale letter of the best fitting backbone, ``"n"`` … ``"x"``.
        model: The model YAML to give to ``--model``.
        teacher: The teacher's name, if the file records it.
        loss: The loss, if the file records it.
        stages: Parts of the backbone, shallow to deep.
        kd: kdyolo's own record, in a checkpoint of a kdyolo run: source, schedule, recipe, versions, seed, git commit.
    """

    report: LoadReport
    family: str
    scale: str
    model: str
    teacher: str | None
    loss: float | None
    stages: tuple[StageStats, ...]
    kd: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "report": self.report.to_dict()}

    def table(self) -> str:
        """The report, what it fits, and a line for each stage."""
        lines = [self.report.table(), f"  fits        --model {self.model}"]
        teacher = shortened(printable(self.teacher), 200) if self.teacher else None
        lines += [f"  {name:<11} {value}" for name, value in (("teacher", teacher), ("loss", self.loss)) if value]
        rows = [["stage", "layers", "tensors", "values", "mean", "std", "dead", "type"]]
        for stage in self.stages:
            layers = f"{stage.layers[0]}–{stage.layers[-1]}" if len(stage.layers) > 1 else str(stage.layers[0])
            numbers = [f"{stage.values:,}", f"{stage.mean:.5f}", f"{stage.std:.5f}", f"{stage.dead:.1%}"]
            rows.append([stage.name, layers, str(stage.tensors), *numbers, ", ".join(stage.dtypes)])
        lines += aligned(rows, "<<>>>>><", indent=2)
        if self.kd:
            record = yaml.safe_dump(self.kd, sort_keys=False, allow_unicode=True, width=110)
            lines += ["  made by kdyolo:", *(f"    {line}" for line in record.splitlines())]
        return "\n".join(lines)


@checked
def inspect_checkpoint(path: str | Path, *, model: str | None = None, **how: Unpack[ReadKeywords]) -> CheckpointSummary:
    """Look into a checkpoint; nothing is loaded into a model, nothing is written.

    Args:
        path: Any file that ``--backbone`` takes, also a trained detector.
        model: Model YAML that says of which family the backbone is, where the shapes fit several.
        **how: ``key_map``, ``bn_eps``, ``input_norm``, ``trust`` as in
            :func:`kdyolo.checkpoints.reader.read_checkpoint`.

    Returns:
        What was found; a backbone that is not complete is no error here, its report says what is missing.

    Raises:
        CheckpointError: The file cannot be read or holds no backbone.

    Examples:
        >>> from kdyolo import inspect_checkpoint
        >>> inspect_checkpoint("ckpt.pth").report.matched
        162
    """
    checkpoint = read_checkpoint(path, **how)
    arch = checkpoint_arch(checkpoint, family_of(model))
    with torch.device("meta"):
        backbone = DistilledBackbone(arch.name, arch.max_channels)
    shapes = layer_shapes(arch)
    parts: dict[str, list[int]] = {}
    for number, shape in enumerate(shapes):
        parts.setdefault("stem" if shape.stride == 2 else f"p{shape.stride.bit_length() - 1}", []).append(number)
    stages = (_stage(name, numbers, checkpoint) for name, numbers in parts.items())
    kd = checkpoint.meta.get("kd")
    return CheckpointSummary(
        report=match(backbone, checkpoint),
        family=arch.family,
        scale=arch.scale,
        model=arch.yaml_name,
        teacher=checkpoint.teacher,
        loss=next((float(checkpoint.meta[key]) for key in LOSS_KEYS if _is_number(checkpoint.meta.get(key))), None),
        stages=tuple(stage for stage in stages if stage.tensors),
        kd=kd if isinstance(kd, dict) else None,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _stage(name: str, numbers: Sequence[int], checkpoint: BackboneCheckpoint) -> StageStats:
    own = {n: t for n, t in checkpoint.tensors.items() if int(n.partition(".")[0]) in numbers}
    weights = [t.double().flatten() for t in own.values() if t.ndim == 4] or [torch.zeros(1).double()]
    joined = torch.cat(weights)
    norms = [n.removesuffix("running_var") for n in own if n.endswith(".running_var") and n[:-11] + "weight" in own]
    dead = [(own[f"{n}weight"].abs() < DEAD) | (own[f"{n}running_var"].sqrt() < DEAD) for n in norms]
    channels = sum(d.numel() for d in dead)
    return StageStats(
        name=name,
        layers=tuple(numbers),
        tensors=len(own),
        values=sum(t.numel() for t in own.values()),
        dtypes=tuple(sorted({checkpoint.dtypes[n] for n in own})),
        mean=float(joined.mean()),
        std=float(joined.std()) if joined.numel() > 1 else 0.0,
        channels=channels,
        dead=sum(int(d.sum()) for d in dead) / channels if channels else 0.0,
    )
