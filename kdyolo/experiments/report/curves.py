"""Curves as data: panels of lines over epochs, and the frozen phases behind them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.models.freeze_schedule import PARTS
from kdyolo.runs.files import MAP, MAP50
from kdyolo.runs.history import Run

T = TypeVar("T")
Line = tuple[tuple[int, ...], tuple[float, ...]]  # epochs from 1, values

OFFICIAL_COLUMN = "coco/AP"
# Optimizer groups as Ultralytics numbers them, in runs of kdyolo that have one rate for the whole detector.
_PLAIN_GROUPS = {"lr/pg0": "weight", "lr/pg1": "bn", "lr/pg2": "bias"}
_LOSSES = {"box_loss": "box loss", "cls_loss": "class loss", "dfl_loss": "distribution focal loss"}


@dataclass(frozen=True)
class Curve:
    """One arm in one panel.

    Attributes:
        arm: Name of the arm.
        seeds: One line for each run that has this quantity.
        mean: Mean line over the seeds, of the epochs that all have finished; NaN where one of them has no value.
    """

    arm: str
    seeds: tuple[Line, ...]
    mean: Line


@dataclass(frozen=True)
class Panel:
    """One quantity over the epochs.

    Attributes:
        title: Title of the panel.
        kind: Kind of the quantity: ``"quality"``, ``"loss"`` or ``"rate"``.
        curves: Curves of the arms that have this quantity.
    """

    title: str
    kind: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class FrozenSpan:
    """Epochs in which something is frozen, as a stretch of the axis: epoch e reaches from e − 0.5 to e + 0.5.

    Attributes:
        start: Left end on the axis.
        end: Right end on the axis.
        fraction: Fraction of the backbone's parts that are frozen, in 0–1.
        phase: Name of the phase: ``"backbone frozen"``, ``"stem–p4 frozen"``, …
        arms: Names of the arms that have this phase.
    """

    start: float
    end: float
    fraction: float
    phase: str
    arms: tuple[str, ...]


@dataclass(frozen=True)
class Unfreezing:
    """Where parts of the backbone begin to train.

    Attributes:
        at: Place on the axis, between two epochs.
        epoch: The first epoch in which the parts train, from 1.
        parts: ``"backbone"``, or the names of the parts.
        arms: Names of the arms in which this happens.
    """

    at: float
    epoch: int
    parts: str
    arms: tuple[str, ...]


def panels(arms: Sequence[Arm]) -> list[Panel]:
    """Every quantity that some run has, and that is not zero throughout: mAP, then losses, then learning rates."""
    found = [
        _panel("mAP50-95", "quality", arms, MAP),
        _panel("mAP50", "quality", arms, MAP50),
        _panel("official AP", "quality", arms, OFFICIAL_COLUMN),
    ]
    names = _in_order(c.partition("/")[2] for a in arms for r in a.runs for c in r.columns if c.startswith("train/"))
    for name in names:
        title = _LOSSES.get(name, name.replace("_", " "))
        found += [_panel(f"{title}, {kind}", "loss", arms, f"{kind}/{name}") for kind in ("train", "val")]
    return [panel for panel in [*found, *_rates(arms)] if _shows_something(panel)]


def frozen_spans(arms: Sequence[Arm]) -> list[FrozenSpan]:
    """Frozen stretches of all arms, those that arms share once."""
    found: dict[tuple[float, float, float, str], list[str]] = {}
    for arm in arms:
        for start, end, epoch in _phases(arm):
            schedule = arm.runs[0].schedule
            if frozen := schedule.frozen_parts(epoch):
                key = (start, end, len(frozen) / len(PARTS), schedule.phase(epoch))
                found.setdefault(key, []).append(arm.name)
    return [FrozenSpan(*key, tuple(names)) for key, names in sorted(found.items())]


def unfreezings(arms: Sequence[Arm]) -> list[Unfreezing]:
    """Unfreezings that have happened, those that arms share once."""
    found: dict[tuple[int, str], list[str]] = {}
    for arm in arms:
        reached = _last_epoch(arm)
        for epoch, parts in arm.runs[0].schedule.unfreezes.items():
            if epoch + 1 <= reached:
                what = "backbone" if len(parts) == len(PARTS) else ", ".join(parts)
                found.setdefault((epoch + 1, what), []).append(arm.name)
    return [Unfreezing(epoch - 0.5, epoch, what, tuple(names)) for (epoch, what), names in sorted(found.items())]


def _shows_something(panel: Panel) -> bool:
    values = (value for curve in panel.curves for _, line in curve.seeds for value in line)
    return any(value != 0 and not math.isnan(value) for value in values)


def _phases(arm: Arm) -> list[tuple[float, float, int]]:
    """Start, end, and an epoch (from 0) in each stretch of the same phase, as far as the arm has come."""
    end = _last_epoch(arm) + 0.5
    edges = [0.5, *(e + 0.5 for e in arm.runs[0].schedule.unfreezes if e + 0.5 < end), end]
    return [(start, stop, int(start - 0.5)) for start, stop in pairwise(edges) if stop > start]


def _last_epoch(arm: Arm) -> int:
    return max((run.epochs[-1] for run in arm.runs if run.epochs), default=0)


def _panel(title: str, kind: str, arms: Sequence[Arm], column: str) -> Panel:
    lines = {arm.name: [_line(run, column) for run in arm.runs] for arm in arms}
    return Panel(title, kind, _curves(lines))


def _curves(lines: Mapping[str, Sequence[Line | None]]) -> tuple[Curve, ...]:
    known = {arm: [line for line in of_arm if line] for arm, of_arm in lines.items()}
    return tuple(Curve(arm, tuple(of_arm), _mean(of_arm)) for arm, of_arm in known.items() if of_arm)


def _line(run: Run, column: str) -> Line | None:
    """A column over the epochs; None without values. Official AP, which not every epoch has, is joined over gaps."""
    pairs = list(zip(run.epochs, run.column(column), strict=True))
    if column == OFFICIAL_COLUMN:
        pairs = [(e, v) for e, v in pairs if not math.isnan(v)]
    if all(math.isnan(v) for _, v in pairs):
        return None
    return tuple(e for e, _ in pairs), tuple(v for _, v in pairs)


def _mean(lines: Sequence[Line]) -> Line:
    tables = [dict(zip(*line, strict=True)) for line in lines]
    common = sorted(set.intersection(*(set(table) for table in tables)))
    return tuple(common), tuple(math.fsum(table[e] for table in tables) / len(tables) for e in common)


def _rates(arms: Sequence[Arm]) -> list[Panel]:
    """A panel for each optimizer group; groups with the same rates throughout share one.

    A run with one rate for the whole detector appears in the panel of every part: it is the rate of that part too.
    """
    columns = {(arm.name, i): _rate_columns(run) for arm in arms for i, run in enumerate(arm.runs)}
    groups = _in_order(group for of_run in columns.values() for group in of_run)
    if any(part for part, _ in groups):
        groups = [(part, group) for part, group in groups if part or group not in {g for p, g in groups if p}]
    same: dict[tuple[Curve, ...], list[str]] = {}
    for part, group in groups:
        lines = {
            arm.name: [
                _line(run, columns[arm.name, i].get((part, group)) or columns[arm.name, i].get(("", group), ""))
                for i, run in enumerate(arm.runs)
            ]
            for arm in arms
        }
        same.setdefault(_curves(lines), []).append(f"{part} {group}".strip())
    return [Panel(f"learning rate: {', '.join(names)}", "rate", curves) for curves, names in same.items()]


def _rate_columns(run: Run) -> dict[tuple[str, str], str]:
    """(Part, group) → column; the part is empty where one rate holds for the whole detector."""
    rates = [column for column in run.columns if column.startswith("lr/")]
    if run.record is not None and rates == list(_PLAIN_GROUPS):
        return {("", group): column for column, group in _PLAIN_GROUPS.items()}
    found = {}
    for column in rates:
        part, separator, group = column.removeprefix("lr/").partition("/")
        found[(part, group) if separator else ("", part)] = column
    return found


def _in_order(items: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(items))
