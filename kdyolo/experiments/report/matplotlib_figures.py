"""Matplotlib figures of a comparison for papers: PNG, or SVG with its text as text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdyolo.experiments.comparison.differences import Difference
from kdyolo.experiments.comparison.result import ComparisonResult
from kdyolo.experiments.report.arm_styles import LIGHT, LINE_STYLES, ArmStyle, arm_styles
from kdyolo.experiments.report.curves import FrozenSpan, Panel, Unfreezing, frozen_spans, panels, unfreezings
from kdyolo.experiments.report.plotly_charts import POINTS, SHADE

Format = Literal["png", "svg"]
WIDTH = 4.5  # inches: a column of a paper
DPI = 300
# Text stays text in SVG, and the same data give the same file: no random ids.
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "kdyolo", "font.size": 9, "axes.spines.top": False}
STYLE |= {"axes.spines.right": False, "legend.frameon": False, "text.parse_math": False}


def write_plots(comparison: ComparisonResult, folder: Path, format: Format) -> list[Path]:
    """A picture of the differences, and one for each panel of the curves.

    Args:
        comparison: Comparison to draw.
        folder: Folder of the pictures; made if it is not there.
        format: Format of the pictures: ``"png"`` at 300 dpi, or ``"svg"``.

    Returns:
        ``differences.<format>`` where there is a baseline, ``mAP50-95.<format>``, ``box-loss-train.<format>``, …
    """
    folder.mkdir(parents=True, exist_ok=True)
    of_arm = arm_styles([arm.name for arm in comparison.arms], comparison.baseline)
    phases, changes = frozen_spans(comparison.arms), unfreezings(comparison.arms)
    written = []
    with rc_context(STYLE):
        if differences := [d for d in comparison.differences if d.metric == comparison.metric]:
            written.append(_save(_differences(differences, of_arm), folder / f"differences.{format}"))
        for panel in panels(comparison.arms):
            name = "-".join(re.findall(r"[\w-]+", panel.title))
            written.append(_save(_curves(panel, phases, changes, of_arm), folder / f"{name}.{format}"))
    return written


def _differences(differences: Sequence[Difference], styles: Mapping[str, ArmStyle]) -> Figure:
    figure = Figure(figsize=(WIDTH, 1.0 + 0.35 * len(differences)), layout="constrained")
    axis = figure.add_subplot()
    for row, d in enumerate(differences):
        style, interval = styles[d.arm], d.interval
        color = LIGHT[style.color]
        axis.plot([POINTS * interval.estimate], [row], marker=style.marker, color=color, linestyle="none")
        if interval.known:
            axis.plot([POINTS * interval.low, POINTS * interval.high], [row, row], color=color, marker="|")
    axis.axvline(0, color="0.5", linewidth=1)
    axis.set_yticks(range(len(differences)), [d.arm for d in differences])
    axis.set_ylim(len(differences) - 0.5, -0.5)
    axis.set_xlabel(f"points of {differences[0].metric} above {differences[0].baseline}")
    return figure


def _curves(
    panel: Panel, phases: Sequence[FrozenSpan], changes: Sequence[Unfreezing], styles: Mapping[str, ArmStyle]
) -> Figure:
    figure = Figure(figsize=(WIDTH, 3.0), layout="constrained")
    axis = figure.add_subplot()
    lines = []
    for curve in panel.curves:
        style = styles[curve.arm]
        line: dict[str, Any] = {"color": LIGHT[style.color], "linestyle": LINE_STYLES[style.dash]}
        for epochs, values in curve.seeds if len(curve.seeds) > 1 else ():
            axis.plot(epochs, values, linewidth=0.6, alpha=0.45, **line)
        every = max(1, len(curve.mean[0]) // 8)
        lines += axis.plot(*curve.mean, linewidth=1.6, marker=style.marker, markersize=4, markevery=every, **line)
    _mark(axis, phases, changes)
    axis.set_xlabel("epoch")
    axis.set_ylabel(panel.title)
    figure.legend(lines, [curve.arm for curve in panel.curves], loc="outside upper center", ncols=3)
    return figure


def _mark(axis: Axes, phases: Sequence[FrozenSpan], changes: Sequence[Unfreezing]) -> None:
    for span in phases:
        axis.axvspan(span.start, span.end, color="0.5", alpha=SHADE * span.fraction, linewidth=0)
    for change in changes:
        axis.axvline(change.at, color="0.5", linestyle="--", linewidth=1)


def _save(figure: Figure, path: Path) -> Path:
    kind = path.suffix[1:]
    figure.savefig(path, dpi=DPI, format=kind, metadata={"Date": None} if kind == "svg" else {})
    return path
