"""Model YAMLs as dictionaries: find one, fill in what follows from the backbone, and go to the stock layout and back.

Two layouts describe one network. The *kdyolo* layout has the whole backbone in row 0 and picks pyramid levels from it
by name; the *stock* layout lists the backbone's layers one by one, as Ultralytics ships them. Rows read
``[from, repeats, module, args]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from ultralytics.nn.tasks import guess_model_scale

from kdyolo.checkpoints.key_naming import ULTRALYTICS_BN_EPS
from kdyolo.errors import ModelError
from kdyolo.models.arch import FAMILIES, Arch, backbone_rows, layer_shapes, level_taps, stock_scale
from kdyolo.utils.shipped_files import did_you_mean, shipped

BACKBONE = "DistilledBackbone"
Yaml = dict[str, Any]
Row = list[Any]


def load_model_yaml(name: str | Path) -> Yaml:
    """Read a model YAML by path or by bare name, shipped ones included; the scale letter is read from the name.

    Args:
        name: ``"kdyolov8s.yaml"``, ``"kdyolov8s"``, ``"path/to/mine.yaml"``.

    Returns:
        The description, with ``scale`` (empty if the name has no letter) and ``yaml_file`` added.

    Raises:
        ModelError: Not found, not YAML, or no model description.
    """
    path = Path(name) if Path(name).suffix in {".yaml", ".yml"} else Path(f"{name}.yaml")
    without_letter = re.sub(r"(\d+)([nslmx])(?=[-.])", r"\1", path.name)  # kdyolov8s-p2.yaml → kdyolov8-p2.yaml
    files = shipped("models")
    candidates = [path, path.with_name(without_letter)]
    if path.name == str(path):
        candidates += [files[n] for n in (path.name, without_letter) if n in files]
    found = next((p for p in candidates if p.is_file()), None)
    if found is None:
        names = [re.sub(r"(\d+)", rf"\1{s}", n, count=1) for n in files for s in "nsmlx"]
        raise ModelError(
            f"{name}: no such model YAML. Expected a path or one of {', '.join(files)} with a scale letter, "
            f"e.g. kdyolov8s.yaml.{did_you_mean(path.name, names)}"
        )
    try:
        description = yaml.safe_load(found.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ModelError(f"{found}: not a YAML file ({str(e).splitlines()[0]}).") from e
    if not isinstance(description, dict) or not {"backbone", "head", "nc"} <= description.keys():
        raise ModelError(f"{found}: not a model YAML. Expected the keys nc, backbone and head.")
    return {**description, "scale": guess_model_scale(path), "yaml_file": path.name}


def is_nested(description: Yaml) -> bool:
    """Whether a description is in the kdyolo layout."""
    rows = description["backbone"]
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], list) and BACKBONE in rows[0][2:3]


def resolve(description: Yaml, arch: Arch | None = None, bn_eps: float | None = None) -> Yaml:
    """Fill in what follows from the backbone: its scale, widths, BatchNorm epsilon, and the levels' channels.

    Args:
        description: A kdyolo-layout description, filled in already or not.
        arch: What a checkpoint's shapes fit. Gives the scale if the description has none, and the widths if the scales
            agree; if they disagree the description stands, and filling the backbone will say so.
        bn_eps: Epsilon of the backbone's BatchNorms. Default: what the description has, else Ultralytics' 1e-3.

    Raises:
        ModelError: Malformed rows, no scale letter, an unknown family or level.
    """
    _check_rows(description)
    d = deepcopy(description)
    where = d.get("yaml_file", "model YAML")
    rows: list[Row] = d["backbone"]
    if not is_nested(d) or any(row[2] != "Index" or row[0] != 0 for row in rows[1:]) or len(rows) < 2:
        raise ModelError(
            f"{where}: expected a backbone of one {BACKBONE} row followed by [0, 1, Index, [P3]]-like rows."
        )
    args = rows[0][3]
    if len(args) == 4:
        own, eps, levels = Arch.parse(args[0], args[1]), args[2], args[3]
    else:
        own, eps, levels = _own_arch(d, arch), ULTRALYTICS_BN_EPS, [row[3][0] for row in rows[1:]]
        if not all(isinstance(level, str) for level in levels):
            raise ModelError(f"{where}: Index rows name a level, e.g. [0, 1, Index, [P3]]; found {levels}.")
    if arch is not None and arch.name == own.name:
        own = arch
    taps, shapes = level_taps(own, levels), layer_shapes(own)
    d["scale"] = own.scale
    rows[0][3] = [own.name, own.max_channels, bn_eps or eps, list(levels)]
    for i, (row, tap) in enumerate(zip(rows[1:], taps, strict=True)):
        row[3] = [shapes[tap].channels, i]
    return d


def _check_rows(d: Yaml) -> None:
    where = d.get("yaml_file", "model YAML")
    for part in ("backbone", "head"):
        rows = d.get(part)
        for row in rows if isinstance(rows, list) and rows else [rows]:
            if not (isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)):
                raise ModelError(f"{where}: {part} takes rows [from, repeats, module, args]; found {row!r}.")
    if not isinstance(d.get("scales"), dict):
        raise ModelError(
            f"{where}: expected scales, each with a scale letter: n: [0.33, 0.25, 1024]; found {d.get('scales')!r}."
        )
    before = len(d["backbone"])
    sources = (j if j >= 0 else before + i + j for i, row in enumerate(d["head"]) for j in _sources(row))
    if is_nested(d) and before > 1 and 0 in sources:
        raise ModelError(f"{where}: a head row uses row 0, which is a list of maps; use the Index row of a level.")
    if is_nested(d) and not all(row[3] for row in d["backbone"][1:]):
        raise ModelError(f"{where}: an Index row names a level, e.g. [0, 1, Index, [P3]]; found no argument.")


def _own_arch(d: Yaml, arch: Arch | None) -> Arch:
    where, args = d.get("yaml_file", "model YAML"), d["backbone"][0][3]
    scale = d.get("scale") or (arch.scale if arch else "")
    if not scale:
        raise ModelError(f"{where}: no scale letter. Name one of n, s, m, l, x, e.g. kdyolov8s.yaml.")
    if not 1 <= len(args) <= 2 or args[0] not in FAMILIES:
        raise ModelError(f"{where}: {BACKBONE} takes [family, max_channels], family one of {FAMILIES}; found {args}.")
    stock_cap = stock_scale(args[0], scale)[2]
    if len(args) == 2 and (type(args[1]) is not int or args[1] < stock_cap):
        raise ModelError(
            f"{where}: max_channels of the backbone must be a number of at least {stock_cap}, scale {scale}'s own; "
            f"found {args[1]!r}. 1024 caps nothing."
        )
    return Arch.parse(f"{args[0]}{scale}", args[1] if len(args) == 2 else None)


# ---- kdyolo layout ⇄ stock layout ------------------------------------------------------------------------------------


def to_stock_yaml(description: Yaml) -> Yaml:
    """A resolved kdyolo-layout description → the same network in the stock layout.

    Where the backbone is wider than the stock scale allows, the scale's cap is lifted and the neck's rows are written
    with the cap applied, so that stock parsing gives the same widths.
    """
    d = deepcopy(description)
    name, max_channels, _, levels = d["backbone"][0][3]
    arch = Arch.parse(name, max_channels)
    taps = level_taps(arch, levels)
    built, first_head_row = taps[-1] + 1, 1 + len(levels)
    depth, width, cap = d["scales"][d["scale"]]
    head = _renumber(
        d["head"],
        first_head_row,
        lambda j: taps[j - 1] if 1 <= j < first_head_row else j - first_head_row + built,
    )
    if layer_shapes(arch)[:built] != layer_shapes(Arch.parse(name, cap))[:built]:
        d["scales"] = {d["scale"]: [depth, width, max_channels]}
        for row in head[:-1]:  # not the last, Detect, whose number is that of the classes
            row[3] = [min(a, cap) if type(a) is int else a for a in row[3]]
    stock_file = re.sub(r"^kd", "", Path(d.get("yaml_file", f"{name}.yaml")).name)
    return {**d, "backbone": backbone_rows(arch.family)[:built], "head": head, "yaml_file": stock_file}


def from_stock_yaml(description: Yaml) -> Yaml:
    """A stock-layout description of a known family → the resolved kdyolo layout; inverse of :func:`to_stock_yaml`.

    Raises:
        ModelError: The backbone is not one of the known families', or the head uses layers that are no pyramid level.
    """
    _check_rows(description)
    d, where = deepcopy(description), description.get("yaml_file", "model")
    rows, scale = d["backbone"], d.get("scale")
    family = next((f for f in FAMILIES if backbone_rows(f)[: len(rows)] == rows), None)
    if family is None or not scale or scale not in (d.get("scales") or {}):
        raise ModelError(f"{where}: its backbone rows are not those of {' or '.join(FAMILIES)} with a scale letter.")
    arch, built = Arch(family, scale, d["scales"][scale][2]), len(rows)
    shapes = layer_shapes(arch)
    absolute = [j if j >= 0 else built + i + j for i, row in enumerate(d["head"]) for j in _sources(row)]
    taps = sorted({built - 1, *(j for j in absolute if j < built)})
    levels = [f"P{shapes[tap].stride.bit_length() - 1}" for tap in taps]
    if level_taps(arch, levels) != tuple(taps):
        raise ModelError(f"{where}: the head uses backbone layers {taps}, which are not the ends of pyramid levels.")
    first_head_row = 1 + len(levels)
    head = _renumber(d["head"], built, lambda j: taps.index(j) + 1 if j < built else j - built + first_head_row)
    eps = d.get("kd", {}).get("bn_eps", ULTRALYTICS_BN_EPS)
    backbone: list[Row] = [[-1, 1, BACKBONE, [arch.name, arch.max_channels, eps, levels]]]
    backbone += [[0, 1, "Index", [shapes[tap].channels, i]] for i, tap in enumerate(taps)]
    return {**d, "backbone": backbone, "head": head, "yaml_file": f"kd{Path(where).name}"}


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
        return Arch.parse(nested_for(cfg)["backbone"][0][3][0]).family
    except ModelError:  # not complete yet: a scale letter is still to come from the checkpoint
        rows = cfg["backbone"]
        return str(rows[0][3][0]) if is_nested(cfg) and rows[0][3] else None


def _sources(row: Row) -> list[int]:
    return row[0] if isinstance(row[0], list) else [row[0]]


def _renumber(rows: list[Row], start: int, new: Callable[[int], int]) -> list[Row]:
    """Head rows with their sources renumbered; -1 (the row before) stays, and means the same in both layouts."""
    out = []
    for i, row in enumerate(rows):
        sources = [j if j == -1 else new(j if j >= 0 else start + i + j) for j in _sources(row)]
        out.append([sources if isinstance(row[0], list) else sources[0], *deepcopy(row[1:])])
    return out


def nested_for(cfg: str | Path | Yaml, arch: Arch | None = None, bn_eps: float | None = None) -> Yaml:
    """Whatever names or describes a detector → its resolved kdyolo-layout description.

    Args:
        cfg: A YAML name or path, kdyolo's or stock (``yolov8s.yaml`` means ``kdyolov8s.yaml`` with stock
            widths), or a description in either layout.
        arch: See :func:`resolve`.
        bn_eps: See :func:`resolve`.

    Raises:
        ModelError: Not found or not a detector with a known backbone.
    """
    if isinstance(cfg, dict):
        return resolve(cfg if is_nested(cfg) else from_stock_yaml(cfg), arch, bn_eps)
    stem = Path(cfg).stem
    if not Path(cfg).is_file() and stem.startswith(FAMILIES):  # a stock name: same graph, stock widths
        d = load_model_yaml(f"kd{Path(cfg).name}")
        if d["scale"]:
            d["backbone"][0][3] = [d["backbone"][0][3][0], stock_scale(d["backbone"][0][3][0], d["scale"])[2]]
        return resolve(d, arch, bn_eps)
    d = load_model_yaml(cfg)
    return resolve(d if is_nested(d) else from_stock_yaml(d), arch, bn_eps)
