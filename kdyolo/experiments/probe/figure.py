"""Figure of a probe: accuracies with their intervals, a panel for each classifier."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from kdyolo.errors import RunError
from kdyolo.experiments.probe.result import ProbeResult
from kdyolo.utils.atomic import replacing


def draw_probe(result: ProbeResult, out: str | Path) -> Path:
    """Draw the accuracy of each checkpoint at each level, with its interval, and the most frequent class's as a line.

    Args:
        result: The probe.
        out: PNG, SVG or PDF file to write, completely or not at all.

    Returns:
        The file.

    Raises:
        RunError: The file cannot be written.
    """
    classifiers = list(dict.fromkeys(score.classifier for score in result.scores))
    names = list(dict.fromkeys(score.checkpoint for score in result.scores))
    kinds = list(dict.fromkeys(score.features for score in result.scores))
    figure = Figure(figsize=(4.5 * len(classifiers), 3.5), layout="constrained")
    axes = figure.subplots(1, len(classifiers), sharey=True, squeeze=False)[0]
    for panel, classifier in zip(axes, classifiers, strict=True):
        for number, name in enumerate(names):
            found = [result.score(name, classifier, kind).accuracy for kind in kinds]
            below = [100 * (interval.estimate - interval.low) for interval in found]
            above = [100 * (interval.high - interval.estimate) for interval in found]
            at = [place + 0.12 * (number - (len(names) - 1) / 2) for place in range(len(kinds))]
            values = [100 * interval.estimate for interval in found]
            panel.errorbar(at, values, [below, above], fmt="o", capsize=2, label=name)
        panel.axhline(100 * result.majority, color="grey", linestyle=":", label="most frequent class")
        panel.set_xticks(range(len(kinds)), kinds)
        panel.set_title(classifier)
    axes[0].set_ylabel("objects told rightly (%), 95% interval over images")
    axes[-1].legend(frameon=False, fontsize=8)
    try:
        with replacing(Path(out)) as partial:
            figure.savefig(partial, format=Path(out).suffix[1:] or "png", dpi=150)
    except (OSError, ValueError) as e:
        raise RunError(f"{out}: cannot be written ({e}). Expected a .png, .svg or .pdf in an existing folder.") from e
    return Path(out)
