"""Pickles looked through without unpickling: what they name and call, and how much they ask for."""

from __future__ import annotations

import pickle
import re
import struct
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from dataclasses import dataclass
from mmap import mmap
from struct import unpack_from

MAX_OPCODES, MAX_MARKS = 2_000_000, 10_000  # a large checkpoint has a hundredth of the one, and fifty open marks
MAX_DEPTH = 1_000  # of tuples in tuples, which Python hashes by recursion without a limit where one is a key
SPECIAL = re.compile(rb"__\w+__")

# Opcodes that push one value, by the number of bytes that follow them.
_PUSH = {b"N": 0, b"\x88": 0, b"\x89": 0, b")": 0, b"]": 0, b"}": 0, b"\x8f": 0, b"J": 4, b"K": 1, b"M": 2, b"G": 8}
_PUSHES = {code[0]: size for code, size in _PUSH.items()}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_GLOBAL, _REDUCE, _NEWOBJ, _BUILD, _MARK, _STOP, _PROTO = b"cR\x81b(.\x80"
_TUPLE, _APPEND, _APPENDS, _SETITEM, _SETITEMS, _PERSID = b"taesuQ"
_TEXT, _SHORT_TEXT, _LONG = b"XU\x8a"
_PUT, _LONG_PUT, _GET, _LONG_GET = b"qrhj"


@dataclass(frozen=True)
class PickleContent:
    """What a pickle would do.

    Attributes:
        names: Classes and functions that it names, e.g. ``"collections.OrderedDict"``.
        calls: Those of them that it calls; ``"?"`` stands for what it only computes.
        special: Texts in it that are Python's special names, e.g. ``"__setstate__"``.
        end: Where in the file it ends.
        opcodes: Number of its opcodes.
    """

    names: frozenset[str]
    calls: frozenset[str]
    special: frozenset[str]
    end: int
    opcodes: int


def scan_pickle(content: bytes | mmap, start: int = 0, most: int = MAX_OPCODES) -> PickleContent:
    """Look through a pickle of the opcodes that torch's restricted loader knows.

    Args:
        content: A file that holds the pickle.
        start: Where in it the pickle begins.
        most: The most opcodes that the pickle may have.

    Raises:
        pickle.UnpicklingError: Another opcode, a pickle that does not end, or one that asks for more than any
            checkpoint.
    """
    scan = _Scan(content, start, most)
    try:
        scan.run()
    except (IndexError, ValueError, struct.error) as e:  # of ValueError: names that are no text
        raise pickle.UnpicklingError("it ends too early, or takes more than it has") from e
    return PickleContent(frozenset(scan.names), frozenset(scan.calls), frozenset(scan.special), scan.at, scan.count)


class _Scan:
    """One walk over a pickle; on its stack a value is the name of what it stands for, the depth of a tuple, or None."""

    def __init__(self, content: bytes | mmap, start: int, most: int) -> None:
        self.content, self.at, self.most, self.count = content, start, most, 0
        self.names: set[str] = set()
        self.calls: set[str] = set()
        self.special: set[str] = set()

    def run(self) -> None:
        content, at, count = self.content, self.at, 0
        stack: list[str | int | None] = []
        marks: list[int] = []
        memo: dict[int, str | int] = {}  # of names and tuples; of other values nothing has to be known
        while True:
            code = content[at]
            at += 1
            count += 1
            if count > self.most:
                raise pickle.UnpicklingError(f"it has more than {self.most:,} steps, which no checkpoint has")
            if code in _PUSHES:
                stack.append(None)
                at += _PUSHES[code]
            elif code in (_PUT, _LONG_PUT):
                number, at = (content[at], at + 1) if code == _PUT else (unpack_from("<I", content, at)[0], at + 4)
                if number > count:  # picklers count what they remember; Python's reader makes room for all before it
                    raise pickle.UnpicklingError(f"it remembers number {number:,} in step {count:,}, which none does")
                if (name := stack[-1]) is not None:
                    memo[number] = name
                elif number in memo:
                    del memo[number]
            elif code in (_GET, _LONG_GET):
                number, at = (content[at], at + 1) if code == _GET else (unpack_from("<I", content, at)[0], at + 4)
                stack.append(memo.get(number))
            elif code == _TEXT:
                end = at + 4 + unpack_from("<I", content, at)[0]
                self._note_special(content[at + 4 : end])
                stack.append(None)
                at = end
            elif code == _MARK:
                marks.append(len(stack))
                if len(marks) > MAX_MARKS:
                    raise pickle.UnpicklingError(f"it nests more than {MAX_MARKS:,} deep, which no checkpoint does")
            elif code in (_APPENDS, _SETITEMS):
                del stack[marks.pop() :]
            elif code == _TUPLE or code in _TUPLES:
                first = marks.pop() if code == _TUPLE else len(stack) - _TUPLES[code]
                depth = 1 + max((value for value in stack[first:] if isinstance(value, int)), default=0)
                if depth > MAX_DEPTH:
                    raise pickle.UnpicklingError(f"it nests tuples more than {MAX_DEPTH:,} deep, which none does")
                stack[first:] = [depth]
            elif code == _PERSID:
                stack[-1] = None
            elif code == _REDUCE:
                stack.pop()
                called = stack[-1]
                self.calls.add(called if isinstance(called, str) else "?")
                stack[-1] = None
            elif code in (_APPEND, _BUILD):
                stack.pop()
            elif code == _SETITEM:
                del stack[-2:]
            elif code == _NEWOBJ:
                stack.pop()
                stack[-1] = None
            elif code == _GLOBAL:
                middle = content.find(b"\n", at)
                end = content.find(b"\n", middle + 1)
                if not at <= middle < end:
                    raise IndexError
                name = _today(content[at:middle].decode(), content[middle + 1 : end].decode())
                self.names.add(name)
                stack.append(name)
                at = end + 1
            elif code in (_SHORT_TEXT, _LONG):
                end = at + 1 + content[at]
                if code == _SHORT_TEXT:
                    self._note_special(content[at + 1 : end])
                stack.append(None)
                at = end
            elif code == _PROTO:
                at += 1
            elif code == _STOP:
                self.at, self.count = at, count
                return
            else:
                raise pickle.UnpicklingError(f"torch writes no opcode {code:#04x}")

    def _note_special(self, text: bytes) -> None:
        if text[:2] == b"__" and SPECIAL.fullmatch(text):
            self.special.add(text.decode("ascii", "replace"))


def _today(module: str, name: str) -> str:
    """Name of what Python 2 called otherwise, which is what pickles of this protocol are written for."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    else:
        module = IMPORT_MAPPING.get(module, module)
    return f"{module}.{name}"


def scan_pickles(content: bytes | mmap, most: int = MAX_OPCODES) -> list[PickleContent]:
    """Look through the five pickles that a file of torch's old format begins with.

    Raises:
        pickle.UnpicklingError: See :func:`scan_pickle`; ``most`` holds for all of them together.
    """
    found: list[PickleContent] = []
    start = 0
    while len(found) < 5 and start < len(content):  # one only in a plain pickle, and torch says what that is
        scanned = scan_pickle(content, start, most - sum(each.opcodes for each in found))
        found.append(scanned)
        start = scanned.end
    return found
