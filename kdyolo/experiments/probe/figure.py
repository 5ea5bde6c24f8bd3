"""Figure of a probe: accuracies, bits and AP with their intervals, a panel for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdyolo.errors import RunError
from kdyolo.experiments.comparison.significance import Interval
from kdyolo.experiments.probe.result import OBJECTNESS, ProbeResult
from kdyolo.utils.atomic import replacing


def draw_probe(result: ProbeResult, out: str | Path) -> Path:
    """Draw accuracies and bits of each checkpoint at each level, and the AP of its detection heads where there is one.

    Args:
        result: The probe.
        out: PNG, SVG or PDF file to write, completely or not at all.

    Returns:
        The file.

    Raises:
        RunError: The file cannot be written.
    """
    names = list(dict.fromkeys(score.checkpoint for score in result.scores))
    kinds = list(dict.fromkeys(score.features for score in result.scores))
    accuracies = list(dict.fromkeys(s.classifier for s in result.scores if s.classifier != OBJECTNESS))
    informed = list(dict.fromkeys(score.classifier for score in result.scores if score.information))
    count = len(accuracies) + len(informed) + bool(result.heads)
    figure = Figure(figsize=(4.5 * count, 3.5), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    panels = iter(axes)
    for classifier in accuracies:
        panel = next(panels)
        for number, name in enumerate(names):
            found = [result.score(name, classifier, kind).accuracy for kind in kinds]
            _points(panel, name, found, _places(len(kinds), number, len(names)), 100)
        panel.axhline(100 * result.majority, color="grey", linestyle=":", label="most frequent class")
        _label(panel, classifier, "objects told rightly (%), 95% interval over images", kinds)
        if panel is not axes[0]:
            panel.sharey(axes[0])
    for classifier in informed:
        panel = next(panels)
        for number, name in enumerate(names):
            bits = [score.information for kind in kinds if (score := result.score(name, classifier, kind)).information]
            _points(panel, name, [b for b in bits if b], _places(len(kinds), number, len(names)), 1)
        panel.axhline(0, color="grey", linestyle=":")
        what = "box" if classifier == OBJECTNESS else "object"
        _label(panel, f"{classifier}: bits", f"bits per {what}, 95% interval over images", kinds)
    if result.heads:
        panel = next(panels)
        for number, head in enumerate(result.heads):
            _points(panel, head.checkpoint, [head.ap], [number], 100)
        over = "95% interval over seeds" if len(result.heads[0].values) > 1 else "one seed, no interval"
        _label(panel, "detection head", f"official AP (%), {over}", [""] * len(names))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    try:
        with replacing(Path(out)) as partial:
            figure.savefig(partial, format=Path(out).suffix[1:] or "png", dpi=150)
    except (OSError, ValueError) as e:
        raise RunError(f"{out}: cannot be written ({e}). Expected a .png, .svg or .pdf in an existing folder.") from e
    return Path(out)


def _points(panel: Axes, name: str, found: Sequence[Interval], at: Sequence[float], scale: int) -> None:
    """Estimates with their intervals; a point alone where there is no interval."""
    reach = [
        [scale * (i.estimate - i.low) if i.known else 0 for i in found],
        [scale * (i.high - i.estimate) if i.known else 0 for i in found],
    ]
    panel.errorbar(at, [scale * i.estimate for i in found], reach, fmt="o", capsize=2, label=name)


def _places(kinds: int, number: int, names: int) -> list[float]:
    """Places of one checkpoint's points, beside those of the others."""
    return [place + 0.12 * (number - (names - 1) / 2) for place in range(kinds)]


def _label(panel: Axes, title: str, unit: str, ticks: Sequence[str]) -> None:
    panel.set_xticks(range(len(ticks)), ticks)
    panel.set_title(title)
    panel.set_ylabel(unit, fontsize=8)
