"""Plot of ``results.csv`` for a run with a freeze: Ultralytics' panels, the learning rates, and where phases change."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdyolo.models.freeze_schedule import PARTS, FreezeSchedule
from kdyolo.runs.files import PICTURE_NAME
from kdyolo.utils.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # panels in a row
FROZEN = " frozen"  # end of the name of a phase in which something is frozen


def plot_results(results: Path, schedule: FreezeSchedule) -> Path:
    """Draw ``results.csv`` as ``results.png`` beside it, frozen phases shaded and every thaw a line.

    Args:
        results: ``results.csv`` with a row per epoch; epochs count from 1 there.
        schedule: The freeze schedule that the run followed.

    Returns:
        The path of the picture.
    """
    import matplotlib as mpl  # takes half a second

    with results.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    picture = results.with_name(PICTURE_NAME)
    # What Ultralytics sets for its own plots: the run's others look the same. A figure without pyplot needs no window
    # and leaves those of the caller alone.
    fonts = ["Arial Unicode MS", *mpl.rcParams["font.sans-serif"]]
    with mpl.rc_context({"font.size": 11, "font.sans-serif": fonts}):
        figure = _draw(rows, schedule)
        with replacing(picture) as partial:
            figure.savefig(partial, dpi=150, format="png")
    return picture


def _draw(rows: Sequence[Mapping[str, str]], schedule: FreezeSchedule) -> Figure:
    from matplotlib.figure import Figure

    panels = _panels(list(rows[0]))
    lines = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False)
    epochs = [int(float(row["epoch"])) for row in rows]
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        for label, column in curves.items():
            axis.plot(epochs, [float(row[column]) for row in rows], marker=".", label=label)
        if len(curves) > 1:
            axis.legend(fontsize="small")
        _mark_phases(axis, schedule, epochs)
        axis.set_title(title)
        axis.set_xlabel("epoch")
    phases = axes.flat[0].get_legend_handles_labels()
    spans = [pair for pair in zip(*phases, strict=True) if pair[1].endswith(FROZEN)]
    figure.legend(*zip(*spans, strict=True), loc="outside lower center", ncols=len(spans))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    return figure


def _panels(columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Title → label of each curve → its column: losses of train and val together, metrics, the rate of every part."""
    panels: dict[str, dict[str, str]] = {}
    for column in columns:
        kind, _, name = column.partition("/")
        if kind in {"train", "val"}:
            panels.setdefault(name, {})[kind] = column
        elif kind == "metrics":
            panels[name] = {"val": column}
        elif column == "coco/AP":
            panels["official COCO AP"] = {"val": column}
        elif kind == "lr" and name.endswith("/weight"):
            panels.setdefault("learning rate", {})[name.partition("/")[0]] = column
    return panels


def _mark_phases(axis: Any, schedule: FreezeSchedule, epochs: Sequence[int]) -> None:
    """Shade the epochs in which something is frozen, darker for more, and draw a line at every thaw."""
    first, last = epochs[0] - 0.5, epochs[-1] + 0.5
    changes = [first, *(epoch + 0.5 for epoch in schedule.unfreezes if first < epoch + 0.5 < last), last]
    for start, end in pairwise(changes):
        epoch = int(start - 0.5)  # the schedule counts from 0
        if frozen := schedule.frozen_parts(epoch):
            shade = 0.2 * len(frozen) / len(PARTS)
            axis.axvspan(start, end, color="tab:blue", alpha=shade, label=schedule.phase(epoch))
    for thaw in changes[1:-1]:
        axis.axvline(thaw, color="tab:blue", linestyle="--", linewidth=1)
    axis.set_xlim(first, last)
