"""Category ids of results tied to a ground truth: as they are, by name, shifted by one, or numbered by their places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from kdyolo.errors import ConfigError, DatasetError
from kdyolo.metrics.ground_truth import GroundTruth, Key
from kdyolo.metrics.results.entries import Entries
from kdyolo.metrics.results.mistakes import SampledImages
from kdyolo.utils.text import number_and_noun, quoted

CategoryTie = dict[Key, int | None]
AUTO = "auto"
FROM_0, FROM_1, FROM_COCO = "from-0", "from-1", "coco"
# The ids of COCO's 80 categories, which stock Ultralytics gives to the classes of whatever lies at COCO's usual paths.
_COCO_IDS = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
# A reading other than the ids' own needs so many pairs of an object and the detection on it whose categories agree, of
# all pairs such a share, and so many times as many as the ids' own reading; fewer where ids are none of the categories.
_PAIRS, _SHARE, _TIMES = 4, 0.2, 5
_PAIRS_IF_LOST, _TIMES_IF_LOST = 2, 3
_PAIRS_OF_ONE = 10  # where all pairs are of one category
_SHOWN = 4  # ids in a message


def checked_offset(given: int | str) -> int | str:
    """A category offset as it is used: a number, or one of the words for it.

    Raises:
        ConfigError: It is neither.
    """
    if given in (AUTO, FROM_0, FROM_1, FROM_COCO):
        return given
    try:
        return int(given)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"--category-offset {quoted(given)}: expected a whole number, {AUTO}, {FROM_0}, {FROM_1} or {FROM_COCO}."
        ) from error


def tie_categories(
    entries: Entries, truth: GroundTruth, sample: SampledImages, offset: int | str
) -> tuple[CategoryTie, list[str]]:
    """Find the category of each category id.

    Args:
        entries: Entries of a results file.
        truth: Ground truth that they will be compared with.
        sample: Objects and detections of some images, by which a shift is recognised.
        offset: What :func:`checked_offset` returns.

    Returns:
        Category of each id; of what stands for none, the number itself, or None for a text. And notes on ids that were
        translated or stand for none.

    Raises:
        DatasetError: No text is a category, or it is not clear what the numbers stand for.
    """
    counts = Counter(map(itemgetter("category_id"), entries.records))
    tied, notes = _by_own_table(entries, truth, counts)
    if tied:
        return tied, notes
    tied, notes = _by_text(entries, truth, counts)
    numbers = {key: count for key, count in counts.items() if isinstance(key, int) and key not in tied}
    if numbers:
        ids, more = _by_number(entries, truth, sample, offset, numbers)
        tied, notes = tied | ids, notes + more
    return tied, notes


def _by_own_table(entries: Entries, truth: GroundTruth, counts: Mapping[Key, int]) -> tuple[CategoryTie, list[str]]:
    """By the names in the file's own table of categories, where all used ones are there under other ids."""
    id_of = {name: category for category, name in truth.categories.items()}
    names = {key: entries.category_names.get(key) for key in counts}
    tied: CategoryTie = {key: id_of[name] for key, name in names.items() if name in id_of}
    if len(tied) < len(counts) or all(truth.category_of(key) == category for key, category in tied.items()):
        return {}, []
    key, category = next((k, c) for k, c in tied.items() if c is not None and truth.category_of(k) != c)
    note = (
        f"{entries.path.name} has a table of categories of its own with other ids: matched by name (e.g. its "
        f"{quoted(key)}, {quoted(names[key])}, is {quoted(truth.category_keys.get(category, category))} in "
        f"{truth.path.name})"
    )
    return tied, [note]


def _by_text(entries: Entries, truth: GroundTruth, counts: Mapping[Key, int]) -> tuple[CategoryTie, list[str]]:
    """Ids of the annotation file that are texts, and texts that are names of categories."""
    notes = []
    id_of = {name: category for category, name in truth.categories.items()}
    tied: CategoryTie = {
        key: id_of.get(key) if (own := truth.category_of(key)) is None else own
        for key in counts
        if isinstance(key, str)
    }
    named = [key for key, category in tied.items() if category is not None and truth.category_of(key) is None]
    if named:
        category = truth.category_keys.get(tied[named[0]] or 0, tied[named[0]])
        notes = [
            f"{entries.path.name}: category ids are names, matched with those of {truth.path.name} (e.g. "
            f"{quoted(named[0])} is {quoted(category)} there)"
        ]
    unknown = {key: counts[key] for key, category in tied.items() if category is None}
    if len(unknown) < len(counts):
        return tied, [*notes, *_lost(truth, unknown)]
    known = ", ".join(
        f"{quoted(truth.category_keys.get(c, c))} ({quoted(n)})" for c, n in list(truth.categories.items())[:_SHOWN]
    )
    raise DatasetError(
        f"{entries.path}: none of its category ids ({_listed(list(unknown))}) is an id or a name in {truth.path}, "
        f"which has {known}, …. Expected the ids of the annotation file."
    )


def _lost(truth: GroundTruth, counts: Mapping[Any, int]) -> list[str]:
    """A note on ids that stand for no category, if there are any."""
    if not counts:
        return []
    count, example = sum(counts.values()), min(counts)
    what = number_and_noun(count, "detection{|s} of categories")
    do = "does" if count == 1 else "do"
    return [f"{what} that {truth.path.name} lacks (id {quoted(example)}) {do} not count"]


# ---- numbers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """A way to read the numbers of categories.

    Attributes:
        option: Its name in ``--category-offset``.
        meaning: What the numbers are, in words.
        of: Category that a number stands for; None for none.
    """

    option: str
    meaning: str
    of: Callable[[int], int | None]


def _by_number(
    entries: Entries, truth: GroundTruth, sample: SampledImages, offset: int | str, counts: Mapping[int, int]
) -> tuple[CategoryTie, list[str]]:
    """Numbers, in the reading that is asked for or recognised."""
    if offset == AUTO:
        reading = _recognised(entries, truth, sample, counts)
    else:
        reading = _by_place(truth, offset) if isinstance(offset, str) else _shifted(truth, offset)
    ids = {key: reading.of(key) for key in counts}
    lost = {key: counts[key] for key, category in ids.items() if category is None}
    if len(lost) == len(counts):
        raise _none_fits(entries, truth, list(lost))
    notes = _lost(truth, lost)
    if any(category not in (None, truth.category_of(key)) for key, category in ids.items()):
        notes.insert(0, _renumbered(entries, truth, ids, reading, offset))
    # A number in use may stand for a text in the file: then what is lost must not get it.
    kept: CategoryTie = {} if truth.own_categories else {key: key for key in lost}
    return {key: kept.get(key, category) for key, category in ids.items()}, notes


def _shifted(truth: GroundTruth, offset: int) -> _Reading:
    def category(number: int) -> int | None:
        return truth.category_of(number + offset)

    return _Reading(str(offset), f"shifted by {-offset:+}" if offset else "those of the annotation file", category)


def _by_place(truth: GroundTruth, option: str) -> _Reading:
    ids = list(truth.categories)
    if option == FROM_COCO:
        places = dict(zip(_COCO_IDS, ids, strict=False))
        return _Reading(option, "COCO's ids, given to the categories in the order of their ids", places.get)
    first = int(option == FROM_1)
    meaning = f"places in the order of the ids, counted from {first}"
    return _Reading(option, meaning, dict(enumerate(ids, first)).get)


def _recognised(entries: Entries, truth: GroundTruth, sample: SampledImages, numbers: Mapping[int, int]) -> _Reading:
    """The reading that the ids, and the boxes of objects and detections, speak for.

    Raises:
        DatasetError: The ids stand for other categories than their own, and boxes do not say for which.
    """
    own = _shifted(truth, 0)
    lost = [number for number in numbers if own.of(number) is None]
    others = _fitting(truth, numbers)
    if not others:
        if len(lost) == len(numbers):
            raise _none_fits(entries, truth, lost)
        return own
    pairs = [(key, category) for key, category in sample.pairs() if isinstance(key, int)]
    best = max(others, key=lambda reading: sum(reading.of(key) == category for key, category in pairs))
    found = {key for key, category in pairs if best.of(key) == category}
    for_best, for_own = _votes(pairs, best, own)
    few, times = (_PAIRS_IF_LOST, _TIMES_IF_LOST) if lost else (_PAIRS, _TIMES)
    enough = max(1 if len(lost) == len(numbers) else few, _SHARE * len(pairs), times * for_own)
    if for_best >= enough and (lost or len(found) > 1 or for_best >= _PAIRS_OF_ONE):
        rivals = (_votes(pairs, best, rival) for rival in others if rival is not best)
        if all(mine >= max(1, times * theirs) for mine, theirs in rivals):
            return best
    elif not lost or for_own >= max(1, times * for_best):
        return own
    raise _ambiguous(entries, truth, lost, others, len(pairs))


def _votes(pairs: Sequence[tuple[int, int]], first: _Reading, second: _Reading) -> tuple[int, int]:
    """Numbers of the pairs whose categories agree in the one reading only, and in the other only."""
    read = [(first.of(key) == category, second.of(key) == category) for key, category in pairs]
    return sum(a and not b for a, b in read), sum(b and not a for a, b in read)


def _fitting(truth: GroundTruth, numbers: Mapping[int, int]) -> list[_Reading]:
    """The readings, other than the ids' own, in which each number is a category; of equal ones the first."""
    by_place = (_by_place(truth, option) for option in (FROM_1, FROM_0, FROM_COCO))
    candidates = (_shifted(truth, -1), _shifted(truth, 1), *by_place)
    own = _shifted(truth, 0)
    known = {tuple(own.of(number) for number in numbers)}
    fitting = []
    for reading in candidates:
        found = tuple(reading.of(number) for number in numbers)
        if None not in found and found not in known:
            known.add(found)
            fitting.append(reading)
    return fitting


def _renumbered(
    entries: Entries, truth: GroundTruth, ids: Mapping[int, int | None], reading: _Reading, offset: int | str
) -> str:
    examples = [
        f"{key} → {quoted(truth.category_keys.get(category, category))} ({quoted(truth.categories[category])})"
        for key, category in sorted(ids.items())
        if category is not None
    ]
    shown = ", ".join(examples[:3]) + (", …" if len(examples) > 3 else "")
    if offset != AUTO:
        return f"{entries.path.name}: category ids read with --category-offset {offset}: {shown}"
    return (
        f"{entries.path.name}: category ids are {reading.meaning}, as boxes show, and are corrected: {shown}; "
        "--category-offset 0 takes them as they are"
    )


def _none_fits(entries: Entries, truth: GroundTruth, lost: Sequence[int]) -> DatasetError:
    return DatasetError(
        f"{entries.path}: none of its category ids ({_listed(lost)}) is in {truth.path}, which has "
        f"{_listed(_own_ids(truth))}. Expected category ids of the annotation file; --category-offset N adds N "
        "to each id."
    )


def _ambiguous(
    entries: Entries, truth: GroundTruth, lost: Sequence[int], others: Sequence[_Reading], pairs: int
) -> DatasetError:
    choices = "; ".join(f"--category-offset {r.option} if they are {r.meaning}" for r in others)
    if lost:
        wrong = (
            f"category ids {_listed(lost)} are not in {truth.path}, which has {_listed(_own_ids(truth))}, and the "
            f"{pairs} objects that are found do not show what they stand for"
        )
    else:
        wrong = f"category ids are others than those of the {pairs} objects that are found, in more than one way"
    return DatasetError(
        f"{entries.path}: {wrong}. Expected category ids of the annotation file, not class indices. Say which: "
        f"{choices}; --category-offset 0 takes them as they are, and those that are no category do not count."
    )


def _own_ids(truth: GroundTruth) -> list[Key]:
    """The ids of the categories as the annotation file has them."""
    return [truth.category_keys.get(category, category) for category in truth.categories]


def _listed(ids: Sequence[Key]) -> str:
    ordered = sorted(ids, key=lambda key: (isinstance(key, str), key))
    return ", ".join(quoted(key) for key in ordered[:_SHOWN]) + (", …" if len(ordered) > _SHOWN else "")
