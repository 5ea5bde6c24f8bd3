"""Write a planned dataset so that OUT has all of it or is as it was before.

Everything is written to a staging folder inside OUT, under a lock, and then moved into place. What is moved stands in a
journal first, so that a move that fails, or dies with its process, is undone: at once, or by the next conversion.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock, Timeout

from kdyolo.data.coco.splits import LOCK, STAGING
from kdyolo.data.yolo_labels import label_path
from kdyolo.errors import DatasetError
from kdyolo.utils.parallel import share
from kdyolo.utils.progress import Progress, notice

Link = Literal["symlink", "hardlink", "copy"]
LINKS: tuple[str, ...] = get_args(Link)
_WORTH_A_PROCESS = 10_000  # files
_PART = 2000  # images
_JOURNAL = "journal.json"
_KNOWS_DESCRIPTORS = {os.open, os.symlink} <= os.supports_dir_fd  # not Windows


@dataclass(frozen=True)
class SplitPlan:
    """What to write for one split.

    Attributes:
        split: its name.
        annotations: the source JSON, resolved; or the content to write, where records of it were left out.
        images: the source folder, resolved.
        names: file names of the images.
        labels: gives the content of the label files of some consecutive images, by their places in ``names``.
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


def publish(
    plans: Sequence[SplitPlan], yaml_name: str, yaml_text: str, out: Path, link: Link, check: Callable[[], None]
) -> None:
    """Write everything to a staging folder, then move it into place.

    Args:
        plans: one for each split.
        yaml_name: file name of the dataset YAML.
        yaml_text: its content.
        out: resolved path of a folder that is missing, empty or an earlier conversion. There, the entries of these
            splits are replaced and others left alone.
        link: how images and annotations get there.
        check: called once nobody else writes to OUT; raises if OUT is not for us.

    Raises:
        DatasetError: the system refused to write. OUT is as it was, then and after an interruption.
    """
    try:
        with _locked(out):
            staging = out / STAGING
            clear_staging(out)
            check()
            try:
                new = staging / "new"
                new.mkdir(parents=True)
                with Progress("writing", sum(2 * len(plan.names) for plan in plans), "files") as progress:
                    for plan in plans:
                        _write_split(plan, new, link, progress)
                (new / yaml_name).write_bytes(yaml_text.encode())
                _swap(_entries(plans, yaml_name), staging, out)
            finally:
                clear_staging(out)
    except OSError as error:
        advice = "Use link 'symlink' or 'copy' across disks, or check" if link == "hardlink" else "Check"
        raise DatasetError(f"{out}: cannot be written: {error}. {advice} free space and permissions.") from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """OUT exists and nobody else writes to it; afterwards it is gone if nothing came to lie in it."""
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        lock = _acquire(out)
        try:
            yield
        finally:
            # Removed while it is held: whoever waits for it finds that out and makes a new one.
            with suppress(OSError):
                (out / LOCK).unlink()
            lock.release()
    finally:
        for folder in created:
            with suppress(OSError):  # not empty, or gone
                folder.rmdir()


def _acquire(out: Path) -> FileLock:
    lock = FileLock(out / LOCK)
    while True:
        _make(out)
        try:
            lock.acquire(timeout=1)
            return lock
        except Timeout:
            notice(f"waiting for another conversion that writes to {out}")
        except FileNotFoundError:  # the other one failed and took its new folder away
            continue


# --- Writing ----------------------------------------------------------------------------------------------------------


def _write_split(plan: SplitPlan, new: Path, link: Link, progress: Progress) -> None:
    """Links to all images, labels, list and annotations of a split, under the folder ``new``."""
    images = f"{new}/images/{plan.split}"
    names = plan.names
    nested = {name.rpartition("/")[0]: name for name in names}
    folders = {f"{images}/{folder}" for folder in nested} | {f"{new}/annotations"}
    folders |= {f"{new}/{label_path(plan.split, name)}".rpartition("/")[0] for name in nested.values()}
    for folder in sorted(folders):
        _make(Path(folder))

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
        share(write, jobs, at_least=-(-_WORTH_A_PROCESS // (2 * _PART)), progress=progress, meanwhile=write_rest)


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


# --- Moving into place ------------------------------------------------------------------------------------------------


def _entries(plans: Sequence[SplitPlan], yaml_name: str) -> list[str]:
    """What belongs to these splits in OUT, including the label cache; the YAML last, as it says that all is there."""
    entries = []
    for plan in plans:
        entries += [f"images/{plan.split}", f"labels/{plan.split}", cache_name(plan.split)]
        entries += [list_name(plan.split), annotations_name(plan.split)]
    return [*entries, yaml_name]


def _swap(entries: Sequence[str], staging: Path, out: Path) -> None:
    """Move earlier entries of ``out`` away and the new ones to their places."""
    new, old = staging / "new", staging / "old"
    incoming = [entry for entry in entries if os.path.lexists(new / entry)]
    parents = sorted({parent for entry in incoming for parent in _parents(entry) if not (out / parent).exists()})
    outgoing = [entry for entry in entries if os.path.lexists(out / entry)]
    for entry in outgoing:
        _make((old / entry).parent)
    journal = {"incoming": incoming, "outgoing": outgoing, "parents": parents}
    written = staging / f"{_JOURNAL}.part"
    written.write_text(json.dumps(journal), encoding="utf-8")
    written.rename(staging / _JOURNAL)
    for entry in reversed(outgoing):
        (out / entry).rename(old / entry)
    for parent in parents:
        (out / parent).mkdir()
    for entry in incoming:
        (new / entry).rename(out / entry)
    (staging / _JOURNAL).unlink()  # from here on it is done


def _make(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)


def _parents(entry: str) -> Iterable[str]:
    return [str(parent) for parent in Path(entry).parents if parent != Path()]


def clear_staging(out: Path) -> None:
    """Undo a move that did not come to its end, and remove the staging folder. Can be interrupted and done again."""
    staging = out / STAGING
    journal = staging / _JOURNAL
    if journal.is_file():
        moves = json.loads(journal.read_text(encoding="utf-8"))
        for entry in reversed(moves["incoming"]):
            if not os.path.lexists(staging / "new" / entry) and os.path.lexists(out / entry):
                (out / entry).rename(staging / "new" / entry)
        for parent in reversed(moves["parents"]):
            with suppress(OSError):  # not made yet, or somebody put something there
                (out / parent).rmdir()
        for entry in moves["outgoing"]:
            if os.path.lexists(staging / "old" / entry):
                (staging / "old" / entry).rename(out / entry)
        journal.unlink()
    if staging.exists():
        _remove(staging)


def _remove(folder: Path, attempts: int = 50) -> None:
    """Remove a folder, waiting for the helpers of a conversion that was killed just now: they may still write to it."""
    for left in range(attempts - 1, -1, -1):
        try:
            shutil.rmtree(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT) or not left:
                raise
            time.sleep(0.1)
            if not folder.exists():
                return
