"""Summary of a conversion: counts for each split, a table for people, and what they should be warned of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdyolo.errors import DatasetError
from kdyolo.utils.tables import ShownAsTable, aligned
from kdyolo.utils.text import number_and_noun, plural, printable

MOST_CROWDS = 0.1  # of a split's objects; COCO's own have 1.2 %

# Images, and images without any object, of the official files; from Ultralytics' and COCO's own label archives.
OFFICIAL = {"train2017": (118_287, 1_021), "val2017": (5_000, 48)}


@dataclass(frozen=True)
class SplitSummary:
    """Counts of one converted split.

    ``boxes + crowds + empty + unselected + small + sum(skipped_annotations.values()) == annotations``.

    Attributes:
        annotations: Number of entries under ``annotations`` in the file.
        images: Number of images written.
        backgrounds: Number of written images that have an empty label file.
        boxes: Number of lines written to label files.
        crowds: Number of crowd regions (``iscrowd`` 1) left out of the labels.
        clipped: Number of written boxes that reached beyond their image.
        empty: Number of boxes dropped because they have no area inside their image.
        skipped_images: Reason → number of invalid image records left out.
        skipped_annotations: Reason → number of invalid annotation records left out.
        unselected: Number of annotations of classes that were not asked for.
        small: Number of annotations below the smallest area asked for.
        box_fallback: Number of written polygons that are the corners of the box, as the annotation has no usable one.
        notes: Sentences on what was read otherwise than it is written.
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
    unselected: int = 0
    small: int = 0
    box_fallback: int = 0
    notes: tuple[str, ...] = ()

    @property
    def many_crowds(self) -> str:
        """How many of the objects are crowd regions left out, in words, where it is more than a few; else nothing."""
        objects = self.boxes + self.crowds
        return f"{self.crowds:,} of {plural(objects, 'object')}" if self.crowds > MOST_CROWDS * objects else ""


@dataclass(frozen=True, repr=False)
class ConversionSummary(ShownAsTable):
    """Result of ``convert_coco``.

    Attributes:
        yaml: Path of the dataset YAML, for ``--data``.
        names: Class index 0…nc−1 → name.
        category_ids: Class index 0…nc−1 → category id in the annotations.
        roles: Role (train, val and perhaps test) → split.
        splits: Split → its counts.
        warnings: Sentences that a person should read.
        notes: Sentences on decisions about the data set as a whole.
    """

    yaml: Path
    names: dict[int, str]
    category_ids: dict[int, int]
    roles: dict[str, str]
    splits: dict[str, SplitSummary]
    warnings: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def headline(self) -> str:
        """The dataset YAML, its classes, and how much is in each split."""
        counts = [f"{name} {plural(s.images, 'image')}, {plural(s.boxes, 'object')}" for name, s in self.splits.items()]
        return "; ".join([f"{self.yaml}, {len(self.names)} {'class' if len(self.names) == 1 else 'classes'}", *counts])

    def table(self) -> str:
        """A few lines for people: counts for each split, number of classes, what was skipped and why, warnings."""
        head = ("split", "role", "images", "background", "boxes", "crowds left out", "clipped", "empty dropped")
        rows = [head, *(self._row(split) for split in self.splits)]
        lines = aligned(rows, "<<>")
        lines.append(f"{len(self.names)} class{'es'[: 2 * (len(self.names) != 1)]}")
        for split, counts in self.splits.items():
            lines += _skip_lines(split, "image", counts.skipped_images)
            lines += _skip_lines(split, "annotation", counts.skipped_annotations)
            lines += _selection_lines(split, counts)
            lines += [f"note: {split}: {note}" for note in counts.notes]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(map(printable, [*lines, *(f"warning: {warning}" for warning in self.warnings)]))

    def _row(self, split: str) -> tuple[str, ...]:
        s = self.splits[split]
        role = ", ".join(role for role, of_split in self.roles.items() if of_split == split) or "-"
        counts = (s.images, s.backgrounds, s.boxes, s.crowds, s.clipped, s.empty)
        return (split, role, *map(str, counts))

    def __str__(self) -> str:
        return self.table()


def _skip_lines(split: str, kind: str, reasons: dict[str, int]) -> list[str]:
    return [
        f"{split}: skipped {count} {kind}{'s'[: count != 1]}: {reason}" for reason, count in sorted(reasons.items())
    ]


def _selection_lines(split: str, counts: SplitSummary) -> list[str]:
    texts = {
        "annotations of other classes left out": counts.unselected,
        "annotations left out for their small area": counts.small,
        "outlines are those of the box, for want of a polygon": counts.box_fallback,
    }
    return [f"{split}: {count} {text}" for text, count in texts.items() if count]


# --- What a person should know, or what must not be -------------------------------------------------------------------


def refuse_empty_split(path: Path, split: str, counts: SplitSummary) -> None:
    """Check that a split has an object to learn from or to be measured on.

    Raises:
        DatasetError: It has none; the message says why, and what to do.
    """
    if counts.boxes:
        return
    reasons = {
        "are crowd regions (iscrowd 1), which --include-crowd writes as objects": counts.crowds,
        "were left out as invalid": sum(counts.skipped_annotations.values()),
        "have no area inside their image": counts.empty,
        "are of other classes than --classes names": counts.unselected,
        "are smaller than --min-area": counts.small,
    }
    found = "; ".join(f"{count:,} of {counts.annotations:,} {what}" for what, count in reasons.items() if count)
    raise DatasetError(
        f"{path}: expected an object in the split {split!r}, found none: {found or 'the file has no annotations'}. "
        f"{'Correct that' if found else 'Give the file with the labels of this split'}, or leave the split out."
    )


def split_warnings(roles: Mapping[str, str], splits: Mapping[str, SplitSummary], everything: bool) -> Iterator[str]:
    """What is odd about the splits.

    Args:
        roles: Role (train, val, test) → split.
        splits: Split → its counts.
        everything: Whether all classes and sizes were converted, so that images without labels can be compared.
    """
    if roles["train"] == roles["val"]:
        yield (
            f"there is only one split, {roles['train']!r}, so train and val both point to it: "
            "mAP will be measured on the training images and says nothing about others"
        )
    for split, counts in splits.items():
        if counts.many_crowds:
            yield (
                f"{split}: {counts.many_crowds} are crowd regions (iscrowd 1) and become "
                "background; CVAT and SAM mark every mask so. If they are objects, convert with --include-crowd"
            )
        if warning := official_warning(split, counts, everything):
            yield warning


def official_warning(split: str, counts: SplitSummary, everything: bool) -> str | None:
    """Compare a file with the name of an official one to what is known of that.

    Args:
        split: Name of the split, such as ``val2017``.
        counts: Counts of its conversion.
        everything: Whether all classes and sizes were converted, so that images without labels can be compared.
    """
    if split not in OFFICIAL:
        return None
    images, backgrounds = OFFICIAL[split]
    if counts.images != images:
        found, expected = plural(counts.images, "image"), f"{images:,}"
    elif everything and counts.backgrounds != backgrounds:
        found, expected = number_and_noun(counts.backgrounds, "image{|s} without labels"), f"{backgrounds:,}"
    else:
        return None
    return f"{split} has {found}, COCO's own has {expected}: results on it do not compare with published ones"
