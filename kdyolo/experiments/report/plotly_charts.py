"""Plotly charts of the report. Colours are left to the page, which knows whether it is light or dark.

A trace names its arm's colour in ``meta.color``; what is grey here reads on both. Names come from data: Plotly takes
some HTML in texts for markup, so each goes through :func:`literal`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from kdyolo.experiments.comparison.cost_and_classes import ClassDifference
from kdyolo.experiments.comparison.differences import Difference
from kdyolo.experiments.comparison.result import ComparisonResult
from kdyolo.experiments.report.arm_styles import ArmStyle
from kdyolo.experiments.report.curves import Curve, FrozenSpan, Line, Panel, Unfreezing

SHADE = 0.16  # opacity behind epochs in which the whole backbone is frozen
GREY = "128, 128, 128"
MARKERS_ON_A_LINE = 8
MOST_BARS = 30  # per arm; classes between the greatest losses and gains are left to the table
POINTS = 100  # differences are in points of 0–100, as everybody gives them
LONGEST_LABEL = 32  # characters
BAR_HEIGHT = 22  # pixels
ROW_HEIGHT = 56


def literal(text: str) -> str:
    """A text that Plotly shows unchanged: no markup, and no ``%{x}`` that it would fill in."""
    return html.escape(text, quote=False).replace("{", "&#123;")


def label(text: str) -> str:
    """A name within a chart, cut where it would leave no room for the chart; tables have the whole name."""
    return literal(text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…")


def differences_chart(differences: Sequence[Difference], styles: Mapping[str, ArmStyle]) -> go.Figure:
    """Dots with whiskers, a row for each arm, and a line at no difference; in points of mAP."""
    figure = go.Figure()
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
    figure.add_vline(x=0, line={"width": 2, "color": f"rgb({GREY})"})
    figure.update_layout(height=90 + ROW_HEIGHT * len(differences), hovermode="closest")
    figure.update_xaxes(title=f"points of {literal(differences[0].metric)}", zeroline=False, tickformat="+.3~g")
    figure.update_yaxes(**_rows([d.arm for d in differences]), range=[len(differences) - 0.5, -0.5])
    return _plain(figure)


def panel_chart(
    panel: Panel, phases: Sequence[FrozenSpan], changes: Sequence[Unfreezing], styles: Mapping[str, ArmStyle]
) -> go.Figure:
    """Thin lines for seeds, a thick one for their mean; frozen epochs shaded, a line at each change."""
    figure = go.Figure()
    for curve in panel.curves:
        style = styles[curve.arm]
        if len(curve.seeds) > 1:
            x, y = _joined(curve.seeds)
            figure.add_scatter(
                x=x,
                y=y,
                mode="lines",
                line={"width": 1, "dash": style.dash},
                opacity=0.45,
                hoverinfo="skip",
                name=literal(curve.arm),
                meta={"color": style.color, "role": "seeds", "arm": curve.arm},
            )
        figure.add_scatter(**_mean(curve, style))
    for span in phases:
        opacity = SHADE * span.fraction / len(phases) ** 0.5  # they lie over each other
        figure.add_vrect(span.start, span.end, fillcolor=f"rgba({GREY}, {opacity:.3f})", line_width=0, layer="below")
    for change in changes:
        figure.add_vline(change.at, line={"width": 1.5, "dash": "dash", "color": f"rgb({GREY})"})
    if panel.kind == "quality":
        _name_unfreezings(figure, changes)
    figure.update_layout(height=360 if panel.kind == "quality" else 240, hovermode="x unified", showlegend=False)
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(rangemode="tozero" if panel.kind != "loss" else "normal", tickformat="~g", automargin=True)
    return _plain(figure)


def classes_chart(differences: Sequence[ClassDifference], style: ArmStyle) -> go.Figure:
    """Bars from loss to gain, a row for each class; in points of AP."""
    ordered = shown_classes(differences)
    values = [POINTS * d.difference for d in ordered]
    figure = go.Figure()
    figure.add_bar(
        x=values,
        y=list(range(len(ordered))),
        orientation="h",
        text=[f"{value:+.1f}" for value in values],
        textposition="outside",
        cliponaxis=False,
        meta={"color": style.color, "role": "classes"},
        hoverinfo="skip",
    )
    figure.add_vline(x=0, line={"width": 1.5, "color": f"rgb({GREY})"})
    room = 0.25 * max((abs(v) for v in values), default=1.0) or 1.0
    figure.update_xaxes(
        title="points of AP", range=[min(0.0, *values) - room, max(0.0, *values) + room], zeroline=False
    )
    figure.update_yaxes(**_rows([d.name for d in ordered]), range=[-0.5, len(ordered) - 0.5])
    figure.update_layout(height=90 + BAR_HEIGHT * len(ordered), bargap=0.25)
    return _plain(figure)


def shown_classes(differences: Sequence[ClassDifference]) -> list[ClassDifference]:
    """From the greatest loss to the greatest gain; if there are too many, both ends."""
    ordered = sorted(differences, key=lambda d: (d.difference, d.name))
    if len(ordered) <= MOST_BARS:
        return ordered
    return ordered[: MOST_BARS // 2] + ordered[-(MOST_BARS // 2) :]


def all_charts(
    comparison: ComparisonResult,
    panels: Sequence[Panel],
    phases: Sequence[FrozenSpan],
    changes: Sequence[Unfreezing],
    styles: Mapping[str, ArmStyle],
) -> dict[str, go.Figure]:
    """Id in the page → figure, in the order of the page."""
    main = [d for d in comparison.differences if d.metric == comparison.metric]
    charts = {"chart-differences": differences_chart(main, styles)} if main else {}
    for number, panel in enumerate(panels):
        charts[f"chart-curve-{number}"] = panel_chart(panel, phases, changes, styles)
    for number, arm in enumerate(comparison.arms):
        if of_arm := [d for d in comparison.class_differences if d.arm == arm.name]:
            charts[f"chart-classes-{number}"] = classes_chart(of_arm, styles[arm.name])
    return charts


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


def _name_unfreezings(figure: go.Figure, changes: Sequence[Unfreezing]) -> None:
    """Texts at the upper end of the lines, each a step below the last, so that near ones do not overlap."""
    for place, change in enumerate(changes):
        figure.add_annotation(
            x=change.at,
            y=0.99 - 0.075 * (place % 8),
            yref="paper",
            xanchor="left",
            yanchor="top",
            showarrow=False,
            text=f" {change.parts} thaws: {label(', '.join(change.arms))}",
            font={"size": 11},
        )


def _plain(figure: go.Figure) -> go.Figure:
    """Without Plotly's own theme, which takes 6 kB in every figure and has one background."""
    figure.update_layout(
        template="none",
        margin={"l": 44, "r": 12, "t": 10, "b": 44},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        autosize=True,
        dragmode=False,
    )
    return figure
