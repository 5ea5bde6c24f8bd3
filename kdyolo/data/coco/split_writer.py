"""Split writer: image links, label files, image list and annotations of one split, written to a new folder.

Processes that make entries of one folder wait for each other, so one process makes all the links.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kdyolo.data.yolo_labels import label_path
from kdyolo.utils.parallel import parallel_map
from kdyolo.utils.progress import Progress

Link = Literal["symlink", "hardlink", "copy"]
LINKS: tuple[str, ...] = get_args(Link)
_WORTH_A_PROCESS = 10_000  # files
_PART = 2000  # images
_KNOWS_DESCRIPTORS = {os.open, os.symlink} <= os.supports_dir_fd  # not Windows


@dataclass(frozen=True)
class SplitPlan:
    """Plan of what to write for one split.

    Attributes:
        split: Name of the split.
        annotations: Resolved path of the source JSON; or the content to write, where records of it were left out.
        images: Resolved path of the folder with the original images.
        names: File names of the images.
        labels: Function that gives the content of the label files of some consecutive images, by their places in
            ``names``.
    """

    split: str
    annotations: Path | bytes
    images: Path
    names: Sequence[str]
    labels: Callable[[range], Sequence[bytes]]


def list_name(split: str) -> str:
    """The list of a split's images, relative to OUT. Stock Ultralytics knows COCO by a list ``val2017.txt``."""
    return f"{split}.txt"


def annotations_name(split: str) -> str:
    """The JSON of a split, relative to OUT, where stock Ultralytics looks for COCO's ground truth."""
    return f"annotations/instances_{split}.json"


def cache_name(split: str) -> str:
    """The label cache of a split, relative to OUT, where Ultralytics writes and looks for it."""
    return f"labels/{split}.cache"


# --- Writing ----------------------------------------------------------------------------------------------------------


def write_split(plan: SplitPlan, new: Path, link: Link, progress: Progress) -> None:
    """Write links to all images, labels, list and annotations of a split.

    Args:
        plan: The split.
        new: Folder to write to; it exists.
        link: How images and annotations get there: links to the originals, or copies.
        progress: Counts one step for each label and each image.

    Raises:
        OSError: The system refused.
    """
    images = f"{new}/images/{plan.split}"
    names = plan.names
    nested = {name.rpartition("/")[0]: name for name in names}
    folders = {f"{images}/{folder}" for folder in nested} | {f"{new}/annotations"}
    folders |= {f"{new}/{label_path(plan.split, name)}".rpartition("/")[0] for name in nested.values()}
    for folder in sorted(folders):
        make_folder(Path(folder))

    def write_rest() -> None:
        if isinstance(plan.annotations, bytes):
            (new / annotations_name(plan.split)).write_bytes(plan.annotations)
        else:
            _place(str(plan.annotations), f"{new}/{annotations_name(plan.split)}", link)
        lines = [f"./images/{plan.split}/{name}\n" for name in sorted(names)]
        (new / list_name(plan.split)).write_bytes("".join(lines).encode())

    with _relative_to(new) as (start, descriptor):

        def write_labels(rows: range) -> None:
            for name, text in zip(names[rows.start : rows.stop], plan.labels(rows), strict=True):
                _write_new(start + label_path(plan.split, name), text, descriptor)

        def link_images(rows: range) -> None:
            originals, links = f"{plan.images}/", f"{start}images/{plan.split}/"
            for name in names[rows.start : rows.stop]:
                if link == "symlink":
                    os.symlink(originals + name, links + name, dir_fd=descriptor)
                else:
                    _place(originals + name, f"{images}/{name}", link)

        def write(jobs: Sequence[tuple[Callable[[range], None], range]]) -> None:
            for do, rows in jobs:
                for part in _parts(rows, _PART):
                    do(part)
                    progress.advance(len(part))

        # Processes that make entries of one folder wait for each other, above all those that make nothing but links:
        # one process makes all of these while the others begin with the labels.
        rows = range(len(names))
        jobs = [(link_images, part) for part in (_parts(rows, _PART) if link == "copy" else [rows])]
        jobs += [(write_labels, part) for part in _parts(rows, _PART)]
        parallel_map(write, jobs, at_least=-(-_WORTH_A_PROCESS // (2 * _PART)), progress=progress, meanwhile=write_rest)


def _parts(rows: range, size: int) -> list[range]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@contextmanager
def _relative_to(folder: Path) -> Iterator[tuple[str, int | None]]:
    """What to put before relative names, and the descriptor of the folder that they are then relative to.

    It saves the system the way from the root for each of so many files, an eighth of all its work here.
    """
    if not _KNOWS_DESCRIPTORS:
        yield f"{folder}/", None
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield "", descriptor
    finally:
        os.close(descriptor)


def _write_new(path: str, content: bytes, folder: int | None) -> None:
    """``open(path, "xb").write(content)`` with half of the system calls, as there are so many of these files."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
    try:
        while content:  # a disk that is nearly full takes a part
            content = content[os.write(descriptor, content) :]
    finally:
        os.close(descriptor)


def _place(source: str, target: str, link: Link) -> None:
    if link == "symlink":
        os.symlink(source, target)  # noqa: PTH211 - path objects would take longer than the link
    elif link == "hardlink":
        os.link(os.path.realpath(source), target)  # a hard link to a symbolic link would be one itself
    else:
        shutil.copyfile(source, target)


def make_folder(folder: Path) -> None:
    """Make a folder, unless it is there."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
