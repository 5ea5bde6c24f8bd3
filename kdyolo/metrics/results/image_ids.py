"""Image ids of results tied to a ground truth: by id, or by file name where ids were made from names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Any

from kdyolo.errors import DatasetError
from kdyolo.metrics.ground_truth import GroundTruth, Key
from kdyolo.metrics.results.entries import Entries
from kdyolo.utils.text import did_you_mean, quoted

_Pair = tuple[Key, str | None]
ImageTie = Mapping[_Pair, int]  # image id and file name of an entry → image id of the ground truth
_MOST_NAMES = 10_000  # among which a similar one is looked for


def tie_images(entries: Entries, truth: GroundTruth) -> tuple[ImageTie, list[str]]:
    """Find the image of each entry.

    Ids decide where all of them are the ground truth's and no file name says otherwise. Stock Ultralytics makes ids of
    file names (``frame_01.jpg`` → ``"frame_01"``, ``000017.jpg`` → 17): those are matched by name.

    Args:
        entries: Entries of a results file.
        truth: Ground truth that they will be compared with.

    Returns:
        Image of each image id and file name, and a note if names decided it.

    Raises:
        DatasetError: An entry belongs to no image, or its id and its file name to two.
    """
    pairs = _pairs(entries.records)
    by_id = {pair: image for pair in pairs if (image := truth.image_of(pair[0])) is not None}
    names = _Names(truth)
    other = [p for p in by_id if p[1] and names.find(*p) not in (None, by_id[p])]
    if len(by_id) == len(pairs) and not other:
        return by_id, []
    by_name = {pair: image for pair in pairs if (image := names.find(*pair)) is not None}
    whole = len(by_name) == len(pairs) == len(set(by_name.values()))
    if whole and (len(by_id) < len(pairs) or all(_is_made_of_name(*pair) for pair in pairs)):
        return by_name, [_by_names(entries, truth, pairs[0], by_name[pairs[0]])]
    if len(by_id) == len(pairs):
        key, name = other[0]
        raise DatasetError(
            f"{entries.path}: image_id and file_name disagree for {len(other):,} images: {quoted(name)} has the "
            f"image_id {key}, which is {quoted(truth.images[by_id[other[0]]])} in {truth.path}. Correct one of them, "
            "or leave file_name out."
        )
    raise _unknown_images(entries, truth, pairs, by_name if len(by_name) > len(by_id) else by_id, names)


def _pairs(records: Sequence[Any]) -> list[_Pair]:
    """The different image ids and file names."""
    try:
        return list(dict.fromkeys(map(itemgetter("image_id", "file_name"), records)))
    except KeyError:  # some have no file name
        return list(dict.fromkeys((record["image_id"], record.get("file_name")) for record in records))


class _Names:
    """Images of a ground truth by their file names: whole, without folders, without the ending, by their number.

    Args:
        truth: Ground truth whose images these are.
    """

    def __init__(self, truth: GroundTruth) -> None:
        self._indices: tuple[dict[str, int | None], ...] = ({}, {}, {})
        self._numbers: dict[int, int | None] = {}
        for image, name in truth.images.items():
            if image in truth.unnamed:
                continue
            forms = _forms(name)
            for index, form in zip(self._indices, forms, strict=True):
                index[form] = None if form in index else image
            if forms[2].isdecimal():
                number = int(forms[2])
                self._numbers[number] = None if number in self._numbers else image

    def find(self, key: Key, name: str | None = None) -> int | None:
        """The one image that the file name leads to, else the id taken for a name; None for none, or for several."""
        if name is None and isinstance(key, int):
            return self._numbers.get(key)
        forms = _forms(str(key) if name is None else name)
        tries = (*zip(self._indices, forms, strict=True), (self._indices[2], forms[1]))  # a stem may have a dot
        return next((index[form] for index, form in tries if form in index), None)

    def nearest(self, key: Key, name: str | None) -> str:
        """A suggestion of a similar name."""
        return did_you_mean(_forms(name or str(key))[2], list(islice(self._indices[2], _MOST_NAMES)))


def _forms(name: str) -> tuple[str, str, str]:
    """A file name as it is, without its folders, and without its ending too."""
    whole = name.replace("\\", "/").removeprefix("./")
    base = whole.rpartition("/")[2]
    return whole, base, base.rpartition(".")[0] or base


def _is_made_of_name(key: Key, name: str | None) -> bool:
    """Whether an id is what Ultralytics makes of the file name."""
    stem = _forms(name or "")[2]
    return key == (int(stem) if stem.isdecimal() else stem)


def _by_names(entries: Entries, truth: GroundTruth, pair: _Pair, image: int) -> str:
    key, name = pair
    what = f"file_name {quoted(name)}" if name else quoted(key)
    return (
        f"{entries.path.name}: image ids are made of file names, as stock Ultralytics does, so images are matched by "
        f"name (e.g. {what} is {quoted(truth.images[image])}, image {truth.image_keys.get(image, image)!r} of "
        f"{truth.path.name})"
    )


def _unknown_images(
    entries: Entries, truth: GroundTruth, pairs: Sequence[_Pair], tie: ImageTie, names: _Names
) -> DatasetError:
    unknown = [pair for pair in pairs if pair not in tie]
    if not unknown:
        return DatasetError(
            f"{entries.path}: its {len(pairs):,} images lead to only {len(set(tie.values())):,} file names of "
            f"{truth.path}. Expected the image ids of that file."
        )
    key, name = unknown[0]
    example = f"{quoted(key)} ({quoted(name)})" if name else quoted(key)
    known = ", ".join(
        f"{quoted(truth.image_keys.get(i, i))} ({quoted(truth.images[i])})" for i in islice(truth.images, 2)
    )
    return DatasetError(
        f"{entries.path}: {len(unknown):,} of its {len(pairs):,} image ids are not in {truth.path}, e.g. {example}; "
        f"there are {len(truth.images):,}, e.g. {known}. Expected results on these images; are they of another "
        f"split?{names.nearest(key, name)}"
    )
