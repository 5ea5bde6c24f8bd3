"""Cut a large COCO file into slices of annotations that decode on their own, so that memory stays small.

Where to cut is guessed, and a guess is never trusted: if ``[A]`` and ``[B]`` are both JSON arrays then ``[A,B]`` is one
too, with the elements of both, and if the file with ``0`` in place of a list is a JSON object then that list is the
value of that key. So whatever decodes in slices would decode to the same as a whole. A wrong cut makes a slice that
does not decode, and the file is then read as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from kdyolo.errors import DatasetError

SLICE = 2 << 20  # bytes: large against a record, small against a processor's cache
_BLOCK = 1 << 20
_RECORD = 1 << 16  # bytes in which the end of a record is looked for
_LONGEST_HEAD = 256 << 20  # bytes before the annotations; images of train2017 take 30 MB
_TAILS = (1 << 20, 128 << 20)  # bytes in which the end of the annotations is looked for
_MOST_GUESSES = 16

_LIST_STARTS = re.compile(rb'"annotations"\s*:\s*\[')
_LIST_ENDS = re.compile(rb"\}\s*\](?=\s*[,}])")
_NEXT_RECORD = re.compile(rb"\}\s*(,)\s*\{")

Head = TypeVar("Head")


class NeedsWholeFile(Exception):
    """The file has to be read as a whole, because it is invalid or only laid out in an unusual way."""


class _AnyObject(msgspec.Struct):
    """Decodes from every JSON object."""


@dataclass(frozen=True)
class Slice:
    """Consecutive elements of the list ``annotations``: bytes ``start`` to ``end`` of a file."""

    path: Path
    start: int
    end: int

    def read(self) -> bytes:
        """The elements as a JSON array.

        Raises:
            DatasetError: the file cannot be read any more.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                return b"[%b]" % file.read(self.end - self.start)
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be read: {error.strerror or error}.") from error


def cut(path: Path, decode_head: Callable[[bytes], Head]) -> tuple[Head, list[Slice]]:
    """Find the list of annotations and cut it.

    Args:
        path: a COCO file.
        decode_head: decodes the file with ``0`` in place of the annotations, or raises what msgspec raises.

    Returns:
        What ``decode_head`` made of the rest of the file, and the slices in the order of the file.

    Raises:
        NeedsWholeFile: no such list was found.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        before, start = _read_before(file)
        size = file.seek(0, 2)
        for length in _TAILS:
            offset = file.seek(max(start, size - length))
            tail = file.read()
            for guess in reversed(list(_LIST_ENDS.finditer(tail))[-_MOST_GUESSES:]):
                head = _try_end(before, tail[guess.end() :], decode_head)
                if head is not None:
                    return head, _cut_list(path, file, start, offset + guess.end() - 1)
    raise NeedsWholeFile


def _read_before(file: BinaryIO) -> tuple[bytes, int]:
    """The bytes up to the annotations' bracket, and the position after it."""
    position, seam = 0, b""  # the key may lie across two blocks
    while position < _LONGEST_HEAD and (block := file.read(_BLOCK)):
        if found := _LIST_STARTS.search(seam + block):
            end = position - len(seam) + found.end()
            file.seek(0)
            return file.read(end - 1), end
        position, seam = position + len(block), block[-100:]
    raise NeedsWholeFile


def _try_end(before: bytes, after: bytes, decode_head: Callable[[bytes], Head]) -> Head | None:
    if not all(key in after or key in before for key in (b'"images"', b'"categories"')):
        return None
    try:
        msgspec.json.decode(b'{"annotations":0' + after, type=_AnyObject)  # cheap, and settles most wrong guesses
        return decode_head(before + b"0" + after)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _cut_list(path: Path, file: BinaryIO, start: int, end: int) -> list[Slice]:
    cuts = [start]
    target = start + SLICE
    while target < end - SLICE // 2:
        file.seek(target)
        if found := _NEXT_RECORD.search(file.read(min(_RECORD, end - target))):
            target += found.start(1)
            cuts += [target, target + 1]
            target += SLICE
        else:  # a longer record
            target += _RECORD
    cuts.append(end)
    return [Slice(path, left, right) for left, right in zip(cuts[::2], cuts[1::2], strict=True)]
