"""Transaction of a conversion: OUT gets all of the planned data set, or is as it was before.

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
from pathlib import Path

from filelock import FileLock, Timeout

from kdyolo.data.coco.output_dir import LOCK, STAGING
from kdyolo.data.coco.split_writer import (
    Link,
    SplitPlan,
    annotations_name,
    cache_name,
    list_name,
    make_folder,
    write_split,
)
from kdyolo.errors import DatasetError
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.progress import Progress, notice

_JOURNAL = "journal.json"


def commit(
    plans: Sequence[SplitPlan], yaml_name: str, yaml_text: str, out: Path, link: Link, check: Callable[[], None]
) -> None:
    """Write everything to a staging folder, then move it into place.

    Args:
        plans: Plan of each split.
        yaml_name: File name of the dataset YAML.
        yaml_text: Content of the dataset YAML.
        out: Resolved path of a folder that is missing, empty or an earlier conversion. There, the entries of these
            splits are replaced and others left alone.
        link: How images and annotations get there.
        check: Called when no other conversion writes to OUT; raises if OUT must not be written.

    Raises:
        DatasetError: The system refused to write. OUT is as it was, then and after an interruption.
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
                        write_split(plan, new, link, progress)
                (new / yaml_name).write_bytes(yaml_text.encode())
                _swap(_entries(plans, yaml_name), staging, out)
            finally:
                clear_staging(out)
    except OSError as error:
        advice = "Use link 'symlink' or 'copy' across disks, or check" if link == "hardlink" else "Check"
        raise DatasetError(f"{out}: cannot be written: {error}. {advice} free space and permissions.") from error


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of OUT, which exists meanwhile; afterwards it is gone if nothing came to lie in it."""
    created = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        lock = _acquire(out)
        try:
            yield
        finally:
            # Removed while it is held: a process that waits for it finds that out and makes a new one.
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
        make_folder(out)
        try:
            lock.acquire(timeout=1)
            return lock
        except Timeout:
            notice(f"waiting for another conversion that writes to {out}")
        except FileNotFoundError:  # the other one failed and took its new folder away
            continue


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
        make_folder((old / entry).parent)
    journal = {"incoming": incoming, "outgoing": outgoing, "parents": parents}
    write_atomic(staging / _JOURNAL, json.dumps(journal))
    for entry in reversed(outgoing):
        (out / entry).rename(old / entry)
    for parent in parents:
        (out / parent).mkdir()
    for entry in incoming:
        (new / entry).rename(out / entry)
    (staging / _JOURNAL).unlink()  # from here on it is done


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
