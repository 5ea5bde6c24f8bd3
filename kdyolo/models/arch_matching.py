"""Architecture matching: the arch that a set of tensor shapes fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache

import torch
from ultralytics.nn.tasks import parse_model
from ultralytics.utils.ops import make_divisible

from kdyolo.models.arch import (
    BN_COUNTER,
    FAMILIES,
    SCALES,
    UNCAPPED,
    Arch,
    backbone_rows,
    build_layers,
    family_yaml,
    stock_scale,
)


def fitting_archs(shapes: Mapping[str, Sequence[int]], matched: Arch | None = None) -> tuple[list[Arch], int]:
    """The archs whose tensors agree best with the given names and shapes, and how many agree.

    There are several where families differ in what their tensors do but not in their shapes (YOLO11 and YOLO26), unless
    the tensors of a neck and head tell them apart.

    Args:
        shapes: Layer name → shape; neck and head may be among them.
        matched: An arch whose every tensor is known to be there; then only families of the same layers are looked at.
    """
    candidates = _twins(matched) if matched else _candidates(shapes)
    if len(candidates) == 1:
        return candidates, len(shapes)
    counts = {arch: _agreeing(_expected_shapes(arch), shapes) for arch in candidates}
    most = max(counts.values())
    best = [arch for arch, count in counts.items() if count == most]
    best = [arch for arch in best if arch.max_channels == best[0].max_channels]  # where a cap caps nothing, the first
    if len(best) > 1 and any(int(name.partition(".")[0]) >= len(backbone_rows(best[0].family)) for name in shapes):
        heads = {arch: _agreeing(_detector_shapes(arch), shapes) for arch in best}
        best = [arch for arch in best if heads[arch] == max(heads.values())]
    return best, most


def _twins(arch: Arch) -> list[Arch]:
    """The arch, and those of other families with the same kinds of layers."""

    def kinds(family: str) -> list[str]:
        return [row[2] for row in backbone_rows(family)]

    return [Arch(f, arch.scale, arch.max_channels) for f in FAMILIES if kinds(f) == kinds(arch.family)]


def _candidates(shapes: Mapping[str, Sequence[int]]) -> list[Arch]:
    candidates = [
        Arch(family, scale, cap)
        for family in FAMILIES
        for scale in SCALES
        for cap in dict.fromkeys((stock_scale(family, scale)[2], UNCAPPED))
    ]
    stem = next(iter(shapes.get("0.conv.weight", ())), None)  # its width rules out most of them without building them
    return [arch for arch in candidates if _stem_width(arch) == stem] or candidates


def fit_arch(shapes: Mapping[str, Sequence[int]], family: str | None = None) -> tuple[Arch, int]:
    """The arch that fits best and how many tensors agree; ``family`` decides where several fit equally."""
    best, agreeing = fitting_archs(shapes)
    return next((arch for arch in best if arch.family == family), best[0]), agreeing


def _agreeing(expected: Mapping[str, torch.Size], shapes: Mapping[str, Sequence[int]]) -> int:
    return sum(
        tuple(shapes.get(name, ())) == tuple(shape) and not name.endswith(BN_COUNTER)
        for name, shape in expected.items()
    )


def _stem_width(arch: Arch) -> int:
    width = stock_scale(arch.family, arch.scale)[1]
    return int(make_divisible(min(backbone_rows(arch.family)[0][3][0], arch.max_channels) * width, 8))


@lru_cache
def _expected_shapes(arch: Arch) -> Mapping[str, torch.Size]:
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in build_layers(arch).state_dict().items()}


@lru_cache
def _detector_shapes(arch: Arch) -> Mapping[str, torch.Size]:
    """Shapes of the whole stock detector's tensors, by name."""
    with torch.device("meta"):
        layers, _ = parse_model({**deepcopy(family_yaml(arch.family)), "scale": arch.scale}, ch=3, verbose=False)
        return {name: tensor.shape for name, tensor in layers.state_dict().items()}
