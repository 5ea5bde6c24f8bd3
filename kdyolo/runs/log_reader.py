"""Reading the log of a run: its end, and what is added to it while the run goes on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kdyolo.errors import RunError
from kdyolo.runs.files import LOG_NAME
from kdyolo.runs.pid_file import read_process
from kdyolo.utils.text import plain_line

POLL = 0.2  # seconds between two looks at a log that is followed
_BLOCK = 1 << 16  # bytes read at a time


def log_of(run: Path) -> Path:
    """The log in a run folder.

    Raises:
        RunError: The folder does not exist, or holds no log.
    """
    if not run.is_dir():
        raise RunError(f"{run}: no such run folder.")
    path = run / LOG_NAME
    if not path.is_file():
        raise RunError(f"{run}: there is no {LOG_NAME} in it. Only runs of kdyolo keep one.")
    return path


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file, read from its end."""
    with path.open("rb") as file:
        _seek_lines(file, count)
        return [plain_line(line) for line in file.read().decode("utf-8", "replace").rstrip("\n").split("\n")]


def follow(path: Path, count: int, going_on: Callable[[], bool]) -> Iterator[bytes]:
    """The last lines of a file and then what is added to it, until its writer has ended.

    Args:
        path: The file; it may be replaced by another of its name, or be emptied.
        count: Number of lines to begin with.
        going_on: A function that says whether the writer of the file still lives.

    Yields:
        The bytes of the file, as they come.
    """
    file = path.open("rb")
    try:
        _seek_lines(file, count)
        while True:
            last_look = not going_on()  # asked before reading: what it wrote before it ended is read as well
            while block := file.read(_BLOCK):
                yield block
            if last_look:
                return
            time.sleep(POLL)
            if _is_another(file, path):
                file.close()
                file = path.open("rb")
    finally:
        file.close()


def goes_on(run: Path) -> bool:
    """Whether the process of a run lives on this machine, or may live on another."""
    process = read_process(run)
    return process is not None and process.where != "gone"


def _seek_lines(file: BinaryIO, count: int) -> None:
    """Go to the beginning of the last lines."""
    position = file.seek(0, os.SEEK_END)
    tail = b""
    while position and tail.count(b"\n") <= count:  # one more than asked for, since the last line ends with one
        step = min(_BLOCK, position)
        position = file.seek(position - step)
        tail = file.read(step) + tail
        file.seek(position)
    lines = re.findall(rb"[^\n]*\n|[^\n]+", tail)
    file.seek(position + sum(map(len, lines[: max(len(lines) - count, 0)])))


def _is_another(file: BinaryIO, path: Path) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:  # between two files, or removed with its folder
        return False
    return not os.path.samestat(now, os.fstat(file.fileno())) or now.st_size < file.tell()
