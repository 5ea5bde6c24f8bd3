"""Files of other people's read with bounds: regular ones only, of limited size, without waiting; bytes, or JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdyolo.errors import KDYOLOError, RunError
from kdyolo.utils.text import quoted

MOST_BYTES = 16 << 20  # of a file that is read whole; the largest of their kind have a hundredth of it
DEEPEST = 50  # lists and mappings within each other; what walks through them calls itself for each
_LARGE = 1 << 30  # bytes of a text from which on it may be more than fits into a machine's memory
_ABSENT = {errno.ENOENT, errno.ENOTDIR}


def is_file(path: Path) -> bool:
    """Whether a path leads to a regular file; unlike ``Path``'s, it minds neither the name nor who may look there."""
    return _has_kind(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Whether a path leads to a folder; see :func:`is_file`."""
    return _has_kind(path, stat.S_ISDIR)


def _has_kind(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(path.stat().st_mode)
    except (OSError, ValueError):  # too long, a loop of links, a NUL in the name, a place that others may not look into
        return False


def read_file(path: Path, *, most: int = MOST_BYTES, error: type[KDYOLOError] = RunError) -> bytes | None:
    """The content of a file; None if nothing of that name exists.

    A folder, pipe or device under the name is refused instead of waited for, and so is more than ``most`` bytes.

    Args:
        path: The file, or a link to it.
        most: Number of bytes that it may have.
        error: The kind of error to raise.

    Raises:
        KDYOLOError: Of the kind asked for: what has the name is no file, too large, or cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise error(f"{path}: expected a file, found {_kind(mode)}. Restore it, or leave it out.")
            content = file.read(most + 1)
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        if isinstance(e, OSError) and e.errno in _ABSENT:
            return None
        if is_folder(path):  # which cannot be opened as a file in the first place
            raise error(f"{path}: expected a file, found a folder. Restore it, or leave it out.") from e
        raise error(f"{path}: cannot be read ({getattr(e, 'strerror', None) or e}).") from e
    if len(content) > most:
        raise error(f"{path}: another file, or damaged. Expected at most {most / (1 << 20):g} MiB, found more.")
    return content


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"


def read_json(path: Path, *, advice: str = "Restore it.", error: type[KDYOLOError] = RunError) -> dict[str, Any] | None:
    """The content of a JSON file of names and values; None if there is no such file.

    Args:
        path: The file.
        advice: What to do about a damaged one, for the message.
        error: The kind of error to raise.

    Raises:
        KDYOLOError: Of the kind asked for: the file is no JSON, no object, or nested deeper than :data:`DEEPEST`.
    """
    data = read_file(path, error=error)
    if data is None:
        return None
    try:
        content = json.loads(data.decode("utf-8"))
        if b"\\ud" in data or b"\\uD" in data:  # perhaps half a character, which cannot be written anywhere
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as e:  # of ValueError: JSON, UTF-8, and numbers of thousands of digits
        raise error(f"{path}: damaged ({quoted(e)}). Expected a JSON object. {advice}") from e
    if not isinstance(content, dict):
        raise error(f"{path}: damaged. Expected a JSON object, found {quoted(content)}. {advice}")
    if is_deeper(content, DEEPEST):
        raise error(f"{path}: damaged. Expected at most {DEEPEST} objects within each other, found more. {advice}")
    return content


def refuse_endless(path: Path, *, error: type[KDYOLOError]) -> None:
    """Refuse what never ends, begins with zeros or fits into no memory, before it is read as a whole.

    What is missing, or a folder, is left to whoever opens it.

    Args:
        path: The file, or a link to it.
        error: The kind of error to raise.

    Raises:
        KDYOLOError: Of the kind asked for: a pipe, a device or a socket, a file whose first byte is zero, or one larger
            than half of this machine's memory.
    """
    with contextlib.suppress(OSError, ValueError):
        found = path.stat()
        mode = found.st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise error(f"{path}: cannot be read: expected a file, found {_kind(mode)}.")
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                if file.read(1) == b"\0":
                    raise error(f"{path}: expected a text, found zeros. Copy or download it again.")
            if found.st_size > _LARGE and found.st_size > (most := _memory() // 2):
                raise error(
                    f"{path}: expected a text of at most {most / 1e9:,.0f} GB, half of this machine's memory, found "
                    f"{found.st_size / 1e9:,.0f} GB. Copy it again, or use a machine with more memory."
                )


def _memory() -> int:
    """Bytes of memory that this machine has."""
    import psutil  # only here: its import takes longer than that of the rest

    return int(psutil.virtual_memory().total)


def is_deeper(content: Any, deepest: int) -> bool:
    """Whether lists and mappings of plain data stand in each other more than ``deepest`` times."""
    level = [content]
    for _ in range(deepest):
        level = [
            item
            for value in level
            if isinstance(value, (list, dict))
            for item in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return any(isinstance(value, (list, dict)) for value in level)
