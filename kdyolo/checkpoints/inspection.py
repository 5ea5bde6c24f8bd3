"""What is in a checkpoint: where it comes from, its stages in numbers, what it fits, how two differ, what it sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor
from ultralytics.data.augment import LetterBox

from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.reader import BackboneCheckpoint, read_checkpoint
from kdyolo.errors import CheckpointError, DatasetError
from kdyolo.models.arch import layer_shapes
from kdyolo.models.backbone import DistilledBackbone, checkpoint_arch, compare, fill

DEAD = 1e-4  # a BatchNorm whose scale, or whose input's standard deviation, is smaller gives a constant
LEVELS = ("P2", "P3", "P4", "P5")
LOSS_KEYS = ("loss", "val_loss", "train_loss", "best_loss", "best_val_loss")


@dataclass(frozen=True)
class Stage:
    """The layers of one part of a backbone, in numbers.

    Attributes:
        name: ``stem`` (stride 2), then ``p2`` … ``p5``.
        layers: Layer numbers.
        tensors: Number of tensors that the file has for it.
        values: Number of their values.
        dtypes: Their types in the file, e.g. ``("float32", "int64")``.
        mean: Mean of its convolution weights.
        std: Their standard deviation.
        channels: Number of its BatchNorm channels.
        dead: Share of them, in 0–1, whose output is constant: scale or input deviation below 1e-4.
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


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_checkpoint` found.

    Attributes:
        report: How the tensors fit the model that they fit best: source, counts, missing names, checksum.
        family: E.g. ``"yolov8"``.
        scale: ``"n"`` … ``"x"``.
        model: The model YAML to give to ``--model``.
        teacher: The teacher's name, if the file records it.
        loss: The loss, if the file records it.
        stages: Its parts, shallow to deep.
        kd: kdyolo's own record, in a checkpoint of a kdyolo run: source, schedule, recipe, versions, seed, git commit.
    """

    report: LoadReport
    family: str
    scale: str
    model: str
    teacher: str | None
    loss: float | None
    stages: tuple[Stage, ...]
    kd: dict[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "report": self.report.to_dict()}

    def table(self) -> str:
        """The report, what it fits, and a line for each stage."""
        lines = [self.report.table(), f"  fits        --model {self.model}"]
        lines += [f"  {name:<11} {value}" for name, value in (("teacher", self.teacher), ("loss", self.loss)) if value]
        lines.append(
            f"  {'stage':<6} {'layers':<7} {'tensors':>7} {'values':>12} {'mean':>9} {'std':>8} {'dead':>6}  type"
        )
        for stage in self.stages:
            layers = f"{stage.layers[0]}–{stage.layers[-1]}" if len(stage.layers) > 1 else str(stage.layers[0])
            lines.append(
                f"  {stage.name:<6} {layers:<7} {stage.tensors:>7} {stage.values:>12,} {stage.mean:>9.5f} "
                f"{stage.std:>8.5f} {stage.dead:>6.1%}  {', '.join(stage.dtypes)}"
            )
        if self.kd:
            record = yaml.safe_dump(self.kd, sort_keys=False, allow_unicode=True, width=110)
            lines += ["  made by kdyolo:", *(f"    {line}" for line in record.splitlines())]
        return "\n".join(lines)


def inspect_checkpoint(path: str | Path, **how: Any) -> Inspection:
    """Look into a checkpoint; nothing is loaded into a model, nothing is written.

    Args:
        path: Any file that ``--backbone`` takes, also a trained detector.
        **how: ``key_map``, ``bn_eps``, ``input_norm``, ``trust`` as in
            :func:`kdyolo.checkpoints.reader.read_checkpoint`.

    Returns:
        What was found; a backbone that is not complete is no error here, its report says what is missing.

    Raises:
        CheckpointError: The file cannot be read or holds no backbone.
    """
    checkpoint = read_checkpoint(path, **how)
    arch = checkpoint_arch(checkpoint)
    with torch.device("meta"):
        backbone = DistilledBackbone(arch.name, arch.max_channels)
    shapes = layer_shapes(arch)
    parts: dict[str, list[int]] = {}
    for number, shape in enumerate(shapes):
        parts.setdefault("stem" if shape.stride == 2 else f"p{shape.stride.bit_length() - 1}", []).append(number)
    stages = (_stage(name, numbers, checkpoint) for name, numbers in parts.items())
    kd = checkpoint.meta.get("kd")
    return Inspection(
        report=compare(backbone, checkpoint),
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


def _stage(name: str, numbers: Sequence[int], checkpoint: BackboneCheckpoint) -> Stage:
    own = {n: t for n, t in checkpoint.tensors.items() if int(n.partition(".")[0]) in numbers}
    weights = [t.double().flatten() for t in own.values() if t.ndim == 4] or [torch.zeros(1).double()]
    joined = torch.cat(weights)
    norms = [n.removesuffix("running_var") for n in own if n.endswith(".running_var") and n[:-11] + "weight" in own]
    dead = [(own[f"{n}weight"].abs() < DEAD) | (own[f"{n}running_var"].sqrt() < DEAD) for n in norms]
    channels = sum(d.numel() for d in dead)
    return Stage(
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


# ---- two files -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Where two checkpoints differ, in one part of the backbone.

    Attributes:
        name: The part: ``stem``, ``p2`` … ``p5``.
        tensors: Number of tensors that both have.
        differing: How many of them differ.
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


@dataclass(frozen=True)
class Comparison:
    """Two checkpoints side by side: ``parts``, and names that only one has or whose shapes differ."""

    parts: tuple[Difference, ...]
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

    def table(self) -> str:
        """A line for each part, and what else differs."""
        lines = [f"{'stage':<6} {'tensors':>7} {'differ':>7} {'largest':>10} {'relative':>9}  where"]
        for p in self.parts:
            lines.append(
                f"{p.name:<6} {p.tensors:>7} {p.differing:>7} {p.largest:>10.3g} {p.relative:>9.2%}  {p.worst or ''}"
            )
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
        return "\n".join(lines)


def compare_checkpoints(first: str | Path, second: str | Path, **how: Any) -> Comparison:
    """Where two checkpoints' backbones differ, whatever names and containers they use.

    Raises:
        CheckpointError: See :func:`inspect_checkpoint`.
    """
    a, b = (read_checkpoint(path, **how) for path in (first, second))
    shapes = layer_shapes(checkpoint_arch(a))
    common = [n for n in a.tensors if n in b.tensors and a.tensors[n].shape == b.tensors[n].shape]
    parts: dict[str, list[str]] = {}
    for name in common:
        layer = int(name.partition(".")[0])
        stride = shapes[layer].stride if layer < len(shapes) else 0
        part = {0: "head", 2: "stem"}.get(stride, f"p{stride.bit_length() - 1}")
        parts.setdefault(part, []).append(name)
    return Comparison(
        parts=tuple(_difference(part, names, a.tensors, b.tensors) for part, names in parts.items()),
        only_first=tuple(n for n in a.tensors if n not in b.tensors),
        only_second=tuple(n for n in b.tensors if n not in a.tensors),
        other_shape=tuple(n for n in a.tensors if n in b.tensors and n not in common),
        bn_eps=(a.bn_eps, b.bn_eps),
    )


def _difference(part: str, names: Sequence[str], a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Difference:
    differing = [n for n in names if not torch.equal(a[n], b[n])]
    apart = {n: (a[n].double() - b[n].double()) for n in differing}
    largest = {n: float(d.abs().max()) for n, d in apart.items()}
    norm = sum(float(a[n].double().square().sum()) for n in names) ** 0.5
    distance = sum(float(d.square().sum()) for d in apart.values()) ** 0.5
    worst = max(largest, key=largest.__getitem__) if largest else None
    return Difference(
        part, len(names), len(differing), max(largest.values(), default=0.0), distance / norm if norm else 0.0, worst
    )


# ---- what it sees ----------------------------------------------------------------------------------------------------


def draw_features(path: str | Path, image: str | Path, out: str | Path, imgsz: int = 640, **how: Any) -> Path:
    """Save what a backbone makes of an image: the image, and its features at each level as colours.

    Each map [C, H, W] is reduced to its three principal components over positions (PCA), shown as red, green and blue
    between their 1st and 99th percentile. A backbone that is alive shows the image's objects; a random or dead one
    shows noise or nothing.

    Args:
        path: The checkpoint.
        image: Any image that OpenCV reads.
        out: Picture to write.
        imgsz: Side of the square that the image is letterboxed to, in pixels.
        **how: As in :func:`inspect_checkpoint`.

    Returns:
        The picture.

    Raises:
        CheckpointError: The file cannot be read or does not fill a backbone.
        DatasetError: The image cannot be read, or the picture not written.
    """
    pixels = cv2.imread(str(image))
    if pixels is None:
        raise DatasetError(f"--image {image}: not an image that can be read.")
    checkpoint = read_checkpoint(path, **how)
    arch = checkpoint_arch(checkpoint)
    backbone = DistilledBackbone(arch.name, arch.max_channels, checkpoint.bn_eps, LEVELS).eval()
    if not fill(backbone, checkpoint, allow_partial=True).matched:
        raise CheckpointError(f"{path}: nothing matched.")
    square = LetterBox((imgsz, imgsz))(image=pixels)
    tensor = torch.from_numpy(square[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        maps = backbone(tensor)
    panels = [_titled(square, "image")]
    for level, stride, features in zip(LEVELS, backbone.strides, maps, strict=True):
        colours = cv2.resize(principal_colours(features[0]), (imgsz, imgsz), interpolation=cv2.INTER_NEAREST)
        panels.append(_titled(colours.astype(np.uint8), f"{level}, stride {stride}, {features.shape[1]} channels"))
    if not cv2.imwrite(str(out), np.concatenate(panels, axis=1)):
        raise DatasetError(
            f"{out}: cannot be written. Expected a name that ends in .png or .jpg, in an existing folder."
        )
    return Path(out)


def principal_colours(features: Tensor) -> NDArray[np.uint8]:
    """A feature map [C, H, W] → its first three principal components over positions, as an image [H, W, 3] in 0–255."""
    channels, height, width = features.shape
    rows = features.reshape(channels, -1).T.double()
    rows = rows - rows.mean(0)
    _, _, axes = torch.linalg.svd(rows, full_matrices=False)
    axes = axes[:3] * axes[:3].gather(1, axes[:3].abs().argmax(1, keepdim=True)).sign()  # else the sign is arbitrary
    parts = rows @ axes.T
    low, high = torch.quantile(parts, torch.tensor([0.01, 0.99], dtype=parts.dtype), dim=0)
    scaled = ((parts - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    image: NDArray[np.uint8] = (scaled * 255).round().byte().reshape(height, width, -1).numpy()
    return image


def _titled(image: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    strip = np.full((28, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, image], axis=0)
