"""HTML report of a comparison: charts, pictures, styles and program in one file, which needs no network.

Charts bring no colours: figures say whose a trace is, and the page's program paints them from the CSS variables of
light, dark or paper. Names from data pass ``autoescape``, ``tojson`` and ``plotly_charts.literal`` (Plotly takes some
HTML and ``%{x}`` in texts). A security policy lets only the page's own two programs run, and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from kdyolo._version import __version__
from kdyolo.arguments import checked
from kdyolo.errors import RunError
from kdyolo.experiments.comparison.differences import format_p, points
from kdyolo.experiments.comparison.grouping import data_name, run_name
from kdyolo.experiments.comparison.metric_values import MAIN, OFFICIAL_AP
from kdyolo.experiments.comparison.result import ComparisonResult
from kdyolo.experiments.comparison.significance import Interval
from kdyolo.experiments.report import curves, plotly_charts
from kdyolo.experiments.report.arm_styles import DARK, LIGHT, arm_styles
from kdyolo.experiments.report.box_labels import place_labels, text_height
from kdyolo.experiments.report.curves import Curve
from kdyolo.experiments.report.label_chart import label_chart
from kdyolo.experiments.report.sample_images import Samples, samples
from kdyolo.runs.files import FEATURES_NAME, RESULTS_NAME
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.plain_files import is_file
from kdyolo.utils.text import format_duration, plural, printable_lines

REPORT_NAME = "report.html"
_PICTURE_WIDTH = 1600  # pixels of a distillation's features
NOTHING = "–"  # what a table has where there is no value


@checked
def write_report(comparison: ComparisonResult, folder: str | Path, *, refresh: float | None = None) -> Path:
    """Write the report, completely or not at all.

    Args:
        comparison: Comparison to show.
        folder: Folder of the report; made if it is not there.
        refresh: Seconds after which the page loads itself again, while runs go on; None for a finished report.

    Returns:
        ``folder/report.html``.

    Raises:
        RunError: The folder cannot be written.

    Examples:
        >>> from kdyolo import compare_runs, write_report
        >>> write_report(compare_runs("studies/does-it-help"), "report").name
        'report.html'
    """
    page = render(comparison, samples(comparison.arms), refresh)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / REPORT_NAME
        write_atomic(path, page, shared=True)  # a reader of the file sees the old page or the new one
        return path
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}). Choose another folder with --out.") from error


def render(comparison: ComparisonResult, pictures: Samples, refresh: float | None = None) -> str:
    """The page as text.

    Args:
        comparison: Comparison to show.
        pictures: Sample predictions.
        refresh: Seconds after which the page loads itself again; None for a finished report.
    """
    few = [point.arm for point in comparison.labels.points] if comparison.labels else []
    names = dict.fromkeys([*(arm.name for arm in comparison.arms), *few])
    of_arm = arm_styles(list(names), comparison.baseline)
    panels = curves.panels(comparison.arms)
    phases, changes = curves.frozen_spans(comparison.arms), curves.unfreezings(comparison.arms)
    figures = plotly_charts.all_charts(comparison, panels, phases, changes, of_arm)
    if comparison.labels:
        figures["chart-labels"] = label_chart(comparison.labels, of_arm)
    scripts = [get_plotlyjs(), _asset("charts.js")]
    compared = dict.fromkeys([comparison.metric, *(d.metric for d in comparison.differences)])
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            comparison=comparison,
            styles=of_arm,
            head=head_facts(comparison),
            main=plotly_charts.by_effect(comparison),
            all_differences=[d for metric in compared for d in plotly_charts.by_effect(comparison, metric)],
            whiskers=any(d.interval.known for d in comparison.differences),
            metrics=_metrics(comparison),
            panels=panels,
            spans=phases,
            unfreezings=changes,
            charts={name: _json(figure) for name, figure in figures.items()},
            shown_classes=plotly_charts.MOST_BARS,
            samples=pictures,
            without_pictures=_by_reason(pictures.missing),
            official=_official_names(comparison),
            features={d.folder: uri for d in comparison.distillations if (uri := _picture(Path(d.folder)))},
            running=[run_name(run) for arm in comparison.arms for run in arm.runs if not run.finished],
            settings=htmlsafe_json_dumps({"refresh": refresh}),
            scripts=[Markup(script) for script in scripts],
            hashes=[_hash(script) for script in scripts],
            light=LIGHT,
            dark=DARK,
            style=Markup(_asset("style.css")),
            refresh=refresh,
            written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z"),
            version=__version__,
        )
    )


def _metrics(comparison: ComparisonResult) -> list[str]:
    """Metrics of the table: the one asked for, then the usual ones, as far as some arm has them."""
    wanted = dict.fromkeys((comparison.metric, MAIN, "mAP50", OFFICIAL_AP))
    return [metric for metric in wanted if any(metric in arm.values for arm in comparison.arms)]


def _official_names(comparison: ComparisonResult) -> list[str]:
    return list(dict.fromkeys(name for values in comparison.official.values() for name in values))


def head_facts(comparison: ComparisonResult) -> dict[str, str]:
    """What the runs have in common, or each of what they have, that a reader wants to know first.

    Args:
        comparison: Comparison to describe.

    Returns:
        Name of the fact (data, model, epochs, image size, validation images, trained) → its value.
    """
    runs = [run for arm in comparison.arms for run in arm.runs]
    trained = sorted({date.fromtimestamp((run.path / RESULTS_NAME).stat().st_mtime).isoformat() for run in runs})
    values: dict[str, list[Any]] = {
        "data": ["/".join(Path(data_name(run)).with_suffix("").parts[-2:]) for run in runs if run.args.get("data")],
        "model": [
            Path(str(model)).stem for run in runs if (model := (run.record or {}).get("model") or run.args.get("model"))
        ],
        "epochs": [run.planned_epochs for run in runs],
        "image size": [f"{run.args['imgsz']} px" for run in runs if run.args.get("imgsz")],
        "validation images": [f"{run.scores['images']:,}" for run in runs if run.scores and "images" in run.scores],
        "trained": [trained[0] if len(trained) == 1 else f"{trained[0]} to {trained[-1]}"],
    }
    return {fact: ", ".join(map(str, dict.fromkeys(found))) for fact, found in values.items() if found}


def _by_reason(missing: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason → arms that it holds for, so that one error is told once."""
    found: dict[str, list[str]] = {}
    for arm, reason in missing.items():
        found.setdefault(reason, []).append(arm)
    return found


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("kdyolo.experiments.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(
        fraction=format_fraction,
        signed=signed,
        interval=interval,
        duration=format_duration,
        number=number,
        p_value=p_value,
        rounded=rounded,
        setting=format_setting,
    )
    environment.globals.update(last=_last, best=_best, nothing=NOTHING, plural=plural)
    environment.globals.update(place_labels=place_labels, text_height=text_height)
    return environment


def _shown(value: Any) -> Any:
    """A text with what turns the direction of writing, or is obeyed otherwise, as Python's escapes for it."""
    return printable_lines(value) if type(value) is str else value


def _picture(folder: Path) -> str:
    """The picture of what a distillation learned, as a data URI no wider than the page; empty where there is none."""
    picture = cv2.imread(str(folder / FEATURES_NAME)) if is_file(folder / FEATURES_NAME) else None
    if picture is None:
        return ""
    scale = min(1.0, _PICTURE_WIDTH / picture.shape[1])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _asset(name: str) -> str:
    return files("kdyolo.experiments.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")


def _json(figure: Any) -> Markup:
    """A figure for a ``<script>`` element: what could end it, or begin another, is escaped in the JSON."""
    return htmlsafe_json_dumps(figure, dumps=lambda f: plotly.io.to_json(f, validate=False))


def _hash(script: str) -> str:
    """Hash by which the page's security policy names the script, so that no other one runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


# ---- how values are written ----------------------------------------------------------------------------------------


def format_fraction(value: float) -> str:
    """``0.3714`` → ``"0.371"``; −1 is COCO's way to say that there is no object to find."""
    return NOTHING if math.isnan(value) or value == -1 else f"{value:.3f}".replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """A difference in points, with its sign."""
    return NOTHING if math.isnan(value) else points(value, digits)


def interval(value: Interval, sign: bool = False) -> str:
    """``"0.360…0.382"``, or a dash where there are no ends; with a sign, of a difference in points."""
    if not value.known:
        return NOTHING
    low, high = (signed(end, 2) if sign else format_fraction(end) for end in (value.low, value.high))
    return f"{low}…{high}"


def number(value: float, digits: int = 1) -> str:
    """Decimals, or a dash."""
    return NOTHING if math.isnan(value) else f"{value:.{digits}f}"


def p_value(value: float) -> str:
    """``"0.006"``, ``"< 0.001"``, or a dash."""
    return NOTHING if math.isnan(value) else format_p(value)


def rounded(value: float) -> str:
    """Four significant digits, also where the last ones are zeros, with a true minus sign; or a dash."""
    return NOTHING if math.isnan(value) else f"{value:#.4g}".rstrip(".").replace("-", "−")


def format_setting(value: Any) -> str:
    """Text of a setting's value."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {format_setting(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(format_setting, value))
    return str(value)


def _last(curve: Curve) -> tuple[int, float]:
    """The last epoch of the mean, and its value."""
    epochs, values = curve.mean
    return (epochs[-1], values[-1]) if epochs else (0, math.nan)


def _best(curve: Curve) -> tuple[int, float]:
    """The epoch at which the mean is highest, and its value."""
    known = [(value, -epoch) for epoch, value in zip(*curve.mean, strict=True) if not math.isnan(value)]
    value, epoch = max(known, default=(math.nan, 0))
    return -epoch, value
