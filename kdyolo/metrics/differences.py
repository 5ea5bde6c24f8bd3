"""Differences to pycocotools on purpose: annotations that it reads otherwise than they are meant, told in notes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdyolo.coco_json.values import real_number

OWN = "--evaluator pycocotools gives its number"


def differences_of_ids(ids: Iterable[Any]) -> list[str]:
    """Notes on ids of annotations by which pycocotools matches wrongly.

    It marks a detection as found with the id of its object, so that an object 0 is never found; and it looks objects
    up by their ids, so that of several with one id the last is counted again and again.

    Args:
        ids: ``id`` of each annotation that has one, as the file has it.
    """
    times = Counter(each for each in ids if each is None or isinstance(each, (int, float, str)))
    zeros = sum(count for each, count in times.items() if each is False or real_number(each) == 0)
    repeated = sum(count for count in times.values() if count > 1)
    notes = []
    if zeros:
        notes.append(
            f"{_annotations(zeros)} the id 0: here it counts as any other, while pycocotools takes what is found of it "
            f"for wrong ({OWN})"
        )
    if repeated:
        notes.append(
            f"{_annotations(repeated)} an id that others have too: here each counts, while pycocotools counts the last "
            f"of each id in place of all ({OWN})"
        )
    return notes


def differences_of_values(
    document: Mapping[str, Sequence[Any]],
    annotations: Sequence[Mapping[str, Any]],
    known: Mapping[str, Mapping[Any, Any]],
) -> list[str]:
    """Notes on annotations whose other values pycocotools reads otherwise.

    What it cannot read at all is no difference.

    Args:
        document: Content of the annotation file.
        annotations: The annotations of the file as they are read here, in the same order.
        known: ``image_id`` and ``category_id`` → id as the file has it among the images and categories → id in use.
    """
    counts: Counter[str] = Counter()
    for raw, annotation in zip(document["annotations"], annotations, strict=True):
        for key, ids in known.items():
            if _found(raw.get(key), ids) != annotation[key]:
                counts[f"{key} written otherwise than that of the {key.removesuffix('_id')}"] += 1
        if bool(raw.get("iscrowd")) != bool(annotation["iscrowd"]):
            counts["iscrowd as text, which it takes for 1"] += 1
        area = raw.get("area")
        if isinstance(area, (int, float)) and area != annotation["area"]:
            counts["no usable area, where it compares with what stands there"] += 1
    return [
        f"{_annotations(count)} {what}: pycocotools counts {'it' if count == 1 else 'them'} otherwise ({OWN})"
        for what, count in counts.items()
    ]


def differences_of_categories(counts: Mapping[Any, int], texts: Mapping[Any, int], known: Iterable[int]) -> list[str]:
    """A note on predictions whose category id is a number here and its text in the annotations, or the other way round.

    Args:
        counts: Category id → number of predictions.
        texts: Category id → number of predictions that have it as text.
        known: Category ids that the annotation file has as texts.
    """
    in_file = set(known)
    other = sum(
        count - texts.get(category, 0) if category in in_file else texts.get(category, 0)
        for category, count in counts.items()
    )
    if not other:
        return []
    have = "1 prediction has" if other == 1 else f"{other:,} predictions have"
    return [
        f"{have} a category_id that is a number where the annotations have a text, or the other way round: pycocotools "
        f"takes it for another ({OWN})"
    ]


def _found(raw: Any, ids: Mapping[Any, Any]) -> Any:
    """What pycocotools finds under an id; None for nothing."""
    return ids.get(raw) if isinstance(raw, (int, float, str)) else None


def _annotations(count: int) -> str:
    return f"{count:,} annotation{' has' if count == 1 else 's have'}"
