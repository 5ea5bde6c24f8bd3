"""Result of a probe: accuracies with bootstrap intervals over images, and paired differences to the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdyolo.experiments.comparison.significance import Interval
from kdyolo.utils.tables import ShownAsTable, aligned

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95


@dataclass(frozen=True)
class ProbeScore:
    """What one classifier makes of one checkpoint's features.

    Attributes:
        checkpoint: Name of the checkpoint.
        classifier: ``knn`` or ``linear``.
        features: Level (``P3`` …), or ``joined``.
        accuracy: Share of right classes in 0–1, with its bootstrap interval over images.
        difference: Accuracy minus that of the first checkpoint on the same drawn images; None for the first.
    """

    checkpoint: str
    classifier: str
    features: str
    accuracy: Interval
    difference: Interval | None


@dataclass(frozen=True, repr=False)
class ProbeResult(ShownAsTable):
    """Checkpoints side by side.

    Attributes:
        scores: A score for each checkpoint, classifier and kind of features.
        objects: Number of objects that were classified.
        images: Number of their images.
        classes: Number of their classes.
        majority: Share in 0–1 of the most frequent class: what guessing it always would score.
        settings: Data set, split, size and seed of the probe.
    """

    scores: tuple[ProbeScore, ...]
    objects: int
    images: int
    classes: int
    majority: float
    settings: Mapping[str, Any]

    def score(self, checkpoint: str, classifier: str = "linear", features: str = "joined") -> ProbeScore:
        """The score of a checkpoint.

        Raises:
            KeyError: There is none.
        """
        for score in self.scores:
            if (score.checkpoint, score.classifier, score.features) == (checkpoint, classifier, features):
                return score
        raise KeyError(f"no score of {checkpoint!r} by {classifier!r} on {features!r}")

    def to_frame(self) -> pd.DataFrame:
        """A row for each score; accuracies, differences and ends of their intervals in 0–1."""
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame([_row(score) for score in self.scores])
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "scores": [_row(score) for score in self.scores], "settings": dict(self.settings)}

    def table(self) -> str:
        """Accuracies in percent, a line for each checkpoint; differences to the first one below."""
        columns = list(dict.fromkeys((score.classifier, score.features) for score in self.scores))
        names = list(dict.fromkeys(score.checkpoint for score in self.scores))
        header = ["accuracy %", *(f"{classifier} {features}" for classifier, features in columns)]
        accuracies = [[name, *(_text(self.score(name, *c).accuracy) for c in columns)] for name in names]
        lines = [
            f"{self.objects:,} objects of {self.classes} classes in {self.images:,} images; always the most frequent "
            f"class: {100 * self.majority:.1f}",
            *aligned([header, *accuracies], "<>"),
        ]
        differences = [[name, *(_text(self.score(name, *c).difference, "+") for c in columns)] for name in names[1:]]
        lines += ["", *aligned([[f"minus {names[0]}", *header[1:]], *differences], "<>")]
        return "\n".join([*lines, f"intervals: {LEVEL:.0%}, bootstrap over images; differences on the same images"])

    def __str__(self) -> str:
        return self.table()


def score_all(
    right: Mapping[tuple[str, str, str], NDArray[np.bool_]], images: NDArray[np.int64], resamples: int, seed: int
) -> tuple[ProbeScore, ...]:
    """Scores with intervals from which objects were classified rightly.

    Args:
        right: (checkpoint, classifier, features) → whether each object [N] got its class; the first checkpoint is the
            one that others are compared with.
        images: Image of each object [N], 0 to the number of images.
        resamples: Number of draws of the images.
        seed: Seed of the draws.
    """
    count = int(images.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    total = drawn @ np.bincount(images, minlength=count)
    means = {key: float(hits.mean()) for key, hits in right.items()}
    shares = {key: drawn @ np.bincount(images, hits.astype(float), count) / total for key, hits in right.items()}
    first = next(iter(right))[0]
    scores = []
    for key in right:
        base = (first, *key[1:])
        versus = None if key[0] == first else _interval(means[key] - means[base], shares[key] - shares[base], count)
        scores.append(ProbeScore(*key, _interval(means[key], shares[key], count), versus))
    return tuple(scores)


def _interval(estimate: float, drawn: NDArray[np.float64], images: int) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), LEVEL, images)


def _row(score: ProbeScore) -> dict[str, Any]:
    row: dict[str, Any] = {"checkpoint": score.checkpoint, "classifier": score.classifier, "features": score.features}
    for name, interval in (("accuracy", score.accuracy), ("difference", score.difference)):
        row[name] = interval.estimate if interval else None
        row[f"{name}_low"] = interval.low if interval else None
        row[f"{name}_high"] = interval.high if interval else None
    return row


def _text(interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    values: Sequence[float] = (interval.estimate, interval.low, interval.high)
    return "{} [{}, {}]".format(*(f"{100 * value:{sign}.1f}" for value in values))
