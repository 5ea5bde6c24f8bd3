"""Layouts of a model YAML: kdyolo's ⇄ stock, and the resolved description of a named detector."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from kdyolo.errors import ModelError
from kdyolo.models.arch import FAMILIES, ULTRALYTICS_BN_EPS, Arch, backbone_rows, layer_shapes, level_taps
from kdyolo.models.model_yaml import (
    BACKBONE,
    BackboneRow,
    Row,
    Yaml,
    cap_at_stock,
    check_rows,
    is_nested,
    load_model_yaml,
    named_family,
    resolve,
    row_sources,
)

# ---- kdyolo layout ⇄ stock layout ------------------------------------------------------------------------------------


def to_stock_yaml(description: Yaml) -> Yaml:
    """A resolved kdyolo-layout description → the same network in the stock layout.

    Where the backbone is wider than the stock scale allows, the scale's cap is lifted and the neck's rows are written
    with the cap applied, so that stock parsing gives the same widths.
    """
    d = deepcopy(description)
    backbone = BackboneRow.from_yaml(d)
    arch = Arch.parse(backbone.arch, backbone.max_channels)
    taps = level_taps(arch, backbone.levels)
    built, first_head_row = taps[-1] + 1, 1 + len(backbone.levels)
    depth, width, cap = d["scales"][d["scale"]]
    head = _renumber(
        d["head"],
        first_head_row,
        lambda j: taps[j - 1] if 1 <= j < first_head_row else j - first_head_row + built,
    )
    if layer_shapes(arch)[:built] != layer_shapes(Arch.parse(arch.name, cap))[:built]:
        d["scales"] = {d["scale"]: [depth, width, arch.max_channels]}
        for row in head[:-1]:  # not the last, Detect, whose number is that of the classes
            row[3] = [min(a, cap) if type(a) is int else a for a in row[3]]
    stock_file = re.sub(r"^kd", "", Path(d.get("yaml_file", f"{arch.name}.yaml")).name)
    return {**d, "backbone": backbone_rows(arch.family)[:built], "head": head, "yaml_file": stock_file}


def from_stock_yaml(description: Yaml) -> Yaml:
    """A stock-layout description of a known family → the resolved kdyolo layout; inverse of :func:`to_stock_yaml`.

    Raises:
        ModelError: The backbone is not one of the known families', or the head uses layers that are no pyramid level.
    """
    check_rows(description)
    d, where = deepcopy(description), description.get("yaml_file", "model")
    rows, scale = d["backbone"], d.get("scale")
    family = next((f for f in FAMILIES if backbone_rows(f)[: len(rows)] == rows), None)
    if family is None or not scale or scale not in (d.get("scales") or {}):
        raise ModelError(f"{where}: its backbone rows are not those of {' or '.join(FAMILIES)} with a scale letter.")
    arch, built = Arch(family, scale, d["scales"][scale][2]), len(rows)
    shapes = layer_shapes(arch)
    absolute = [j if j >= 0 else built + i + j for i, row in enumerate(d["head"]) for j in row_sources(row)]
    taps = sorted({built - 1, *(j for j in absolute if j < built)})
    levels = [f"P{shapes[tap].stride.bit_length() - 1}" for tap in taps]
    if level_taps(arch, levels) != tuple(taps):
        raise ModelError(f"{where}: the head uses backbone layers {taps}, which are not the ends of pyramid levels.")
    first_head_row = 1 + len(levels)
    head = _renumber(d["head"], built, lambda j: taps.index(j) + 1 if j < built else j - built + first_head_row)
    eps = d.get("kd", {}).get("bn_eps", ULTRALYTICS_BN_EPS)
    picks: list[Row] = [[0, 1, "Index", [shapes[tap].channels, i]] for i, tap in enumerate(taps)]
    d.update(backbone=[[-1, 1, BACKBONE, []], *picks], head=head, yaml_file=f"kd{Path(where).name}")
    BackboneRow(arch.name, arch.max_channels, eps, tuple(levels)).to_yaml(d)
    return d


def family_of(cfg: str | Path | Yaml | None) -> str | None:
    """The backbone family that a YAML's name, path or description asks for, as far as it says without being built."""
    if cfg is None or (not isinstance(cfg, dict) and Path(cfg).suffix not in {".yaml", ".yml", ""}):
        return None
    if not isinstance(cfg, dict):
        stem = Path(cfg).stem.removeprefix("kd")
        if found := next((family for family in FAMILIES if stem.startswith(family)), None):
            return found
        cfg = load_model_yaml(cfg)
    try:
        return Arch.parse(BackboneRow.from_yaml(describe_detector(cfg)).arch).family
    except ModelError:  # not complete yet: a scale letter is still to come from the checkpoint
        return named_family(cfg) if is_nested(cfg) else None


def _renumber(rows: list[Row], start: int, new: Callable[[int], int]) -> list[Row]:
    """Head rows with their sources renumbered; -1 (the row before) stays, and means the same in both layouts."""
    out = []
    for i, row in enumerate(rows):
        sources = [j if j == -1 else new(j if j >= 0 else start + i + j) for j in row_sources(row)]
        out.append([sources if isinstance(row[0], list) else sources[0], *deepcopy(row[1:])])
    return out


def describe_detector(cfg: str | Path | Yaml, arch: Arch | None = None, bn_eps: float | None = None) -> Yaml:
    """Whatever names or describes a detector → its resolved kdyolo-layout description.

    Args:
        cfg: A YAML name or path, kdyolo's or stock (``yolov8s.yaml`` means ``kdyolov8s.yaml`` with stock
            widths), or a description in either layout.
        arch: Arch that a checkpoint's shapes fit; see :func:`resolve`.
        bn_eps: Epsilon of the backbone's BatchNorms; see :func:`resolve`.

    Raises:
        ModelError: Not found or not a detector with a known backbone.
    """
    if isinstance(cfg, dict):
        return resolve(cfg if is_nested(cfg) else from_stock_yaml(cfg), arch, bn_eps)
    stem = Path(cfg).stem
    if not Path(cfg).is_file() and stem.startswith(FAMILIES):  # a stock name: same graph, stock widths
        d = load_model_yaml(f"kd{Path(cfg).name}")
        if d["scale"]:
            cap_at_stock(d)
        return resolve(d, arch, bn_eps)
    d = load_model_yaml(cfg)
    return resolve(d if is_nested(d) else from_stock_yaml(d), arch, bn_eps)
