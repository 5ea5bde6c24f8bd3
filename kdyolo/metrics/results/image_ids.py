"""Image ids of results tied to a ground truth: by id, or by file name where ids were made from names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from operator import itemgetter

from kdyolo.errors import DatasetError
from kdyolo.metrics.ground_truth import GroundTruth, Key
from kdyolo.metrics.results.entries import Entries
from kdyolo.metrics.results.mistakes import GAIN, SampledImages
from kdyolo.utils.text import did_you_mean, quoted

_Pair = tuple[Key, str | None]
ImageTie = Mapping[_Pair, int]  # image id and file name of an entry → image id of the ground truth
_MOST_NAMES = 10_000  # among which a similar one is looked for


def tie_images(entries: Entries, truth: GroundTruth) -> tuple[ImageTie, list[str]]:
    """Find the image of each entry.

    Ids decide where all of them are the ground truth's and no file name says otherwise. Stock Ultralytics makes ids of
    file names (``frame_01.jpg`` → ``"frame_01"``, ``000017.jpg`` → 17): those are matched by name. Where there are
    numbers only, which are ids and names of different images, the boxes decide.

    Args:
        entries: Entries of a results file.
        truth: Ground truth that they will be compared with.

    Returns:
        Image of each image id and file name, and a note if names decided it.

    Raises:
        DatasetError: An entry belongs to no image, or its id and its file name to two.
    """
    pairs = _pairs(entries)
    by_id = {pair: image for pair in pairs if (image := truth.image_of(pair[0])) is not None}
    if len(by_id) == len(pairs) and truth.named_by_ids and not any(name for _, name in pairs):
        return by_id, []
    names = _Names(truth)
    by_name = {pair: image for pair in pairs if (image := names.find(*pair)) is not None}
    whole = len(by_name) == len(pairs) == len(set(by_name.values()))
    made_of_names = all(_is_made_of_name(*pair) for pair in pairs)
    other = [pair for pair, image in by_id.items() if pair[1] and by_name.get(pair, image) != image]
    if len(by_id) == len(pairs) and not other:
        if made_of_names and names and not by_name:
            raise _another_split(entries, truth, pairs[0])
        if not (whole and by_name != by_id and _fits_better(entries, truth, by_name, by_id)):
            return by_id, []
    elif not (whole and (len(by_id) < len(pairs) or made_of_names)):
        if len(by_id) == len(pairs):
            raise _contradiction(entries, truth, other, by_id[other[0]])
        raise _unknown_images(entries, truth, pairs, by_name if len(by_name) > len(by_id) else by_id, names)
    return by_name, [_by_names(entries, truth, pairs[0], by_name[pairs[0]])]


def _fits_better(entries: Entries, truth: GroundTruth, first: ImageTie, second: ImageTie) -> bool:
    """Whether boxes lie on the objects of the images that they have in the first way of the two."""
    fits = [SampledImages.of(entries.records, tie, truth).fit() for tie in (first, second)]
    return fits[0] > fits[1] + GAIN


def _pairs(entries: Entries) -> list[_Pair]:
    """The different image ids and file names."""
    if not entries.named:
        return [(key, None) for key in dict.fromkeys(map(itemgetter("image_id"), entries.records))]
    return list(dict.fromkeys((record["image_id"], record.get("file_name")) for record in entries.records))


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

    def __len__(self) -> int:
        """Number of the different names, without folders and endings."""
        return len(self._indices[2])

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
    if name is None:
        return False
    stem = _forms(name)[2]
    return key == (int(stem) if stem.isdecimal() else stem)


def _by_names(entries: Entries, truth: GroundTruth, pair: _Pair, image: int) -> str:
    key, name = pair
    what = f"file_name {quoted(name)}" if name else quoted(key)
    return (
        f"{entries.path.name}: image ids are made of file names, as stock Ultralytics does, so images are matched by "
        f"name (e.g. {what} is {quoted(truth.images[image])}, image {truth.image_keys.get(image, image)!r} of "
        f"{truth.path.name})"
    )


def _another_split(entries: Entries, truth: GroundTruth, pair: _Pair) -> DatasetError:
    return DatasetError(
        f"{entries.path}: none of its file names is in {truth.path}, e.g. {quoted(pair[1])}; there are "
        f"{len(truth.images):,}, e.g. {quoted(next(iter(truth.images.values())))}. Its image ids are made of these "
        "names and are ids of other images there. Expected results on these images; are they of another split?"
    )


def _contradiction(entries: Entries, truth: GroundTruth, pairs: Sequence[_Pair], image: int) -> DatasetError:
    key, name = pairs[0]
    return DatasetError(
        f"{entries.path}: image_id and file_name disagree for {len(pairs):,} images: {quoted(name)} has the image_id "
        f"{quoted(key)}, which is {quoted(truth.images[image])} in {truth.path}. Correct one of them, or leave "
        "file_name out."
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
