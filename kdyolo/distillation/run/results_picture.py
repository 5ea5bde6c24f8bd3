"""Picture of a distillation's ``results.csv``: losses, centred cosine and its floor, content, rank, channels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from kdyolo.utils.atomic import write_atomic

_PANELS = {  # kind of column → title
    "loss": "loss",
    "cosine": "centred cosine, held out (dashed: position alone)",
    "content": "the same without what position tells",
    "knn": "5-NN accuracy on labelled objects",
    "rank": "effective rank",
    "dead": "share of dead channels",
    "lr": "learning rate",
}
_FROM_ZERO = {"rank": 1.0, "dead": 0.1}  # measures that begin at 0 → the least upper end of their axis
_COLUMNS = 3  # panels in a row
_SHARE = 0.02  # of the time, at most, that work of the kind below takes


class SeldomWork:
    """Work that could be done after each epoch, done so seldom that it takes at most 2% of the time.

    Args:
        work: The work, e.g. drawing a picture, which takes long beside a short epoch.
        clock: Gives the time in seconds.
    """

    def __init__(self, work: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._work, self._clock = work, clock
        self._due = -math.inf

    def offer(self, at_once: bool = False) -> None:
        """Do the work if it is due, or ``at_once``."""
        began = self._clock()
        if at_once or began >= self._due:
            self._work()
            self._due = began + (self._clock() - began) / _SHARE


def draw_distillation(columns: Mapping[str, Sequence[float]], path: Path) -> Path:
    """Draw the columns over the epochs, a panel for each kind and a line for each level.

    Args:
        columns: Column of ``results.csv`` → its values, one for each epoch.
        path: PNG file to write, completely or not at all.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure  # takes half a second

    panels = {kind: lines for kind in _PANELS if (lines := lines_of(columns, kind))}
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(5 * _COLUMNS, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axis, (kind, lines) in zip(axes.flat, panels.items(), strict=False):
        _draw_panel(axis, columns["epoch"], lines)
        axis.set_title(_PANELS[kind], fontsize="medium")
        if kind in _FROM_ZERO:
            axis.set_ylim(0, max(axis.get_ylim()[1], _FROM_ZERO[kind]))
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomic(path, buffer.getbuffer())
    return path


def lines_of(columns: Mapping[str, Sequence[float]], kind: str) -> dict[str, Sequence[float]]:
    """Label → values of a panel's lines; of the cosine also the floors, as ``"P3 floor"``."""
    if kind == "loss":
        return {name: values for name, values in columns.items() if name.partition("/")[2].startswith("loss")}
    found = {name.partition("/")[2]: values for name, values in columns.items() if name.startswith(f"{kind}/")}
    if kind == "cosine":
        found |= {f"{name.partition('/')[2]} floor": v for name, v in columns.items() if name.startswith("floor/")}
    return found


def _draw_panel(axis: Any, epochs: Sequence[float], lines: Mapping[str, Sequence[float]]) -> None:
    colours: dict[str, str] = {}
    for label, values in lines.items():
        level, _, floor = label.partition(" ")
        colour = colours.setdefault(level, f"C{len(colours)}")
        axis.plot(epochs, values, color=colour, linestyle="--" if floor else "-", label=None if floor else label)
    axis.set_xlabel("epoch")
    if len(colours) > 1:
        axis.legend(fontsize="small")
