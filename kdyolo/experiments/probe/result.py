"""Result of a probe: accuracies and bits with bootstrap intervals over images, and differences to the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kdyolo.experiments.comparison.significance import Interval, mean_interval, paired_effect
from kdyolo.utils.tables import ShownAsTable, aligned
from kdyolo.utils.text import decimal, plural

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95
OBJECTNESS = "objectness"  # the linear classifier of objects and background
_BITS = ("information", "information_difference")


@dataclass(frozen=True)
class Told:
    """What a classifier made of each object.

    Attributes:
        right: Whether the object [N] got its class.
        bits: Bits [N] that were learned of its class; None of a classifier that gives no probabilities.
    """

    right: NDArray[np.bool_]
    bits: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ProbeScore:
    """What one classifier makes of one checkpoint's features.

    Attributes:
        checkpoint: Name of the checkpoint.
        classifier: ``knn`` or ``linear``, of the classes of objects; ``objectness``, of objects and background.
        features: Level (``P3`` …), or ``joined``.
        accuracy: Share of right classes in 0–1, with its bootstrap interval over images.
        difference: Accuracy minus that of the first checkpoint on the same drawn images; None for the first.
        information: Mean bits that are learned of an object's class beyond its frequency, or of whether a box is an
            object, with its interval; None for ``knn``.
        information_difference: The same minus that of the first checkpoint; None for the first.
    """

    checkpoint: str
    classifier: str
    features: str
    accuracy: Interval
    difference: Interval | None
    information: Interval | None = None
    information_difference: Interval | None = None


@dataclass(frozen=True)
class HeadScore:
    """What detection heads on one frozen backbone reach.

    Attributes:
        checkpoint: Name of the checkpoint.
        values: Official AP in 0–1, one for each seed.
        ap: Their mean, with its interval over seeds; without ends for one seed.
        difference: The mean minus that of the first checkpoint, paired by seeds; None for the first.
    """

    checkpoint: str
    values: tuple[float, ...]
    ap: Interval
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
        settings: Data set, split, size and seed of the probe; of detection heads their epochs, images and seeds.
        heads: A score of each checkpoint's detection heads; empty where none were asked for.
        pairs: Number of pairs of an object and a background box; 0 where there were too few to tell them apart.
        notes: What to know of single checkpoints, e.g. that layers of it never trained.
    """

    scores: tuple[ProbeScore, ...]
    objects: int
    images: int
    classes: int
    majority: float
    settings: Mapping[str, Any]
    heads: tuple[HeadScore, ...] = ()
    pairs: int = 0
    notes: tuple[str, ...] = ()

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
        """A row for each score; accuracies, differences and ends of their intervals in 0–1.

        Rows of detection heads have the classifier ``head``, and their AP in the columns ``ap…``.
        """
        import pandas as pd

        frame: pd.DataFrame = pd.DataFrame([*map(_row, self.scores), *map(_head_row, self.heads)])
        return frame

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        heads = [{**_head_row(head), "values": list(head.values)} for head in self.heads]
        scores = [_row(score) for score in self.scores]
        return {**asdict(self), "scores": scores, "settings": dict(self.settings), "heads": heads}

    def headline(self) -> str:
        """What a linear classifier of all levels joined makes of each checkpoint."""
        told = (s for s in self.scores if (s.classifier, s.features) == ("linear", "joined"))
        shares = ", ".join(f"{score.checkpoint} {100 * score.accuracy.estimate:.1f} %" for score in told)
        return f"{shares} of {plural(self.objects, 'object')}"

    def table(self) -> str:
        """Bits and accuracies in percent, a line for each checkpoint; differences to the first one below."""
        columns = list(dict.fromkeys((score.classifier, score.features) for score in self.scores))
        classes = [column for column in columns if column[0] != OBJECTNESS]
        pairs = [column for column in columns if column[0] == OBJECTNESS]
        lines = [
            f"{self.objects:,} objects of {self.classes} classes in {self.images:,} images; always the most frequent "
            f"class: {100 * self.majority:.1f}",
            *self._block("accuracy %", classes, ("accuracy", "difference"), 100),
            "",
            *self._block("bits per object", [c for c in classes if c[0] == "linear"], _BITS, 1),
            "",
            *(self._block("bits per box", pairs, _BITS, 1) if pairs else ()),
            f"objectness: {self.pairs:,} pairs of object and background"
            if pairs
            else "objectness: too few pairs of object and background",
            f"intervals: {LEVEL:.0%}, bootstrap over images; differences on the same images",
            *(f"note: {note}" for note in self.notes),
        ]
        return "\n".join([*lines, *(self._detection() if self.heads else ())])

    def _block(self, title: str, columns: Sequence[tuple[str, str]], values: tuple[str, str], scale: int) -> list[str]:
        """What is named first, of each checkpoint, and below what is named second, of all but the first one."""
        names = list(dict.fromkeys(score.checkpoint for score in self.scores))
        header = [f"{classifier} {features}" for classifier, features in columns]

        def rows(names: Sequence[str], value: str, sign: str) -> list[list[str]]:
            return [[n, *(_text(getattr(self.score(n, *c), value), sign, scale) for c in columns)] for n in names]

        own, versus = rows(names, values[0], ""), rows(names[1:], values[1], "+")
        return [
            *aligned([[title, *header], *own], "<>"),
            "",
            *aligned([[f"minus {names[0]}", *header], *versus], "<>"),
        ]

    def _detection(self) -> list[str]:
        first, seeds = self.heads[0], len(self.heads[0].values)
        header = ["detection head", "AP %", f"minus {first.checkpoint}"]
        rows = [[head.checkpoint, _text(head.ap), _text(head.difference, "+")] for head in self.heads]
        epochs, images = (self.settings[f"detect_{name}"] for name in ("epochs", "images"))
        basis = (
            f"intervals: {LEVEL:.0%} over {seeds} seeds, differences paired by seeds"
            if seeds > 1
            else "one seed: no interval, and no difference is shown to be more than chance"
        )
        told = f"official AP on all validation images; epochs: {epochs}, training images: at most {images:,}; {basis}"
        return ["", *aligned([header, *rows], "<>"), told]

    def __str__(self) -> str:
        return self.table()


def score_all(
    told: Mapping[tuple[str, str, str], Told], images: NDArray[np.int64], resamples: int, seed: int
) -> tuple[ProbeScore, ...]:
    """Scores with intervals from what was told of each object.

    Args:
        told: (checkpoint, classifier, features) → what was told of each object; the first checkpoint is the one that
            others are compared with.
        images: Image of each object [N], 0 to the number of images.
        resamples: Number of draws of the images.
        seed: Seed of the draws.
    """
    count = int(images.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    total = drawn @ np.bincount(images, minlength=count)

    def interval(values: NDArray[np.float64]) -> Interval:
        return _interval(float(values.mean()), drawn @ np.bincount(images, values, count) / total, count)

    first, scores = next(iter(told))[0], []
    for key, own in told.items():
        of_first = (first, *key[1:])
        base = None if key == of_first else told[of_first]
        right, bits, others = own.right.astype(float), own.bits, base.bits if base else None
        versus = interval(right - base.right) if base else None
        learned = interval(bits) if bits is not None else None
        gained = interval(bits - others) if bits is not None and others is not None else None
        scores.append(ProbeScore(*key, interval(right), versus, learned, gained))
    return tuple(scores)


def score_heads(found: Mapping[str, Sequence[float]]) -> tuple[HeadScore, ...]:
    """Scores of detection heads.

    Args:
        found: Checkpoint → AP in 0–1 of each seed, the same seeds for all; others are compared with the first.
    """
    base = next(iter(found.values()))
    return tuple(
        HeadScore(
            name,
            tuple(values),
            mean_interval(values, LEVEL),
            paired_effect(values, base, LEVEL).interval if number else None,
        )
        for number, (name, values) in enumerate(found.items())
    )


def _interval(estimate: float, drawn: NDArray[np.float64], images: int) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), LEVEL, images)


def _row(score: ProbeScore) -> dict[str, Any]:
    row: dict[str, Any] = {"checkpoint": score.checkpoint, "classifier": score.classifier, "features": score.features}
    for name in ("accuracy", "difference", "information", "information_difference"):
        row |= _columns(name, getattr(score, name))
    return row


def _head_row(head: HeadScore) -> dict[str, Any]:
    row: dict[str, Any] = {"checkpoint": head.checkpoint, "classifier": "head", "features": "joined"}
    return row | _columns("ap", head.ap) | _columns("ap_difference", head.difference)


def _columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Estimate and ends; None for what is not known, which JSON has no other word for."""
    low, high = (interval.low, interval.high) if interval and interval.known else (None, None)
    return {name: interval.estimate if interval else None, f"{name}_low": low, f"{name}_high": high}


def _text(interval: Interval | None, sign: str = "", scale: int = 100) -> str:
    if interval is None:
        return ""
    values: Sequence[float] = (interval.estimate, interval.low, interval.high)
    digits = 1 if scale == 100 else 3
    if not interval.known:
        return decimal(scale * interval.estimate, digits, sign)
    return "{} [{}, {}]".format(*(decimal(scale * value, digits, sign) for value in values))
