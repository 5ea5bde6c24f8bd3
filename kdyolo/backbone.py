"""The distilled backbone as a module: images in, one feature map per pyramid level out.

Its layers are built by Ultralytics from the family's own model YAML, so there is no second description of the
architecture to keep in step; channels and strides are read off the layers, never typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import parse_model, yaml_model_load
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from kdyolo.checkpoint import ULTRALYTICS_BN_EPS, BackboneCheckpoint, LoadReport, read_checkpoint
from kdyolo.errors import CheckpointError, ModelError

FAMILIES = ("yolov8",)
SCALES = "nsmlx"
LEVELS = ("P3", "P4", "P5")
UNCAPPED = 1024  # YOLOv8's widest row: a cap this high caps nothing
BN_MOMENTUM = 0.03  # Ultralytics' value
COUNTER = "num_batches_tracked"  # a scalar in every BatchNorm: it fits anywhere and proves nothing


@dataclass(frozen=True)
class Arch:
    """Which backbone: family, scale letter, and the cap on row widths before they are scaled (``max_channels``)."""

    family: str
    scale: str
    max_channels: int

    @property
    def name(self) -> str:
        """Family and scale in one word, e.g. ``"yolov8s"``."""
        return f"{self.family}{self.scale}"

    @property
    def yaml_name(self) -> str:
        """The model YAML with these widths: a stock name where the last stage is capped and kdyolo's is not."""
        stock = stock_scale(self.family, self.scale)[2]
        return f"{'kd' if stock == UNCAPPED or self.max_channels != stock else ''}{self.name}.yaml"

    @classmethod
    def parse(cls, name: str, max_channels: int | None = None) -> Arch:
        """``"yolov8s"`` → its arch; ``max_channels`` defaults to the stock cap of that scale.

        Raises:
            ModelError: Unknown family or scale.
        """
        family, scale = name[:-1], name[-1:]
        if family not in FAMILIES or scale not in SCALES:
            raise ModelError(
                f"unknown backbone {name!r}: expected one of {FAMILIES} followed by one of {list(SCALES)}."
            )
        return cls(family, scale, max_channels or stock_scale(family, scale)[2])


@dataclass(frozen=True)
class LayerShape:
    """What comes out of one backbone layer: channels, and stride in pixels of the input image."""

    channels: int
    stride: int


class DistilledBackbone(nn.Module):
    """A YOLO backbone that returns a list of feature maps, one for each pyramid level asked for.

    Args:
        arch: Family and scale, e.g. ``"yolov8s"``.
        max_channels: Cap on row widths before scaling. Default: the stock cap of that scale (m: 768, l and x: 512);
            ``UNCAPPED`` for backbones whose last stage is not capped.
        bn_eps: Epsilon of every BatchNorm.
        levels: Names of the levels to return, shallow to deep (``"P2"`` … ``"P5"``: strides 4 … 32). Layers deeper than
            the last level are not built.

    Attributes:
        layers: The stock layers, numbered as in the family's YAML.
        channels: Channels of each returned map.
        strides: Stride of each returned map, in pixels.

    Raises:
        ModelError: Unknown arch or level.
    """

    def __init__(
        self,
        arch: str = "yolov8n",
        max_channels: int | None = None,
        bn_eps: float = ULTRALYTICS_BN_EPS,
        levels: Sequence[str] = LEVELS,
    ) -> None:
        super().__init__()
        self.arch = Arch.parse(arch, max_channels)
        self.levels = tuple(levels)
        self.taps = level_taps(self.arch, self.levels)
        self.layers: nn.Sequential = build_layers(self.arch, self.taps[-1] + 1)
        shapes = layer_shapes(self.arch)
        self.channels = tuple(shapes[tap].channels for tap in self.taps)
        self.strides = tuple(shapes[tap].stride for tap in self.taps)
        for module in self.layers.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BN_MOMENTUM
        self._folded: tuple[nn.Sequential, ...] = ()  # a tuple hides the copy from nn.Module
        self.set_bn_eps(bn_eps)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] (RGB in 0–1, H and W multiples of 32) → maps [B, channels, H/stride, W/stride]."""
        features, x = [], images.contiguous(memory_format=torch.channels_last) if self.folded else images
        for i, layer in enumerate(self._folded[0] if self.folded else self.layers):
            x = layer(x)
            if i in self.taps:
                features.append(x)
        return features

    @property
    def parts(self) -> dict[str, list[nn.Module]]:
        """Layers by part, shallow to deep: ``stem`` (stride 2), ``p2`` (stride 4) … ``p5``."""
        parts: dict[str, list[nn.Module]] = {}
        for layer, shape in zip(self.layers, layer_shapes(self.arch), strict=False):
            name = "stem" if shape.stride == 2 else f"p{shape.stride.bit_length() - 1}"
            parts.setdefault(name, []).append(layer)
        return parts

    def set_folded(self, on: bool) -> None:
        """Compute through a copy in NHWC with BatchNorm folded into the convolutions: same features, faster on CPUs.

        Only while nothing of the backbone changes: the copy does not follow. It has no gradients, and it is not a part
        of the module, so that parameters, state dict and checkpoints stay as they are.
        """
        self._folded = (_folded_copy(self.layers),) if on else ()

    @property
    def folded(self) -> bool:
        """Whether :meth:`set_folded` is on."""
        return bool(self._folded)

    def set_bn_eps(self, eps: float) -> None:
        """Set every BatchNorm's epsilon; Ultralytics resets it to 1e-3 when it builds a model around this module."""
        self.bn_eps = eps
        for module in self.layers.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = eps


def _folded_copy(layers: nn.Sequential) -> nn.Sequential:
    copy = deepcopy(layers).eval().requires_grad_(False)
    for module in copy.modules():
        if isinstance(module, Conv):
            module.conv = fuse_conv_and_bn(module.conv, module.bn)
            module.forward = module.forward_fuse
            del module.bn
    return copy.to(memory_format=torch.channels_last)


# ---- the architecture, as Ultralytics describes it -------------------------------------------------------------------


@lru_cache
def _family_yaml(family: str) -> dict[str, Any]:
    description: dict[str, Any] = yaml_model_load(f"{family}.yaml")
    return description


def stock_scale(family: str, scale: str) -> tuple[float, float, int]:
    """Depth factor, width factor and channel cap of a stock scale."""
    depth, width, max_channels = _family_yaml(family)["scales"][scale]
    return depth, width, max_channels


def backbone_rows(family: str) -> list[list[Any]]:
    """The family's own backbone rows ``[from, repeats, module, args]``, a fresh copy."""
    rows: list[list[Any]] = deepcopy(_family_yaml(family)["backbone"])
    return rows


def build_layers(arch: Arch, count: int | None = None) -> nn.Sequential:
    """The first ``count`` backbone layers (default: all), randomly initialised, built by Ultralytics' own parser."""
    depth, width, _ = stock_scale(arch.family, arch.scale)
    description = {
        "nc": 1,
        "scale": arch.scale,
        "scales": {arch.scale: [depth, width, arch.max_channels]},
        "backbone": backbone_rows(arch.family)[:count],
        "head": [],
    }
    layers, _ = parse_model(description, ch=3, verbose=False)
    return layers  # type: ignore[no-any-return]


@lru_cache
def layer_shapes(arch: Arch) -> tuple[LayerShape, ...]:
    """Channels and stride after each layer, found by sending a shape (no data) through the network."""
    size = 64
    with torch.device("meta"):
        x, shapes = torch.zeros(1, 3, size, size), []
        for layer in build_layers(arch).eval():
            x = layer(x)
            shapes.append(LayerShape(x.shape[1], size // x.shape[2]))
    return tuple(shapes)


def level_taps(arch: Arch, levels: Sequence[str]) -> tuple[int, ...]:
    """Layer numbers whose outputs are the named levels: the last layer at stride 2^k is level ``Pk``.

    Raises:
        ModelError: A level that this backbone does not have, or levels out of order.
    """
    last = {f"P{shape.stride.bit_length() - 1}": i for i, shape in enumerate(layer_shapes(arch))}
    unknown = [level for level in levels if level not in last]
    if unknown or not levels:
        raise ModelError(f"{arch.name} has no level {unknown or '(none given)'}: expected some of {sorted(last)}.")
    taps = tuple(last[level] for level in levels)
    if list(taps) != sorted(set(taps)):
        raise ModelError(f"levels must go from shallow to deep, each once; found {list(levels)}.")
    return taps


@lru_cache
def _expected_shapes(arch: Arch) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_layers(arch).state_dict().items()}


def fit_arch(shapes: Mapping[str, Sequence[int]]) -> tuple[Arch, int]:
    """The arch whose tensors agree best with the given names and shapes, and how many agree.

    Args:
        shapes: YOLOv8 layer name → shape.
    """

    def agreeing(arch: Arch) -> int:
        return sum(
            tuple(shapes.get(name, ())) == tuple(shape) and not name.endswith(COUNTER)
            for name, shape in _expected_shapes(arch).items()
        )

    candidates = [
        Arch(family, scale, cap)
        for family in FAMILIES
        for scale in SCALES
        for cap in dict.fromkeys((stock_scale(family, scale)[2], UNCAPPED))
    ]
    best = max(candidates, key=agreeing)
    return best, agreeing(best)


# ---- filling it ------------------------------------------------------------------------------------------------------


def checkpoint_arch(checkpoint: BackboneCheckpoint) -> Arch:
    """The arch that a checkpoint's shapes fit.

    Raises:
        CheckpointError: Hardly any tensor has the shape that some known backbone expects.
    """
    arch, agreeing = fit_arch({name: tensor.shape for name, tensor in checkpoint.tensors.items()})
    if agreeing == 0:
        name, tensor = next(iter(checkpoint.tensors.items()))
        raise CheckpointError(
            f"{checkpoint.path}: nothing matched. Expected a {' / '.join(FAMILIES)} backbone of scale "
            f"{', '.join(SCALES)}; found e.g. {checkpoint.origin[name]} with shape {list(tensor.shape)}."
        )
    return arch


def fill(backbone: DistilledBackbone, checkpoint: BackboneCheckpoint, allow_partial: bool = False) -> LoadReport:
    """Copy a checkpoint's tensors into a backbone and set its BatchNorm epsilon.

    Args:
        backbone: Filled in place.
        checkpoint: What :func:`kdyolo.checkpoint.read_checkpoint` returned.
        allow_partial: Accept missing, unexpected and misshapen tensors; they are listed in the report.

    Returns:
        The report.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of another shape and ``allow_partial`` is false; or nothing
            matched at all.
    """
    report = compare(backbone, checkpoint)
    own = backbone.layers.state_dict()
    nothing = all(name.endswith(COUNTER) for name in _matching(own, checkpoint.tensors))
    if nothing or not (report.complete or allow_partial):
        raise CheckpointError(_why_not(report, nothing))
    with torch.no_grad():
        for name in _matching(own, checkpoint.tensors):
            own[name].copy_(checkpoint.tensors[name])
    backbone.set_bn_eps(checkpoint.bn_eps)
    return report


def compare(backbone: DistilledBackbone, checkpoint: BackboneCheckpoint) -> LoadReport:
    """How a checkpoint's names and shapes fit a backbone; nothing is loaded."""
    own = backbone.layers.state_dict()
    all_layers, built = len(backbone_rows(backbone.arch.family)), len(backbone.layers)
    dropped, unexpected = dict(checkpoint.dropped), list(checkpoint.unexpected)
    for name in checkpoint.tensors:
        layer = int(name.split(".", 1)[0])
        if layer >= all_layers:
            dropped["neck and head"] = dropped.get("neck and head", 0) + 1
        elif layer >= built:
            part = f"layers deeper than {backbone.levels[-1]}"
            dropped[part] = dropped.get(part, 0) + 1
        elif name not in own:
            unexpected.append(checkpoint.origin[name])
    matching = _matching(own, checkpoint.tensors)
    wrong = [
        f"{checkpoint.origin[name]} (expected {list(own[name].shape)}, found {list(checkpoint.tensors[name].shape)})"
        for name in own
        if name in checkpoint.tensors and checkpoint.tensors[name].shape != own[name].shape
    ]
    return LoadReport(
        model=backbone.arch.name,
        matched=len(matching),
        total=len(own),
        values=sum(own[name].numel() for name in matching),
        missing=tuple(name for name in own if name not in checkpoint.tensors),
        unexpected=tuple(unexpected),
        wrong_shape=tuple(wrong),
        dropped=dropped,
        fits=checkpoint_arch(checkpoint).name,
        path=str(checkpoint.path),
        sha256=checkpoint.sha256,
        source=checkpoint.source,
        epoch=checkpoint.epoch,
        bn_eps=checkpoint.bn_eps,
    )


def differing(backbone: DistilledBackbone, tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the backbone's tensors that are not, bit for bit, the given ones of equal name and shape."""
    own = backbone.layers.state_dict()
    return [name for name in _matching(own, tensors) if not torch.equal(own[name].cpu(), tensors[name])]


def load_backbone(
    path: str | Path,
    *,
    levels: Sequence[str] = LEVELS,
    allow_partial: bool = False,
    bn_eps: float | None = None,
) -> DistilledBackbone:
    """Read a distilled backbone from a file, as an ``nn.Module`` in eval mode that reproduces the original network.

    Args:
        path: ``.pt``, ``.pth`` or ``.safetensors`` file in any supported layout.
        levels: Pyramid levels that ``forward`` returns.
        allow_partial: Accept a file that does not fill the backbone; the report is logged.
        bn_eps: BatchNorm epsilon, where the file's own (or its format's) is not right.

    Returns:
        The backbone; ``forward(images [B, 3, H, W] in 0–1)`` gives ``[P3, P4, P5]`` of strides 8, 16, 32.

    Raises:
        CheckpointError: See :func:`kdyolo.checkpoint.read_checkpoint` and :func:`fill`.
    """
    checkpoint = read_checkpoint(path, bn_eps)
    arch = checkpoint_arch(checkpoint)
    backbone = DistilledBackbone(arch.name, arch.max_channels, checkpoint.bn_eps, levels)
    report = fill(backbone, checkpoint, allow_partial)
    if not report.complete:
        LOGGER.warning(report.table())
    return backbone.eval()


def _matching(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    return [name for name in own if name in tensors and tensors[name].shape == own[name].shape]


def _why_not(report: LoadReport, nothing: bool) -> str:
    if nothing:
        problem = "nothing matched, so the backbone would stay random"
    else:
        problem = f"does not fill the backbone of {report.model}"
    advice = (
        f"The shapes fit {report.fits}: use --model kd{report.fits}.yaml."
        if report.fits != report.model
        else "Check that the whole backbone was exported, or accept the rest random with --allow-partial."
    )
    counts = (
        f"matched {report.matched} of {report.total}, missing {len(report.missing)}, "
        f"unexpected {len(report.unexpected)}, wrong shape {len(report.wrong_shape)}"
    )
    return f"{report.path}: {problem} ({counts}).\n{report.table()}\n{advice}"
