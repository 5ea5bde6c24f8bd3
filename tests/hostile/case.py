"""Cases of the corpus: a file made to hurt, and how it is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Write = Callable[[Path, str], object]


@dataclass(frozen=True)
class Case:
    """A file made to hurt.

    Attributes:
        kind: Group of the corpus.
        name: Its name in the group.
        write: Writes it at a path; the second argument is the marker that its code would make.
        file: File name.
    """

    kind: str
    name: str
    write: Write
    file: str = "bad.pt"


@dataclass(frozen=True)
class CheckpointCase(Case):
    """A checkpoint made to hurt, for every command that opens one.

    Attributes:
        harmless: Whether nothing in it calls, costs or is wrong: a command that uses it is right, one that refuses too.
        rotates: Whether, of the expensive commands, only some see it: the others see files like it.
    """

    harmless: bool = False
    rotates: bool = False


@dataclass(frozen=True)
class DataCase(Case):
    """A file made to hurt, and the commands that are to read it.

    Attributes:
        commands: Names of :func:`tests.hostile.data_commands.commands`.
        harmless: Whether a command may also succeed.
    """

    commands: Sequence[str] = ()
    harmless: bool = True


def text_file(given: str | bytes | Callable[[], str | bytes]) -> Write:
    def write(path: Path, marker: str) -> None:
        content = given() if callable(given) else given
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        path.write_bytes(raw.replace(b"MARKER", os.fsencode(marker)))

    return write


def _loop(path: Path, marker: str) -> None:
    path.symlink_to(path)


NO_FILES: dict[str, Write] = {
    "missing": lambda path, marker: None,
    "folder": lambda path, marker: path.mkdir(),
    "FIFO": lambda path, marker: os.mkfifo(path),
    "link to itself": _loop,
    "dangling link": lambda path, marker: path.symlink_to("nowhere"),
    "/dev/zero": lambda path, marker: path.symlink_to("/dev/zero"),
    "empty": text_file(b""),
    "zeros": text_file(bytes(100_000)),
    "UTF-16": text_file("a: 1\n".encode("utf-16")),
    "not UTF-8": text_file(b"\xff\xfe\xfd" * 99),
    "escapes": text_file("\x1b]52;c;ZXZpbA==\x07\x9b2J\u202e\n" * 99),
    "8 GB of nothing": lambda path, marker: (path.touch(), os.truncate(path, 8 << 30)),
}


def no_files(
    kind: str, file: str, commands: Sequence[str], prefix: str = "", harmless: bool = True
) -> Iterator[DataCase]:
    """Everything of :data:`NO_FILES` in the place of a file."""
    for name, write in NO_FILES.items():
        yield DataCase(kind, f"{prefix}{name}", write, file, commands, harmless=harmless)
