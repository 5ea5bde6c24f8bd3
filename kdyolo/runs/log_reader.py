"""Reading the log of a run: its end, and what is added to it while the run goes on."""

from __future__ import annotations

import codecs
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from kdyolo.errors import RunError
from kdyolo.runs.files import LOG_NAME
from kdyolo.runs.pid_file import read_process
from kdyolo.utils.plain_files import is_file, is_folder
from kdyolo.utils.text import plain_line, printable_lines

POLL = 0.2  # seconds between two looks at a log that is followed
_BLOCK = 1 << 16  # bytes read at a time
_LAST = 1 << 20  # bytes from the end of a file in which its last lines are looked for, where they are kept in memory
# The end of a block that belongs to what follows: a return before a line's end, or a code for a colour.
_UNFINISHED = re.compile(r"(\r|\x1b(\[[0-9;]{0,40})?)\Z")
_NO_COLOUR = "\x1b[0m"


def log_of(run: Path) -> Path:
    """The log in a run folder.

    Raises:
        RunError: The folder does not exist, or holds no log.
    """
    if not is_folder(run):
        raise RunError(f"{run}: no such run folder.")
    path = run / LOG_NAME
    if not is_file(path):
        raise RunError(f"{run}: there is no {LOG_NAME} in it. Only runs of kdyolo keep one.")
    return path


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a file, read from its end; of very long ones only what is near it."""
    with path.open("rb") as file:
        _seek_lines(file, count)
        file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - _LAST))
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


def readable(blocks: Iterable[bytes]) -> Iterator[str]:
    """A log as a terminal shows it unchanged but for its colours; other people's programs and names wrote it, too.

    Args:
        blocks: The bytes of the log, cut anywhere.

    Yields:
        The text, as far as each block completes it, what a terminal would obey as escapes; see
        :func:`~kdyolo.utils.text.printable_lines`.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    waiting, coloured = "", False
    for block in blocks:
        text = waiting + decoder.decode(block)
        unfinished = _UNFINISHED.search(text)
        waiting = unfinished[0] if unfinished else ""
        shown = _shown(text.removesuffix(waiting))
        coloured = coloured or "\x1b" in shown
        yield shown
    yield _shown(waiting + decoder.decode(b"", final=True)) + (_NO_COLOUR if coloured else "")


def _shown(text: str) -> str:
    return printable_lines(text.replace("\r\n", "\n"), colours=True)


def goes_on(run: Path) -> bool:
    """Whether the process of a run lives on this machine, or may live on another."""
    process = read_process(run)
    return process is not None and process.where != "gone"


def _seek_lines(file: BinaryIO, count: int) -> None:
    """Go to the beginning of the last lines, however long they are."""
    position = file.seek(0, os.SEEK_END)
    if not position or not count:
        return
    file.seek(position - 1)
    missing = count + (file.read(1) == b"\n")  # ends of lines from the end of the file to the one before these lines
    while position:
        step = min(_BLOCK, position)
        position = file.seek(position - step)
        block = file.read(step)
        ends = [found.start() for found in re.finditer(rb"\n", block)]
        if len(ends) >= missing:
            file.seek(position + ends[-missing] + 1)
            return
        missing -= len(ends)
    file.seek(0)


def _is_another(file: BinaryIO, path: Path) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:  # between two files, or removed with its folder
        return False
    return not os.path.samestat(now, os.fstat(file.fileno())) or now.st_size < file.tell()
