"""Bootstrap over images: confidence intervals of the COCO metrics, and comparison of two models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdyolo.arguments import checked
from kdyolo.errors import ConfigError
from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.coco_metrics import CocoScores, score_results
from kdyolo.metrics.ground_truth import GroundTruth, check_detections, of_categories
from kdyolo.metrics.matching import AREAS, IOU_THRESHOLDS, Bools, Floats, Ints, Matches, match_detections
from kdyolo.metrics.names import DEFAULT_EVALUATOR, NAMES, Evaluator
from kdyolo.metrics.results.category_ids import AUTO
from kdyolo.metrics.results.reading import read_detections
from kdyolo.utils.progress import progress_over, waiting
from kdyolo.utils.tables import ShownAsTable, aligned
from kdyolo.utils.text import decimal, plural

RESAMPLES = 1000
LEVEL = 0.95
_RECALLS = np.linspace(0, 1, 101)
_LIMITS = (1, 10, 100)  # detections per image and category, for AR


@dataclass(frozen=True)
class BootstrapIntervals:
    """Percentile bootstrap intervals of the twelve metrics (Efron & Tibshirani, An Introduction to the Bootstrap).

    Attributes:
        level: Coverage of the intervals, e.g. 0.95.
        resamples: Number of times the images were drawn anew, with replacement.
        seed: Seed of the draws.
        low: Lower end for each metric, in the official order; NaN where the metric is −1.
        high: Upper end for each metric, in the official order; NaN where the metric is −1.
    """

    level: float
    resamples: int
    seed: int
    low: tuple[float, ...]
    high: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: official name → [low, high], or null."""
        ends = zip(NAMES, self.low, self.high, strict=True)
        named = {name: None if np.isnan(low) else [low, high] for name, low, high in ends}
        return {"level": self.level, "resamples": self.resamples, "seed": self.seed, **named}

    def suffixes(self) -> list[str]:
        """Text such as ``  95% CI 0.300 … 0.322`` for each metric, empty where it has no interval."""
        return [
            "" if np.isnan(low) else f"  {self.level:.0%} CI {low:.3f} … {high:.3f}"
            for low, high in zip(self.low, self.high, strict=True)
        ]


@dataclass(frozen=True, repr=False)
class CocoComparison(ShownAsTable):
    """Two models on the same images.

    Attributes:
        first: Scores of the first model.
        second: Scores of the second model.
        difference: Second − first, for each of the twelve metrics; NaN where one of them has no value.
        intervals: Intervals of the differences, from drawing the same images for both models.
        p_values: Two-sided bootstrap p-values of "no difference": twice the smaller of the fractions of draws ≤ 0 and
            ≥ 0, each (k + 1)/(n + 1) (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 4.4).
    """

    first: CocoScores
    second: CocoScores
    difference: tuple[float, ...]
    intervals: BootstrapIntervals
    p_values: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; a metric without a value is null."""

        def named(metrics: Sequence[float]) -> dict[str, float | None]:
            return {name: None if np.isnan(v) else v for name, v in zip(NAMES, metrics, strict=True)}

        return {
            "first": self.first.to_dict(),
            "second": self.second.to_dict(),
            "difference": named(self.difference),
            "interval": self.intervals.to_dict(),
            "p_value": named(self.p_values),
        }

    def headline(self) -> str:
        """AP of both, with the interval of the difference."""
        ap, (low, high) = self.difference[0], (self.intervals.low[0], self.intervals.high[0])
        gain = (
            "" if np.isnan(ap) else f", {_signed(ap)} ({self.intervals.level:.0%} CI {_signed(low)} … {_signed(high)})"
        )
        return f"AP {self.first.ap:.3f} and {self.second.ap:.3f}{gain}"

    def table(self, names: tuple[str, str] = ("first", "second")) -> str:
        """A line for every metric: both values, the difference, its interval and p-value."""
        level = f"{self.intervals.level:.0%} CI of the difference"
        lines = [
            f"A  {names[0]}: {plural(self.first.detections, 'detection')}",
            f"B  {names[1]}: {plural(self.second.detections, 'detection')}",
            f"on {plural(self.first.images, 'image')}, {plural(self.first.objects, 'object')} "
            f"({self.first.evaluator}); "
            f"{self.intervals.resamples:,} paired resamples of the images",
        ]
        cells = [["", "A", "B", "B − A", level, "p"]]
        rows = zip(NAMES, self.first.metrics, self.second.metrics, self.difference, self.p_values, strict=True)
        for index, (name, a, b, d, p) in enumerate(rows):
            low, high = self.intervals.low[index], self.intervals.high[index]
            rest = [""] * 3 if np.isnan(d) else [_signed(d), f"{_signed(low)} … {_signed(high)}", f"{p:.3f}"]
            cells.append([name, f"{a:.3f}", f"{b:.3f}", *rest])
        lines += aligned(cells, "<>", indent=1)
        notes = dict.fromkeys((*self.first.notes, *self.second.notes))
        return "\n".join([*lines, *(f"note: {note}" for note in notes)])

    def __str__(self) -> str:
        return self.table()


def confidence(
    truth: GroundTruth,
    detections: Sequence[Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    categories: Sequence[int] | None = None,
) -> BootstrapIntervals:
    """Confidence intervals of the twelve metrics, from drawing images with replacement.

    They say how far another sample of images from the same source could be expected to move a metric; they say nothing
    about another training run.

    Args:
        truth: Images, categories and objects.
        detections: Detections on images of the ground truth.
        resamples: Number of draws, at least 1.
        seed: Seed of the draws.
        level: Coverage of the intervals, in 0–1.
        categories: Ids of the categories that count, as ``catIds`` of pycocotools; None for all.

    Raises:
        ConfigError: A number is out of range.
        DatasetError: Detections are on images that the ground truth lacks, or of none of its categories.
    """
    _check_numbers(resamples, level, seed)
    check_detections(detections, truth, "the detections")
    accumulate = _accumulator(truth, detections, categories)
    drawn = np.stack([accumulate(w) for w in _draws(len(truth.images), resamples, seed)])
    return _intervals(drawn, resamples, seed, level)


@checked
def compare_coco(
    first: str | Path,
    second: str | Path,
    annotations: str | Path,
    *,
    evaluator: Evaluator = DEFAULT_EVALUATOR,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    categories: Sequence[int] | None = None,
    category_offset: int | str = AUTO,
) -> CocoComparison:
    """Compare two results files on the same annotations, with a paired bootstrap over the images.

    Both models are scored on the same drawn images each time, so that what makes an image hard for both cancels out.

    Args:
        first: COCO results of the first model.
        second: COCO results of the second model.
        annotations: COCO instance annotations of the images.
        evaluator: The package that computes the metrics themselves.
        resamples: Number of draws, at least 1.
        seed: Seed of the draws.
        level: Coverage of the intervals, in 0–1.
        categories: Ids of the categories that count, as ``catIds`` of pycocotools; None for all.
        category_offset: How the category ids of both files are read, as :func:`kdyolo.score_coco` takes it.

    Raises:
        ConfigError: A number is out of range, or the evaluator or the offset is unknown.
        DatasetError: A file is not what it should be, or they do not belong together.

    Examples:
        >>> from kdyolo import compare_coco
        >>> comparison = compare_coco("a.json", "b.json", "instances_val2017.json", resamples=10)
        >>> comparison.second.ap - comparison.first.ap
        0.0
    """
    _check_numbers(resamples, level, seed)
    truth = read_ground_truth(annotations)
    scores: list[CocoScores] = []
    accumulators: list[Accumulator] = []
    for path in (first, second):
        results = read_detections(path, truth, category_offset)
        scores.append(score_results(truth, results, evaluator, categories))
        accumulators.append(_accumulator(truth, results.detections, categories))
    drawn = np.stack([accumulators[1](w) - accumulators[0](w) for w in _draws(len(truth.images), resamples, seed)])
    pairs = zip(scores[0].metrics, scores[1].metrics, strict=True)
    difference = tuple(b - a if min(a, b) >= 0 else float("nan") for a, b in pairs)
    return CocoComparison(scores[0], scores[1], difference, _intervals(drawn, resamples, seed, level), _p_values(drawn))


@waiting("matching detections to objects")
def _accumulator(truth: GroundTruth, detections: Sequence[Any], categories: Sequence[int] | None) -> Accumulator:
    return Accumulator(match_detections(*of_categories(truth, detections, categories)))


def _check_numbers(resamples: int, level: float, seed: int) -> None:
    mistakes = []
    if resamples < 1:
        mistakes.append(f"--resamples {resamples}: expected at least 1.")
    if seed < 0:
        mistakes.append(f"--seed {seed}: expected at least 0.")
    if not 0 < level < 1:
        mistakes.append(f"level must lie between 0 and 1, found {level}.")
    if mistakes:
        raise ConfigError(mistakes)


def _draws(images: int, resamples: int, seed: int) -> Any:
    """How often each image is drawn, for each resample: [images]."""
    rng = np.random.default_rng(seed)
    for _ in progress_over(range(resamples), "drawing images", resamples, "times"):
        yield np.bincount(rng.integers(images, size=images), minlength=images).astype(np.float64)


def _intervals(drawn: Floats, resamples: int, seed: int, level: float) -> BootstrapIntervals:
    """Percentiles of [resamples, 12], leaving out draws without an object of the kind."""
    tail = (1 - level) / 2
    ends = [
        np.quantile(column[~np.isnan(column)], [tail, 1 - tail]) if not np.isnan(column).all() else [np.nan, np.nan]
        for column in drawn.T
    ]
    low, high = (tuple(float(end[side]) for end in ends) for side in (0, 1))
    return BootstrapIntervals(level, resamples, seed, low, high)


def _p_values(differences: Floats) -> tuple[float, ...]:
    values = []
    for column in differences.T:
        valid = column[~np.isnan(column)]
        shares = [(int(side.sum()) + 1) / (len(valid) + 1) for side in (valid <= 0, valid >= 0)]
        values.append(min(1.0, 2 * min(shares)) if len(valid) else float("nan"))
    return tuple(values)


class Accumulator:
    """COCO's accumulation for any weights of the images, from matches that are computed once.

    Drawing an image twice is counting its detections and objects twice. Precision changes with every detection but its
    envelope is decided where a detection is right, so only those ("entries") are looked at, with the number of wrong
    detections before them. Equal to evaluating a file in which the images are copied (ties within an image apart).

    Args:
        matches: Matches of all detections with all objects.
    """

    def __init__(self, matches: Matches) -> None:
        shape = (len(AREAS), len(IOU_THRESHOLDS), matches.categories)
        self._matches = matches
        self._shape = shape
        # [H, A, T] → one entry for each matched detection, range and threshold at which it is right or no longer wrong.
        right = matches.matched & ~matches.ignored
        not_wrong = matches.matched & matches.inside.T[matches.hit][:, :, None]
        area, threshold, hit = np.nonzero(np.moveaxis(right | not_wrong, 0, 2))
        place = matches.hit[hit]
        segment = np.ravel_multi_index((area, threshold, matches.category[place]), shape)
        order = np.lexsort((place, segment))
        area, threshold, hit, place = (a[order] for a in (area, threshold, hit, place))
        self._segment: Ints = segment[order]
        self._image: Ints = matches.image[place]
        self._right: Bools = right[hit, area, threshold]
        self._would_be_wrong: Bools = not_wrong[hit, area, threshold]
        self._rank: Ints = matches.rank[place]
        self._area: Ints = area
        self._place: Ints = place
        self._category_start = np.searchsorted(matches.category, np.arange(matches.categories))
        self._entry_start = np.searchsorted(self._segment, np.arange(int(np.prod(shape))))

    def __call__(self, weights: Floats) -> Floats:
        """The twelve metrics, in the official order; NaN where there is no object.

        Args:
            weights: [images] How often each image counts.
        """
        weight = weights[self._image]
        right = _running_sums(weight * self._right, self._entry_start, self._segment)
        wrong = self._detections_before(weights) - _running_sums(
            weight * self._would_be_wrong, self._entry_start, self._segment
        )
        positives = np.broadcast_to(self._positives(weights)[:, None], self._shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            recall = right / positives.ravel()[self._segment]
        recall[~np.isfinite(recall)] = 0.0
        precision = right / (right + wrong + np.spacing(1))
        ap = self._average_precision(recall, precision)
        ap[positives == 0] = np.nan
        found = [self._recall(weight, limit) for limit in _LIMITS]
        with np.errstate(divide="ignore", invalid="ignore"):
            ar = [np.where(positives > 0, sums / positives, np.nan) for sums in found]
        return np.array(
            [
                *(_mean(a) for a in (ap[0], ap[0, 0], ap[0, 5], ap[1], ap[2], ap[3])),
                *(_mean(a) for a in (ar[0][0], ar[1][0], ar[2][0], ar[2][1], ar[2][2], ar[2][3])),
            ]
        )

    def _positives(self, weights: Floats) -> Floats:
        """[A, K] objects that count."""
        m = self._matches
        weight = weights[m.object_image]
        counted = [np.bincount(m.object_category, weight * counts, m.categories) for counts in m.object_counts]
        return np.stack(counted)

    def _detections_before(self, weights: Floats) -> Floats:
        """For each entry, the detections of its category up to it that are wrong unless matched."""
        m = self._matches
        before = np.empty(len(self._place))
        weight = weights[m.image]
        for area in range(len(AREAS)):
            sums = np.r_[0.0, np.cumsum(weight * m.inside[area])]
            here = self._area == area
            place = self._place[here]
            before[here] = sums[place + 1] - sums[self._category_start[m.category[place]]]
        return before

    def _average_precision(self, recall: Floats, precision: Floats) -> Floats:
        """[A, T, K] mean of the precision's envelope at 101 recalls."""
        nearest = np.rint(recall * 100).astype(np.int64)
        reached = nearest + (_RECALLS[nearest] <= recall)  # number of the 101 recalls at or below this one
        first = np.zeros(len(reached), dtype=bool)
        first[self._entry_start[self._entry_start < len(reached)]] = True
        gained = np.where(first, reached, reached - np.r_[0, reached[:-1]])
        # The envelope runs from the last entry of each segment back to its first: steps of 2 keep segments apart.
        step = 2.0 * self._segment
        envelope = np.maximum.accumulate((precision - step)[::-1])[::-1] + step
        sums: NDArray[Any] = np.bincount(self._segment, envelope * gained, int(np.prod(self._shape)))
        return sums.reshape(self._shape) / len(_RECALLS)

    def _recall(self, weight: Floats, limit: int) -> Floats:
        """[A, T, K] objects found with so many detections per image and category."""
        counted = weight * (self._right & (self._rank < limit))
        sums: NDArray[Any] = np.bincount(self._segment, counted, int(np.prod(self._shape)))
        return sums.reshape(self._shape)


def _running_sums(values: Floats, starts: Ints, segment: Ints) -> Floats:
    """Cumulative sums that begin anew in each segment."""
    sums = np.r_[0.0, np.cumsum(values)]
    return np.asarray(sums[1:] - sums[starts[segment]])


def _mean(values: Floats) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


def _signed(difference: float) -> str:
    return decimal(difference, 3, "+")
