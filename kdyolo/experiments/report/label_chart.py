"""Chart of label efficiency: the metric over the number of labelled images, a line with whiskers for each arm."""

from __future__ import annotations

import math
from collections.abc import Mapping

import plotly.graph_objects as go

from kdyolo.experiments.comparison.findings.label_efficiency import LabelCurves
from kdyolo.experiments.report.arm_styles import ArmStyle
from kdyolo.experiments.report.plotly_charts import CURVE_HEIGHT, empty_figure, literal

_BESIDE = 0.1  # of a power of ten, left and right of the points


def label_chart(labels: LabelCurves, styles: Mapping[str, ArmStyle]) -> go.Figure:
    """Points joined by a line, with their intervals as whiskers; the number of images on a logarithmic axis.

    Args:
        labels: The points.
        styles: Arm → how it is drawn.
    """
    figure = empty_figure()
    for arm in dict.fromkeys(point.arm for point in labels.points):
        found = [point for point in labels.points if point.arm == arm]
        ends = [(p.value.low, p.value.high) if p.value.known else (p.value.estimate,) * 2 for p in found]
        figure.add_scatter(
            x=[point.images or point.share for point in found],
            y=[point.value.estimate for point in found],
            error_y={
                "array": [high - p.value.estimate for p, (_, high) in zip(found, ends, strict=True)],
                "arrayminus": [p.value.estimate - low for p, (low, _) in zip(found, ends, strict=True)],
                "symmetric": False,
            },
            mode="lines+markers",
            line={"width": 2.5, "dash": styles[arm].dash},
            marker={"symbol": styles[arm].symbol, "size": 9},
            name=literal(arm),
            meta={"color": styles[arm].color, "role": "mean", "arm": arm},
        )
    counted = all(point.images for point in labels.points)
    ticks = sorted({point.images or point.share for point in labels.points})
    figure.update_layout(height=CURVE_HEIGHT, showlegend=False, hovermode="x unified")
    axis = {
        "type": "log",
        "tickvals": ticks,
        "ticktext": [_compact(tick) if counted else f"{tick:.10g}" for tick in ticks],
        "range": [math.log10(ticks[0]) - _BESIDE, math.log10(ticks[-1]) + _BESIDE],  # else the texts at its ends go
        "automargin": True,
    }
    figure.update_xaxes(title="labelled images" if counted else "share of the labelled images", **axis)
    figure.update_yaxes(title=literal(labels.metric), rangemode="tozero", tickformat="~g", automargin=True)
    return figure


def _compact(count: float) -> str:
    """A number of images that fits beneath a narrow chart: ``"50"``, ``"1.2k"``, ``"118k"``."""
    return f"{count:g}" if count < 1000 else f"{count / 1000:.{2 if count < 100_000 else 3}g}k"
