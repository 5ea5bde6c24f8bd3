"""Text helpers: durations in words, suggestions for misspelt words, terminal codes, canonical settings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def format_duration(seconds: float) -> str:
    """A duration for people: ``"0.4 s"``, ``"42 s"``, ``"7.5 min"``, ``"3.1 h"``; a dash for NaN."""
    if math.isnan(seconds):
        return "–"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """A suggestion to end a message with, e.g. ``" Did you mean 'x'?"``; empty if no known word is close."""
    close = get_close_matches(word, known, n=2, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def without_colours(text: str) -> str:
    """The text without ANSI codes for colours and cursor."""
    return _ANSI.sub("", text)


def plain_line(line: str) -> str:
    """A line as it stood at last: without colours, and of a progress bar, which redraws itself, the last state only."""
    return without_colours(line.rstrip("\r").rpartition("\r")[2])


def canonical(value: Any) -> str:
    """A text that is the same for equal settings: 1 and 1.0 are equal, 1 and True are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Mapping):
        return json.dumps({str(key): canonical(v) for key, v in value.items()}, sort_keys=True)
    if isinstance(value, (list, tuple)):
        return json.dumps([canonical(v) for v in value])
    return json.dumps(value, default=str)


def distinct(values: Iterable[Any]) -> list[Any]:
    """The different values among those given, in the order in which they first appear."""
    return list({canonical(value): value for value in values}.values())
