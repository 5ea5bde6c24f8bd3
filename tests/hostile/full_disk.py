"""Disks that are full or read-only under every command that writes: old files stay, nothing is begun."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.builders.run_folders import write_run
from tests.hostile.commands import OWN_SETTINGS, Command, World, study_with

_CHANGES = ("os.mkdir", "os.rename", "os.symlink", "os.link", "os.truncate", "os.chmod")


@dataclass(frozen=True)
class Case:
    """A fault of the disk.

    Attributes:
        kind: Always ``"disk"``.
        name: What is wrong with it.
        fault: Called in the child, with the folder that it works in, before the command.
        commands: Names of :func:`commands`.
    """

    kind: str
    name: str
    fault: Callable[[Path], None]
    commands: Sequence[str]
    file: str = "none"
    harmless: bool = True

    def write(self, path: Path, marker: str) -> None:
        """Nothing: the fault is the disk's."""


def _refusing(code: int, events: Sequence[str]) -> Callable[[Path], None]:
    """A disk that refuses to open files for writing below the folder, and these changes too."""

    def fault(here: Path) -> None:
        inside = str(here.resolve()) + os.sep

        def refuse(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open":
                path, _, flags = arguments
                changes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else:
                path = arguments[1] if event in ("os.rename", "os.symlink", "os.link") else arguments and arguments[0]
                changes = event in events
            if changes and isinstance(path, (str, bytes, os.PathLike)):
                full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links are left alone
                if full.startswith(inside):
                    raise OSError(code, os.strerror(code), full)

        sys.addaudithook(refuse)

    return fault


def _no_larger_than(size: int) -> Callable[[Path], None]:
    """A disk on which no file grows beyond so many bytes; the system says so to whatever writes, also behind Python."""
    return lambda here: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


FAULTS = {
    "read-only": _refusing(errno.EROFS, _CHANGES),
    "no permission": _refusing(errno.EACCES, _CHANGES),
    "full at once": _refusing(errno.ENOSPC, ("os.mkdir", "os.symlink")),
    "full after 16 KB": _no_larger_than(16 << 10),
    "full after 256 KB": _no_larger_than(256 << 10),
    "full after 2 MB": _no_larger_than(2 << 20),
}


def cases() -> Iterator[Case]:
    """Every fault under every command."""
    for name, fault in FAULTS.items():
        yield Case("disk", name, fault, tuple(commands()))


def _old_files(world: World, file: Path, here: Path) -> None:
    """What the commands would replace, as an earlier call left it; and two finished runs."""
    for name in ("o.pt", "o.safetensors", "o.json", "f.png", "report/report.html", "run/model_card.md"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text("earlier\n")
    (here / "run/model_card.md").unlink()
    (here / "run").rmdir()
    for name in ("run", "other"):
        write_run(here / name, data=world.data, seed=len(name), settings=OWN_SETTINGS)
    (here / "run/model_card.md").write_text("earlier\n")
    shutil.copytree(world.data.parent, here / "old", symlinks=True, ignore=shutil.ignore_patterns("*.cache"))


def _interrupted(world: World, file: Path, here: Path) -> None:
    shutil.copytree(world.run, here / "resumed")


def _interrupted_distillation(world: World, file: Path, here: Path) -> None:
    shutil.copytree(world.distilled, here / "resumed")


_DISTILL = (
    "distill --images {train} --images {images} --teacher {backbone} --model yolov8n --imgsz 32 --batch 2 --held-out 2 "
    "--epochs 1 --taps p3:P3 --device cpu"
)
_TRAIN = (
    "train --data {data} --epochs 1 --imgsz 32 --batch 4 --device cpu --random-init plots=False workers=0 val=False"
)


def commands() -> dict[str, Command]:
    """Every command that writes, with the names of files that are there already."""
    sources = "--annotations {truth} --images {images} --split val"
    return {
        "convert": Command(f"convert {sources} --out new", _old_files, leaves=("new",)),
        "convert, copies": Command(f"convert {sources} --out new --link copy", _old_files, leaves=("new",)),
        "convert, again": Command(f"convert {sources} --out old --name coco", _old_files),
        "to-coco": Command("to-coco {data} --out o.json", _old_files),
        "export-stock": Command("export-stock {model} --out o.pt --exist-ok", _old_files),
        "extract": Command("extract {run} --out o.safetensors --exist-ok", _old_files),
        "inspect --image": Command("inspect {backbone} --image {image} --out f.png --imgsz 64", _old_files),
        "card": Command("card run", _old_files),
        "compare --out": Command("compare run other --baseline other --anyway --out report", _old_files),
        "compare --plots": Command("compare run other --baseline other --anyway --out report --plots png", _old_files),
        "train": Command(f"{_TRAIN} --work-dir trained", _old_files),
        "train --resume": Command("train --resume resumed", _interrupted),
        "distill": Command(f"{_DISTILL} --work-dir trained --cache cache", _old_files),
        "distill --resume": Command("distill --resume resumed", _interrupted_distillation),
        "val": Command(
            "val --model {model} --data {data} --imgsz 32 --batch 2 --device cpu workers=0 plots=False --errors",
            _old_files,
        ),
        "predict": Command("predict --model {model} --source {images} --imgsz 32 --device cpu", _old_files),
        "study": Command("study study.yaml", study_with(random_init=True, lr0=0.001), runs=2),
        "train --dry-run": Command(f"{_TRAIN} --work-dir trained --dry-run", _old_files, leaves=("trained",)),
    }
