"""Chunks of a large COCO file: runs of annotations that decode on their own, so that memory stays small.

Where to cut is guessed, and a guess is never trusted: if ``[A]`` and ``[B]`` are both JSON arrays then ``[A,B]`` is one
too, with the elements of both, and if the file with ``0`` in place of a list is a JSON object then that list is the
value of that key. So whatever decodes in chunks would decode to the same as a whole. A wrong cut makes a chunk that
does not decode, and the file is then read as a whole.

A chunk is as large as what stays in a core's own cache while its objects become numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from kdyolo.errors import DatasetError

CHUNK_SIZE = 5 << 17  # bytes: large against a record; its records as objects fit into a core's own cache
_BLOCK = 1 << 20
_RECORD = 1 << 16  # bytes in which the end of a record is looked for
_LONGEST_HEAD = 256 << 20  # bytes before the annotations; images of train2017 take 30 MB
_TAILS = (1 << 20, 128 << 20)  # bytes in which the end of the annotations is looked for
_MOST_GUESSES = 16

_KEY = b'"annotations"'
_LIST_STARTS = re.compile(rb'"annotations"\s*:\s*\[')
_LIST_ENDS = re.compile(rb"\}\s*\](?=\s*[,}])")
_NEXT_RECORD = re.compile(rb"\}\s*(,)\s*\{")

Head = TypeVar("Head")


class FastPathUnavailable(Exception):
    """The file has to be read as a whole, because it is invalid or only laid out in an unusual way."""


class _AnyObject(msgspec.Struct):
    """Decodes from every JSON object."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive elements of the list ``annotations``: bytes ``start`` to ``end`` of a file."""

    path: Path
    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes of the elements as a JSON array."""
        return self.end - self.start + 2

    def read(self, buffer: bytearray) -> memoryview:
        """The elements as a JSON array.

        Args:
            buffer: Memory with room for ``size`` bytes, to be used again and again: new memory would take longer than
                reading.

        Raises:
            DatasetError: The file cannot be read any more.
            FastPathUnavailable: The file has become shorter.
        """
        text = memoryview(buffer)[: self.size]
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start)
                length = file.readinto(text[1:-1])
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot be read: {error.strerror or error}.") from error
        if length != self.end - self.start:
            raise FastPathUnavailable
        text[0], text[-1] = b"[]"
        return text


def cut(path: Path, decode_head: Callable[[bytearray], Head]) -> tuple[Head, list[Chunk]]:
    """Find the list of annotations and cut it.

    Args:
        path: A COCO file.
        decode_head: Function that decodes the file with ``0`` in place of the annotations, or raises as msgspec does.

    Returns:
        What ``decode_head`` made of the rest of the file, and the chunks in the order of the file.

    Raises:
        FastPathUnavailable: No list of annotations was found.
        OSError: The file cannot be read.
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
    raise FastPathUnavailable


def _read_before(file: BinaryIO) -> tuple[bytearray, int]:
    """The bytes up to the annotations' bracket, and the position after it."""
    text, looked = bytearray(), 0
    while len(text) < _LONGEST_HEAD and (block := file.read(_BLOCK)):
        text += block
        # A plain search is several times as fast as one with a pattern, and finds most blocks to be without the key.
        key = text.find(_KEY, looked)
        if key >= 0 and (found := _LIST_STARTS.search(text, key)):
            del text[found.end() - 1 :]
            return text, len(text) + 1
        looked = key if key >= 0 else max(0, len(text) - len(_KEY))  # it may lie across two blocks
    raise FastPathUnavailable


def _try_end(before: bytearray, after: bytes, decode_head: Callable[[bytearray], Head]) -> Head | None:
    if not all(key in after or key in before for key in (b'"images"', b'"categories"')):
        return None
    length = len(before)
    try:
        msgspec.json.decode(b'{"annotations":0' + after, type=_AnyObject)  # cheap, and settles most wrong guesses
        before += b"0" + after  # in place, since it is large
        return decode_head(before)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    finally:
        del before[length:]


def _cut_list(path: Path, file: BinaryIO, start: int, end: int) -> list[Chunk]:
    cuts = [start]
    target = start + CHUNK_SIZE
    while target < end - CHUNK_SIZE // 2:
        file.seek(target)
        if found := _NEXT_RECORD.search(file.read(min(_RECORD, end - target))):
            target += found.start(1)
            cuts += [target, target + 1]
            target += CHUNK_SIZE
        else:  # a longer record
            target += _RECORD
    cuts.append(end)
    return [Chunk(path, left, right) for left, right in zip(cuts[::2], cuts[1::2], strict=True)]
