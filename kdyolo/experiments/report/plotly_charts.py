"""Plotly charts of the report. Colours are left to the page, which knows whether it is light or dark.

A trace names its arm's colour in ``meta.color``; what is grey here reads on both. Names come from data: Plotly takes
some HTML in texts for markup, so each goes through :func:`literal`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kdyolo.experiments.comparison.cost_and_classes import ClassDifference
from kdyolo.experiments.comparison.differences import Difference, points
from kdyolo.experiments.comparison.result import ComparisonResult
from kdyolo.experiments.comparison.significance import Interval
from kdyolo.experiments.report.arm_styles import ArmStyle
from kdyolo.experiments.report.curves import Curve, FrozenSpan, Line, Panel, Unfreezing
from kdyolo.experiments.report.difference_curves import DifferenceCurve, difference_curves
from kdyolo.utils.tables import cell_width
from kdyolo.utils.text import printable

SHADE = 0.16  # opacity behind epochs in which the whole backbone is frozen
GREY = "128, 128, 128"
MARKERS_ON_A_LINE = 8
MOST_BARS = 30  # per arm; classes between the greatest losses and gains are left to the table
POINTS = 100  # differences are in points of 0–100, as everybody gives them
LONGEST_LABEL = 28  # characters
LONGEST_NOTE = 24  # of what stands beside a line in a chart: half the width of a phone
BAR_HEIGHT = 22  # pixels
ROW_HEIGHT = 56
CURVE_HEIGHT, SMALL_HEIGHT = 360, 240
MOST_TICKS = 8
ZOOMED = 1 / 3  # share of the epochs, at the end, that the zoom shows
FEWEST_ZOOMED = 5  # epochs: with fewer at the end there is nothing to zoom into


def literal(text: str) -> str:
    """A text that Plotly shows unchanged: no markup, and no ``%{x}`` that it would fill in, nothing that is obeyed."""
    return html.escape(printable(text), quote=False).replace("{", "&#123;")


def label(text: str, most: int = LONGEST_LABEL) -> str:
    """A name within a chart, cut in its middle where it would leave no room for the chart; tables have the whole name.

    Names of a study often begin alike and end differently.
    """
    text = printable(text)
    most = most * len(text) // max(cell_width(text), 1)  # of wide characters half as many
    end = (most - 1) // 2
    return literal(text if len(text) <= most else f"{text[: most - 1 - end]}…{text[len(text) - end :]}")


def differences_chart(differences: Sequence[Difference], styles: Mapping[str, ArmStyle]) -> go.Figure:
    """Dots with whiskers and their values, a row for each arm, and a line at no difference; in points of mAP."""
    figure = empty_figure()
    for row, d in enumerate(differences):
        style, interval = styles[d.arm], d.interval
        reach = [POINTS * (interval.high - interval.estimate)] if interval.known else None
        back = [POINTS * (interval.estimate - interval.low)] if interval.known else None
        figure.add_scatter(
            x=[POINTS * interval.estimate],
            y=[row],
            error_x={
                "array": reach,
                "arrayminus": back,
                "symmetric": False,
                "width": 8,
                "thickness": 3,
            },
            mode="markers",
            marker={"symbol": style.symbol, "size": 13},
            meta={"color": style.color, "role": "difference"},
            name=literal(d.arm),
            showlegend=False,
        )
    low, high = _reach([value for d in differences for value in (d.interval.estimate, *_ends(d.interval))])
    for row, d in enumerate(differences):  # below each other at the right, where no width cuts them
        value = {"text": _value_text(d), "showarrow": False, "name": "value"}
        figure.add_annotation(x=1, xref="paper", xanchor="right", y=row, yshift=17, **value)
    figure.add_vline(x=0, line={"width": 2, "color": f"rgb({GREY})"})
    figure.update_layout(height=90 + ROW_HEIGHT * len(differences), hovermode="closest")
    figure.update_xaxes(title=f"points of {literal(differences[0].metric)}", zeroline=False, **_signed_axis(low, high))
    figure.update_yaxes(**_rows([d.arm for d in differences]), range=[len(differences) - 0.5, -0.5])
    return figure


def panel_chart(
    panel: Panel, phases: Sequence[FrozenSpan], changes: Sequence[Unfreezing], styles: Mapping[str, ArmStyle]
) -> go.Figure:
    """Thin lines for seeds, a thick one for their mean; frozen epochs shaded, a line at each change."""
    figure = _seeds_and_means(panel, styles)
    end = last_epoch(panel)
    figure.update_traces(cliponaxis=False)  # else markers at 0, the rates of what is frozen, are cut in half
    _mark_phases(figure, phases, changes)
    if panel.kind == "quality":
        _name_unfreezings(figure, changes, end)
    height = CURVE_HEIGHT if panel.kind == "quality" else SMALL_HEIGHT
    figure.update_layout(height=height, hovermode="x unified", showlegend=False)
    figure.update_xaxes(**_epoch_axis(1, end))
    figure.update_yaxes(rangemode="tozero" if panel.kind != "loss" else "normal", tickformat="~g", automargin=True)
    return figure


def zoomed_chart(panel: Panel, styles: Mapping[str, ArmStyle]) -> go.Figure | None:
    """The last third of a panel's epochs, its axis from the lowest value there to the highest; None if too short."""
    end = last_epoch(panel)
    start = math.floor(end * (1 - ZOOMED)) + 1
    lines = [line for curve in panel.curves for line in (*curve.seeds, curve.mean)]
    values = [v for line in lines for e, v in zip(*line, strict=True) if e >= start and not math.isnan(v)]
    if end - start + 1 < FEWEST_ZOOMED or not values:
        return None
    figure = _seeds_and_means(panel, styles)
    room = 0.08 * (max(values) - min(values)) or 0.01
    figure.update_layout(height=CURVE_HEIGHT, hovermode="x unified", showlegend=False)
    figure.update_xaxes(**_epoch_axis(start, end))
    figure.update_yaxes(range=[min(values) - room, max(values) + room], tickformat="~g", automargin=True)
    return figure


def difference_curves_chart(
    found: Sequence[DifferenceCurve],
    phases: Sequence[FrozenSpan],
    changes: Sequence[Unfreezing],
    styles: Mapping[str, ArmStyle],
) -> go.Figure:
    """Mean difference to the baseline over the epochs, in points, with the band of its interval."""
    figure = empty_figure()
    for curve in found:
        style = styles[curve.arm]
        meta = {"color": style.color, "arm": curve.arm}
        known = [(e, i) for e, i in zip(curve.epochs, curve.intervals, strict=True) if i.known]
        if known:  # up along the lower ends and back along the upper ones
            figure.add_scatter(
                x=[e for e, _ in known] + [e for e, _ in reversed(known)],
                y=[POINTS * i.low for _, i in known] + [POINTS * i.high for _, i in reversed(known)],
                mode="lines",
                line={"width": 0},
                fill="toself",
                hoverinfo="skip",
                name=literal(curve.arm),
                meta={**meta, "role": "band"},
            )
        figure.add_scatter(
            x=curve.epochs,
            y=[POINTS * interval.estimate for interval in curve.intervals],
            mode="lines+markers",
            line={"width": 3, "dash": style.dash},
            marker={"size": 8, "symbol": style.symbol, "maxdisplayed": MARKERS_ON_A_LINE},
            name=literal(curve.arm),
            meta={**meta, "role": "mean"},
        )
    _mark_phases(figure, phases, changes)
    figure.add_hline(y=0, line={"width": 1.5, "color": f"rgb({GREY})"})
    figure.update_layout(height=CURVE_HEIGHT, hovermode="x unified", showlegend=False)
    figure.update_xaxes(**_epoch_axis(1, max(curve.epochs[-1] for curve in found)))
    values = [v for c in found for i in c.intervals[len(c.intervals) // 10 :] for v in (i.estimate, *_ends(i))]
    figure.update_yaxes(zeroline=False, automargin=True, hoverformat="+.2f", **_signed_axis(*_reach(values)))
    return figure


def last_epoch(panel: Panel) -> int:
    """The last epoch that any run of a panel has."""
    return max(epochs[-1] for curve in panel.curves for epochs, _ in curve.seeds)


def _seeds_and_means(panel: Panel, styles: Mapping[str, ArmStyle]) -> go.Figure:
    figure = empty_figure()
    for curve in panel.curves:
        style = styles[curve.arm]
        if len(curve.seeds) > 1:
            x, y = _joined(curve.seeds)
            seeds = {
                "type": "scatter",
                "x": x,
                "y": y,
                "mode": "lines",
                "line": {"width": 1, "dash": style.dash},
                "opacity": 0.45,
                "hoverinfo": "skip",
                "name": literal(curve.arm),
                "meta": {"color": style.color, "role": "seeds", "arm": curve.arm},
            }
            figure.add_trace(seeds)  # a dict is looked through once, an object of Plotly's a second time
        figure.add_trace(_mean(curve, style))
    return figure


def _mark_phases(figure: go.Figure, phases: Sequence[FrozenSpan], changes: Sequence[Unfreezing]) -> None:
    height = {"y0": 0, "y1": 1, "yref": "y domain"}
    shapes: list[dict[str, Any]] = []
    for span in phases:
        color = f"rgba({GREY}, {SHADE * span.fraction / len(phases) ** 0.5:.3f})"  # they lie over each other
        ends = {"x0": span.start, "x1": span.end, "layer": "below"}
        shapes.append({"type": "rect", **height, **ends, "fillcolor": color, "line": {"width": 0}})
    for change in changes:
        line = {"width": 1.5, "dash": "dash", "color": f"rgb({GREY})"}
        shapes.append({"type": "line", **height, "x0": change.at, "x1": change.at, "line": line})
    figure.update_layout(shapes=shapes)  # all at once: Plotly looks through a figure for each that is added


def classes_chart(differences: Sequence[ClassDifference], style: ArmStyle) -> go.Figure:
    """Bars from loss to gain, a row for each class; in points of AP."""
    ordered = shown_classes(differences)
    values = [POINTS * d.difference for d in ordered]
    figure = empty_figure()
    figure.add_bar(
        x=values,
        y=list(range(len(ordered))),
        orientation="h",
        text=[points(d.difference) for d in ordered],
        textposition="outside",
        cliponaxis=False,
        meta={"color": style.color, "role": "classes"},
        hoverinfo="skip",
    )
    figure.add_vline(x=0, line={"width": 1.5, "color": f"rgb({GREY})"})
    figure.update_xaxes(title="points of AP", zeroline=False, **_signed_axis(*_reach([d.difference for d in ordered])))
    figure.update_yaxes(**_rows([d.name for d in ordered]), range=[-0.5, len(ordered) - 0.5])
    figure.update_layout(height=90 + BAR_HEIGHT * len(ordered), bargap=0.25)
    return figure


def shown_classes(differences: Sequence[ClassDifference]) -> list[ClassDifference]:
    """From the greatest loss to the greatest gain; if there are too many, both ends."""
    ordered = sorted(differences, key=lambda d: (d.difference, d.name))
    if len(ordered) <= MOST_BARS:
        return ordered
    return ordered[: MOST_BARS // 2] + ordered[-(MOST_BARS // 2) :]


def by_effect(comparison: ComparisonResult, metric: str | None = None) -> list[Difference]:
    """Differences in a metric, by default the one asked for, the greatest gain first."""
    of_metric = [d for d in comparison.differences if d.metric == (metric or comparison.metric)]
    return sorted(of_metric, key=lambda d: -d.interval.estimate)


def all_charts(
    comparison: ComparisonResult,
    panels: Sequence[Panel],
    phases: Sequence[FrozenSpan],
    changes: Sequence[Unfreezing],
    styles: Mapping[str, ArmStyle],
) -> dict[str, go.Figure]:
    """Id in the page → figure, in the order of the page."""
    main = by_effect(comparison)
    drawn = any(value for d in main for value in (d.interval.estimate, *_ends(d.interval)))  # else all lie on the line
    charts = {"chart-differences": differences_chart(main, styles)} if drawn else {}
    for number, panel in enumerate(panels):
        charts[f"chart-curve-{number}"] = panel_chart(panel, phases, changes, styles)
    found = difference_curves(comparison.arms, comparison.baseline)
    if any(value for curve in found for i in curve.intervals for value in (i.estimate, *_ends(i))):
        charts["chart-curve-difference"] = difference_curves_chart(found, phases, changes, styles)
    if panels and (zoomed := zoomed_chart(panels[0], styles)):
        charts["chart-curve-zoomed"] = zoomed
    for number, arm in enumerate(comparison.arms):
        of_arm = [d for d in comparison.class_differences if d.arm == arm.name]
        if any(d.difference for d in of_arm):  # bars that are all zero show nothing
            charts[f"chart-classes-{number}"] = classes_chart(of_arm, styles[arm.name])
    return charts


def _ends(interval: Interval) -> tuple[float, ...]:
    return (interval.low, interval.high) if interval.known else ()


def _value_text(difference: Difference) -> str:
    """``"+0.9 (+0.6…+1.2)"``, in points."""
    text, ends = points(difference.interval.estimate), _ends(difference.interval)
    return f"{text} ({points(ends[0])}…{points(ends[1])})" if ends else text


def _reach(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis of differences, in points: it shows the values and 0, with room for what is written beside."""
    low, high = POINTS * min(0.0, *values), POINTS * max(0.0, *values)
    room = 0.2 * (high - low) or 1.0
    return low - room, high + room


def _signed_axis(low: float, high: float) -> dict[str, Any]:
    """An axis in points whose ticks are written as everywhere else: ``−1``, ``0``, ``+1``."""
    step = _nice_step(high - low, MOST_TICKS - 1)
    ticks = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    digits = max(0, -math.floor(math.log10(step)))
    return {"range": [low, high], "tickvals": ticks, "ticktext": [_signed_tick(tick, digits) for tick in ticks]}


def _signed_tick(value: float, digits: int) -> str:
    text = points(value / POINTS, digits)
    return "0" if float(text.replace("−", "-")) == 0 else text


def _nice_step(width: float, most: int) -> float:
    """The smallest of 1, 2, 5, 10, … × 10ⁿ of which at most ``most`` fit into a width."""
    power = 10.0 ** math.floor(math.log10(width / most))
    return next(factor * power for factor in (1, 2, 5, 10) if width / (factor * power) <= most)


def _epoch_axis(start: int, end: int) -> dict[str, Any]:
    """An axis that ends with the data, and has whole numbers only."""
    step = max(1, round(_nice_step(max(end - start, 1), MOST_TICKS - 1)))
    return {"title": "epoch", "range": [start - 0.5, end + 0.5], "dtick": step, "tick0": 0 if step > 1 else 1}


def _rows(names: Sequence[str]) -> dict[str, Any]:
    """An axis with a name at each row: numbers, since names may be equal."""
    return {"tickvals": list(range(len(names))), "ticktext": [label(name) for name in names], "automargin": True}


def _mean(curve: Curve, style: ArmStyle) -> dict[str, Any]:
    x, y = curve.mean
    return {
        "x": x,
        "y": y,
        "mode": "lines+markers",
        "line": {"width": 3, "dash": style.dash},
        "marker": {"size": 8, "symbol": style.symbol, "maxdisplayed": MARKERS_ON_A_LINE},
        "name": literal(curve.arm),
        "meta": {"color": style.color, "role": "mean", "arm": curve.arm},
    }


def _joined(lines: Sequence[Line]) -> tuple[list[int | None], list[float | None]]:
    """One trace of several lines, with a gap between them: fewer traces draw faster."""
    x: list[int | None] = []
    y: list[float | None] = []
    for epochs, values in lines:
        x += [*epochs, None]
        y += [*values, None]
    return x, y


def _name_unfreezings(figure: go.Figure, changes: Sequence[Unfreezing], end: int) -> None:
    """Texts beside the lines, each a step from the last, so that near ones do not overlap.

    They run towards the middle of the axis, since what leaves it is cut; late ones stand at the lower end, where curves
    that have risen leave room.
    """
    for place, change in enumerate(changes):
        early, late, step = change.at < end / 2, change.at > end * 2 / 3, 0.075 * (place % 8)
        what = f"{literal(change.parts)} thaws: "
        figure.add_annotation(
            x=change.at,
            y=0.01 + step if late else 0.99 - step,
            yref="paper",
            xanchor="left" if early else "right",
            yanchor="bottom" if late else "top",
            showarrow=False,
            text=f" {what}{label(', '.join(change.arms), max(LONGEST_NOTE - len(what), 7))} ",
            font={"size": 11},
        )


def empty_figure() -> go.Figure:
    """Without Plotly's own theme, which takes 6 kB in every figure and has one background."""
    layout = {
        "template": "none",
        "margin": {"l": 44, "r": 12, "t": 10, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "autosize": True,
        "dragmode": False,
    }
    return go.Figure(layout=layout)  # here, since a figure that is given no theme copies Plotly's own first
