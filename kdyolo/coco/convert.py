"""COCO annotations → a dataset that Ultralytics trains on: labels, links to the images, lists and a YAML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdyolo.coco.annotations import Annotations, read_annotations
from kdyolo.coco.labels import SplitLabels, make_labels
from kdyolo.coco.layout import (
    HEADER,
    Source,
    check_other_yamls,
    check_out,
    check_sources,
    find_sources,
    is_plain_name,
    pick_roles,
)
from kdyolo.coco.publish import LINKS, Link, SplitPlan, annotations_name, list_name, publish
from kdyolo.errors import ConfigError, DatasetError

__all__ = ["ConversionSummary", "Source", "SplitSummary", "convert_coco"]


@dataclass(frozen=True)
class SplitSummary:
    """What became of one split: ``boxes + crowds + empty + sum(skipped_annotations.values()) == annotations``.

    Attributes:
        annotations: entries under ``annotations`` in the file.
        images: images written.
        backgrounds: of these, with an empty label file.
        boxes: lines written to label files.
        crowds: crowd regions (``iscrowd`` 1) left out of the labels.
        clipped: boxes written that reached beyond their image.
        empty: boxes dropped because they have no area inside their image.
        skipped_images: reason → number of invalid image records left out.
        skipped_annotations: reason → number of invalid annotation records left out.
    """

    annotations: int
    images: int
    backgrounds: int
    boxes: int
    crowds: int
    clipped: int
    empty: int
    skipped_images: dict[str, int]
    skipped_annotations: dict[str, int]


@dataclass(frozen=True)
class ConversionSummary:
    """What ``convert_coco`` wrote.

    Attributes:
        yaml: the dataset YAML, for ``--data``.
        names: class index 0…nc−1 → name.
        category_ids: class index 0…nc−1 → category id in the annotations.
        roles: train, val and perhaps test → split.
        splits: split → counts.
        warnings: sentences a person should read.
    """

    yaml: Path
    names: dict[int, str]
    category_ids: dict[int, int]
    roles: dict[str, str]
    splits: dict[str, SplitSummary]
    warnings: tuple[str, ...]

    def table(self) -> str:
        """A few lines for people: counts for each split, number of classes, what was skipped and why, warnings."""
        head = ("split", "role", "images", "background", "boxes", "crowds left out", "clipped", "empty dropped")
        rows = [head, *(self._row(split) for split in self.splits)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(_justify(row, widths)).rstrip() for row in rows]
        lines.append(f"{len(self.names)} classes")
        for split, counts in self.splits.items():
            lines += _skip_lines(split, "image", counts.skipped_images)
            lines += _skip_lines(split, "annotation", counts.skipped_annotations)
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def _row(self, split: str) -> tuple[str, ...]:
        s = self.splits[split]
        role = ", ".join(role for role, of_split in self.roles.items() if of_split == split) or "-"
        counts = (s.images, s.backgrounds, s.boxes, s.crowds, s.clipped, s.empty)
        return (split, role, *map(str, counts))

    def __str__(self) -> str:
        return self.table()


def _justify(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Words to the left, numbers (from the third column on) to the right."""
    return [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]


def _skip_lines(split: str, kind: str, reasons: dict[str, int]) -> list[str]:
    return [
        f"{split}: skipped {count} {kind}{'s'[: count != 1]}: {reason}" for reason, count in sorted(reasons.items())
    ]


def convert_coco(
    root: str | Path | None = None,
    out: str | Path | None = None,
    *,
    name: str = "coco",
    link: Link = "symlink",
    sources: Sequence[Source] = (),
    skip_invalid: bool = False,
) -> ConversionSummary:
    """Convert COCO detection annotations to an Ultralytics dataset, completely or not at all.

    Nothing is written before everything was read and checked. Doing it again gives the same bytes.

    Args:
        root: folder in the official layout: ``annotations/instances_<split>.json`` and the images in
            ``images/<split>/`` or ``<split>/``. It is never written to. Either this or ``sources``.
        out: folder to write: missing, empty, or an earlier conversion, whose entries of the same splits are replaced.
        name: the dataset YAML is ``<out>/<name>.yaml``.
        link: how images and annotation files get into ``out``: links to the originals, or copies.
        sources: the splits one by one, for any other layout.
        skip_invalid: leave invalid images and annotations out and count them, instead of raising.

    Raises:
        ConfigError: arguments contradict each other, or splits have no clear roles.
        DatasetError: the data is not what it should be (which file, which record), or ``out`` cannot be written.
    """
    _check_arguments(root, out, name, link, sources)
    root, out = None if root is None else Path(root).expanduser(), Path(out or "").expanduser().resolve()
    sources = (
        [Source(Path(s.annotations), Path(s.images), s.split) for s in sources] if root is None else find_sources(root)
    )
    check_sources(sources)
    roles = pick_roles([source.split for source in sources])
    check_out(out, root, sources)

    data = [read_annotations(source.annotations, source.images, skip_invalid=skip_invalid) for source in sources]
    categories = _merge_categories(data)
    class_of = {category_id: index for index, category_id in enumerate(categories)}
    labels = [make_labels(of_split, class_of) for of_split in data]

    dataset = _dataset_yaml(out, roles, categories)
    check_other_yamls(out, name, dataset)
    plans = [
        SplitPlan(source.split, source.annotations.resolve(), source.images.resolve(), of_split.texts)
        for source, of_split in zip(sources, labels, strict=True)
    ]
    text = f"{HEADER}\n{yaml.safe_dump(dataset, sort_keys=False, allow_unicode=True)}"
    publish(plans, f"{name}.yaml", text, out, link)
    splits = {s.split: _summarise(d, lb) for s, d, lb in zip(sources, data, labels, strict=True)}
    return ConversionSummary(
        out / f"{name}.yaml", dataset["names"], dataset["category_ids"], roles, splits, _warnings(roles)
    )


def _check_arguments(
    root: str | Path | None, out: str | Path | None, name: str, link: str, sources: Sequence[Source]
) -> None:
    mistakes = []
    if (root is None) == (not sources):
        found = "neither" if root is None else "both"
        mistakes.append(f"expected either a COCO folder (root) or sources, found {found}: give exactly one of them")
    if out is None or not str(out):
        mistakes.append("expected an output folder (out), found none: say where to write the dataset")
    if not is_plain_name(name):
        mistakes.append(f"name {name!r} cannot name a file: use letters, digits, '_', '-', '.'")
    if link not in LINKS:
        mistakes.append(f"expected link to be one of {', '.join(LINKS)}, found {link!r}")
    if mistakes:
        raise ConfigError(mistakes)


def _merge_categories(data: Iterable[Annotations]) -> dict[int, str]:
    """Category id → name over all splits, in ascending order of the ids, which is the order of the classes."""
    names: dict[int, str] = {}
    id_of: dict[str, int] = {}
    for of_split in data:
        for category_id, name in of_split.categories.items():
            known = names.setdefault(category_id, name)
            if known != name:
                raise DatasetError(
                    f"{of_split.path}: category id {category_id} is {name!r}, but {known!r} in another split. "
                    "All splits must agree: correct the categories, or convert the splits separately."
                )
            if id_of.setdefault(name, category_id) != category_id:
                raise DatasetError(
                    f"{of_split.path}: category {name!r} has id {category_id}, but {id_of[name]} in another split. All "
                    "splits must agree: correct the categories, or convert the splits separately."
                )
    return dict(sorted(names.items()))


def _dataset_yaml(out: Path, roles: dict[str, str], categories: dict[int, str]) -> dict[str, Any]:
    return {
        "path": str(out),
        **{role: list_name(split) for role, split in roles.items()},
        "names": dict(enumerate(categories.values())),
        "category_ids": dict(enumerate(categories)),
        "annotations": {role: annotations_name(split) for role, split in roles.items()},
    }


def _summarise(data: Annotations, labels: SplitLabels) -> SplitSummary:
    return SplitSummary(
        annotations=data.total,
        images=len(labels.texts),
        backgrounds=sum(not text for text in labels.texts.values()),
        boxes=labels.boxes,
        crowds=labels.crowds,
        clipped=labels.clipped,
        empty=labels.empty,
        skipped_images=data.skipped_images,
        skipped_annotations=data.skipped_annotations,
    )


def _warnings(roles: dict[str, str]) -> tuple[str, ...]:
    if roles["train"] != roles["val"]:
        return ()
    return (
        f"there is only one split, {roles['train']!r}, so train and val both point to it: "
        "mAP will be measured on the training images and says nothing about others",
    )
