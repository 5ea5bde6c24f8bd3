"""Model YAMLs as dictionaries: found by name, checked, and completed by what follows from the backbone.

Two layouts describe one network. The *kdyolo* layout has the whole backbone in row 0 and picks pyramid levels from it
by name; the *stock* layout lists the backbone's layers one by one, as Ultralytics ships them. Rows read
``[from, repeats, module, args]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultralytics.nn.tasks import guess_model_scale

from kdyolo.errors import ModelError
from kdyolo.models.arch import FAMILIES, ULTRALYTICS_BN_EPS, Arch, layer_shapes, level_taps, stock_scale
from kdyolo.models.description_check import BACKBONE as BACKBONE
from kdyolo.models.description_check import check_description
from kdyolo.utils.shipped_files import shipped
from kdyolo.utils.text import did_you_mean, quoted
from kdyolo.utils.yaml_files import read_yaml

Yaml = dict[str, Any]
Row = list[Any]


@dataclass(frozen=True)
class BackboneRow:
    """Row 0 of a resolved kdyolo-layout description; the arguments of a ``DistilledBackbone``.

    Attributes:
        arch: Family and scale, e.g. ``"yolov8s"``.
        max_channels: Cap on row widths before they are scaled.
        bn_eps: Epsilon of the backbone's BatchNorms.
        levels: Names of the pyramid levels that the Index rows after it pick, e.g. ``("P3", "P4", "P5")``.
    """

    arch: str
    max_channels: int
    bn_eps: float
    levels: tuple[str, ...]

    @classmethod
    def from_yaml(cls, description: Yaml) -> BackboneRow:
        """Read row 0 of a resolved description."""
        arch, max_channels, bn_eps, levels = _backbone_args(description)
        return cls(arch, max_channels, bn_eps, tuple(levels))

    def to_yaml(self, description: Yaml) -> None:
        """Write the arguments into row 0 of a description in the kdyolo layout, in place."""
        _backbone_args(description)[:] = [self.arch, self.max_channels, self.bn_eps, list(self.levels)]


def _backbone_args(description: Yaml) -> list[Any]:
    """The arguments in row 0: ``[family]`` or ``[family, max_channels]`` as people write them, four once resolved."""
    arguments: list[Any] = description["backbone"][0][3]
    return arguments


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
        if Path(name).exists():
            raise ModelError(f"{name}: expected a model YAML or a trained detector (.pt), found something else.")
        names = [re.sub(r"(\d+)", rf"\1{s}", n, count=1) for n in files for s in "nsmlx"]
        alike = [n for n in names if _family_number(n) == _family_number(path.name)]  # another is another network
        raise ModelError(
            f"{name}: no such model YAML. Expected a path or one of {', '.join(files)} with a scale letter, "
            f"e.g. kdyolov8s.yaml.{did_you_mean(path.with_suffix('.yaml').name, alike)}"
        )
    description = read_yaml(found, error=ModelError)
    if not isinstance(description, dict) or not {"backbone", "head", "nc"} <= description.keys():
        raise ModelError(f"{found}: not a model YAML. Expected the keys nc, backbone and head.")
    return {**description, "scale": guess_model_scale(path), "yaml_file": path.name}


def _family_number(name: str) -> str | None:
    found = re.search(r"\d+", name)
    return found and found[0]


def is_nested(description: Yaml) -> bool:
    """Whether a description is in the kdyolo layout."""
    rows = description.get("backbone")
    return isinstance(rows, list) and bool(rows) and isinstance(rows[0], list) and BACKBONE in rows[0][2:3]


def resolve(description: Yaml, arch: Arch | None = None, bn_eps: float | None = None) -> Yaml:
    """Complete a description by what follows from the backbone: scale, widths, epsilon, and the levels' channels.

    Args:
        description: A kdyolo-layout description, resolved already or not.
        arch: Arch that a checkpoint's shapes fit. Gives the scale if the description has none, and the widths if the
            scales agree; if they disagree the description stands, and loading the backbone will say so.
        bn_eps: Epsilon of the backbone's BatchNorms. Default: what the description has, else Ultralytics' 1e-3.

    Raises:
        ModelError: Malformed rows, no scale letter, an unknown family or level.
    """
    check_rows(description)
    d = deepcopy(description)
    where = d.get("yaml_file", "model YAML")
    rows: list[Row] = d["backbone"]
    if not is_nested(d) or any(row[2] != "Index" or row[0] != 0 for row in rows[1:]) or len(rows) < 2:
        raise ModelError(
            f"{where}: expected a backbone of one {BACKBONE} row followed by [0, 1, Index, [P3]]-like rows."
        )
    levels: Sequence[str]
    if len(_backbone_args(d)) == 4:
        given = BackboneRow.from_yaml(d)
        own, eps, levels = Arch.parse(given.arch, given.max_channels), given.bn_eps, given.levels
    else:
        own, eps, levels = _own_arch(d, arch), ULTRALYTICS_BN_EPS, [row[3][0] for row in rows[1:]]
        if not all(isinstance(level, str) for level in levels):
            raise ModelError(f"{where}: Index rows name a level, e.g. [0, 1, Index, [P3]]; found {levels}.")
    if len(levels) != len(rows) - 1 or own.scale not in d["scales"]:
        raise ModelError(
            f"{where}: expected an Index row for each of {levels}, and scale {own.scale} among its scales."
        )
    if arch is not None and arch.name == own.name:
        own = arch
    taps, shapes = level_taps(own, levels), layer_shapes(own)
    d["scale"] = own.scale
    BackboneRow(own.name, own.max_channels, bn_eps or eps, tuple(levels)).to_yaml(d)
    for i, (row, tap) in enumerate(zip(rows[1:], taps, strict=True)):
        row[3] = [shapes[tap].channels, i]
    return d


def check_rows(d: Yaml) -> None:
    """Refuse a description that holds anything but plain data, or whose rows lack the form that both layouts share.

    Raises:
        ModelError: Malformed rows or scales, a head row that uses the backbone's list of maps, or see
            :func:`kdyolo.models.description_check.check_description`.
    """
    check_description(d)
    where = d.get("yaml_file", "model YAML")
    for part in ("backbone", "head"):
        rows = d.get(part)
        for row in rows if isinstance(rows, list) and rows else [rows]:
            if not (isinstance(row, list) and len(row) == 4 and isinstance(row[2], str) and isinstance(row[3], list)):
                raise ModelError(f"{where}: {part} takes rows [from, repeats, module, args]; found {quoted(row)}.")
    if not isinstance(d.get("scales"), dict):
        found = quoted(d.get("scales"))
        raise ModelError(f"{where}: expected scales, each with a scale letter: n: [0.33, 0.25, 1024]; found {found}.")
    before = len(d["backbone"])
    sources = (j if j >= 0 else before + i + j for i, row in enumerate(d["head"]) for j in row_sources(row))
    if is_nested(d) and before > 1 and 0 in sources:
        raise ModelError(f"{where}: a head row uses row 0, which is a list of maps; use the Index row of a level.")
    if is_nested(d) and not all(row[3] for row in d["backbone"][1:]):
        raise ModelError(f"{where}: an Index row names a level, e.g. [0, 1, Index, [P3]]; found no argument.")


def named_family(description: Yaml) -> str | None:
    """The family that row 0 of an unresolved kdyolo-layout description names, if it names one."""
    return next((str(argument) for argument in _backbone_args(description)), None)


def cap_at_stock(description: Yaml) -> None:
    """Give the backbone of an unresolved description with a scale letter that scale's stock widths, in place."""
    family = _backbone_args(description)[0]
    _backbone_args(description)[:] = [family, stock_scale(family, description["scale"])[2]]


def _own_arch(d: Yaml, arch: Arch | None) -> Arch:
    where, args = d.get("yaml_file", "model YAML"), _backbone_args(d)
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


def row_sources(row: Row) -> list[int]:
    """The rows that a row takes its input from; negative numbers count back from it."""
    return row[0] if isinstance(row[0], list) else [row[0]]
