"""Write a planned dataset so that OUT has all of it or is as it was before."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kdyolo.coco.labels import label_path
from kdyolo.coco.layout import STAGING_PREFIX
from kdyolo.errors import DatasetError

Link = Literal["symlink", "hardlink", "copy"]
LINKS: tuple[str, ...] = get_args(Link)


@dataclass(frozen=True)
class SplitPlan:
    """What to write for one split.

    Attributes:
        split: its name.
        annotations: the source JSON, resolved.
        images: the source folder, resolved.
        labels: file name of the image → content of its label file, in the order of the list file.
    """

    split: str
    annotations: Path
    images: Path
    labels: Mapping[str, str]


def list_name(split: str) -> str:
    """The list of a split's images, relative to OUT. Stock Ultralytics knows COCO by a list ``val2017.txt``."""
    return f"{split}.txt"


def annotations_name(split: str) -> str:
    """The JSON of a split, relative to OUT, where stock Ultralytics looks for COCO's ground truth."""
    return f"annotations/instances_{split}.json"


def publish(plans: Sequence[SplitPlan], yaml_name: str, yaml_text: str, out: Path, link: Link) -> None:
    """Write everything to a staging folder, then move it into place.

    Args:
        plans: one for each split.
        yaml_name: file name of the dataset YAML.
        yaml_text: its content.
        out: resolved path of a folder that is missing, empty or an earlier conversion. There, the entries of these
            splits are replaced and others left alone.
        link: how images and annotations get there.

    Raises:
        DatasetError: the system refused to write. OUT is as it was, then and after an interruption.
    """
    try:
        with _staging(out) as staging:
            new, old = staging / "new", staging / "old"
            new.mkdir()
            for plan in plans:
                _write_split(plan, new, link)
            (new / yaml_name).write_bytes(yaml_text.encode())
            if out.exists():
                _replace(_entries(plans, yaml_name), new, out, old)
            else:
                new.rename(out)
    except OSError as error:
        advice = "Use link 'symlink' or 'copy' across disks, or check" if link == "hardlink" else "Check"
        raise DatasetError(f"{out}: cannot be written: {error}. {advice} free space and permissions.") from error


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, with the parents it needed if nothing else came to lie in them.

    It lies beside a new OUT and inside an existing one, which may be a mount point: renaming works within a disk only.
    """
    home = out if out.is_dir() else out.parent
    created = [folder for folder in (home, *home.parents) if not folder.exists()]
    staging = home / f"{STAGING_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        staging.mkdir(parents=True)
        yield staging
    finally:
        if staging.exists():
            shutil.rmtree(staging)
        for folder in created:
            _remove_empty(folder)


def _write_split(plan: SplitPlan, new: Path, link: Link) -> None:
    """Links to all images, labels, list and annotations of a split, under the folder ``new``."""
    images = {name: new / "images" / plan.split / name for name in plan.labels}
    labels = {name: new / label_path(plan.split, name) for name in plan.labels}
    annotations = new / annotations_name(plan.split)
    for folder in sorted({path.parent for path in (*images.values(), *labels.values(), annotations)}):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in plan.labels.items():
        _place(plan.images / name, images[name], link)
        labels[name].write_bytes(text.encode())
    _place(plan.annotations, annotations, link)
    lines = [f"./images/{plan.split}/{name}\n" for name in plan.labels]
    (new / list_name(plan.split)).write_bytes("".join(lines).encode())


def _place(source: Path, target: Path, link: Link) -> None:
    if link == "symlink":
        target.symlink_to(source)
    elif link == "hardlink":
        target.hardlink_to(source.resolve())  # a hard link to a symbolic link would be one itself
    else:
        shutil.copyfile(source, target)


def _entries(plans: Sequence[SplitPlan], yaml_name: str) -> list[str]:
    """What belongs to these splits in an existing OUT, including the label cache that Ultralytics writes."""
    entries = [yaml_name]
    for plan in plans:
        labels = Path("labels", plan.split)
        entries += [f"images/{plan.split}", str(labels), str(labels.with_suffix(".cache"))]
        entries += [list_name(plan.split), annotations_name(plan.split)]
    return entries


def _replace(entries: Sequence[str], new: Path, out: Path, old: Path) -> None:
    """Move each entry of ``out`` to ``old`` and that of ``new`` to ``out``; on any failure, everything goes back."""
    with ExitStack() as undo:
        for entry in entries:
            _move(out / entry, old / entry, undo)
            _move(new / entry, out / entry, undo)
        undo.pop_all()


def _move(source: Path, target: Path, undo: ExitStack) -> None:
    """Rename, if there is a source. What undoes a step is noted before it, as an interruption can come between."""
    if not os.path.lexists(source):
        return
    for folder in reversed([folder for folder in target.parents if not folder.exists()]):
        undo.callback(_remove_empty, folder)
        folder.mkdir()
    undo.callback(_move_back, target, source)
    source.rename(target)


def _move_back(target: Path, source: Path) -> None:
    if os.path.lexists(target) and not os.path.lexists(source):
        target.rename(source)


def _remove_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
