"""Annotations of one COCO file as its readers give them, and what a person should know about how they were read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kdyolo.data.coco.reading.schema import AnnotationRecord, ImageRecord


@dataclass
class Annotations:
    """The valid records of one file, and what was left out of it.

    Attributes:
        path: The annotation file.
        images: Image id → record, in the order of the file; ``file_name`` is relative and has no ``.`` or ``..`` in it.
            Before ``check_images``, the records as they stand in the file.
        categories: Category id → name, in the order of the file; names may repeat where ``empty_rows`` has one of them.
        batches: Functions that each give some annotations, in the order of the file.
        checked: Whether it is known that every annotation belongs to one of ``images`` and to one of ``categories``,
            and that no two have one id. Otherwise the caller checks that while using them, and reads the file as a
            whole where it does not hold.
        empty_rows: Ids of categories without annotations that seem to be no classes: a supercategory's row, or a second
            row of one name.
        skipped_images: Reason → number of images left out; empty unless invalid records may be skipped.
        skipped_annotations: Reason → number of annotations left out; empty unless invalid records may be skipped.
        notes: Sentences on what was read otherwise than it is written.
        content: Function that gives the content of a regular annotation file with these records; None where the file
            itself is one.
        unchecked: The check that ``check_images`` makes, possibly while annotations are already in use.
    """

    path: Path
    images: dict[int, ImageRecord]
    categories: dict[int, str]
    batches: list[Callable[[], list[AnnotationRecord]]]
    checked: bool
    empty_rows: frozenset[int] = frozenset()
    skipped_images: dict[str, int] = field(default_factory=dict)
    skipped_annotations: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    content: Callable[[], bytes] | None = None
    unchecked: Callable[[], dict[int, ImageRecord]] | None = None

    def check_images(self) -> None:
        """Check the images, if that has not been done yet.

        Raises:
            FastPathUnavailable: The images are not all regular.
        """
        if self.unchecked:
            self.images, self.unchecked = self.unchecked(), None
