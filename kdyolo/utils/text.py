"""Text helpers: durations, paths, suggestions for misspelt words, what a terminal would obey, canonical settings."""

from __future__ import annotations

import json
import math
import re
import reprlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from kdyolo.errors import CONTROL

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_LONGEST_WORD = 100  # characters; nobody misspells longer ones
_SHORT = 4  # letters, of which a single wrong one is a large share
_LONGEST_SHOWN = 160  # characters of a line in an excerpt
_ALIKE, _ALIKE_SHORT = 0.7, 0.66  # shares of letters that words have in common, in the same order


def format_duration(seconds: float) -> str:
    """A duration for people: ``"0.4 s"``, ``"42 s"``, ``"7.5 min"``, ``"3.1 h"``; a dash for NaN."""
    if math.isnan(seconds):
        return "–"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def printable(text: str) -> str:
    """A name or a line as a terminal shows it unchanged: what it would obey as Python's escapes for it."""
    return CONTROL.sub(_escaped, text)


def printable_lines(text: str, *, colours: bool = False) -> str:
    """Lines as a terminal shows them unchanged: as :func:`printable`, but ends of lines and tabs stay.

    Args:
        text: The lines.
        colours: Whether codes for colours stay, too.
    """
    pieces = _COLOUR.split(text)
    return "".join(
        piece if colours and i % 2 else CONTROL.sub(lambda found: _escaped(found, kept="\n\t"), piece)
        for i, piece in enumerate(pieces)
    )


def json_text(value: Any) -> str:
    """Plain data as JSON that a terminal shows unchanged and that reads back as it was."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return CONTROL.sub(lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], text)


def _escaped(found: re.Match[str], kept: str = "") -> str:
    character = found[0]
    return character if character in kept else character.encode("unicode_escape").decode("ascii")


def shortened(text: str, most: int) -> str:
    """A text of at most ``most`` characters: of a longer one the beginning, and a dash for the rest."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def excerpt(text: str, most_lines: int | None = None) -> str:
    """A text of somebody else's for reading: indented, what a terminal would obey escaped.

    Args:
        text: The text.
        most_lines: Number of lines after which it is cut, as are lines of more than 160 characters. Default: whole.
    """
    lines = text[:1_000_000].splitlines()
    shown = lines if most_lines is None else [shortened(line, _LONGEST_SHOWN) for line in lines[:most_lines]]
    escaped = ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in shown]
    more = [f"… and {plural(len(lines) - len(shown), 'line')} more"] if len(lines) > len(shown) else []
    return "\n".join(f"    {line}" for line in [*escaped, *more])


def quoted(value: Any, most: int = 100) -> str:
    """A value for a message, as Python writes it but of at most ``most`` characters; of an exception, its message.

    Nothing large is made on the way, however much the value holds.
    """
    if isinstance(value, BaseException):
        return shortened(printable(" ".join(str(value)[:10_000].split())), max(most, 200))
    form = reprlib.Repr()
    form.maxstring = form.maxother = most
    form.maxlevel, form.maxlist, form.maxdict, form.maxlong = 3, 10, 10, most
    return shortened(form.repr(value), most)


def shell_word(path: Any) -> str:
    """A path as a person pastes it into a shell: in quotes where it has blanks or signs that a shell would obey."""
    return shlex.quote(str(path))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A suggestion to end a message with, e.g. ``" Did you mean 'x'?"``; empty if no known word is close.

    Close are words with few other letters, and those of which one begins with the other: ``batch`` for ``batch_size``.
    """
    if len(word) > _LONGEST_WORD:
        return ""
    names = [name for name in known if len(name) <= _LONGEST_WORD]
    word = next((name for name in names if name.lower() == word.lower()), word)
    alike = get_close_matches(word, names, n=2, cutoff=_ALIKE if len(word) > _SHORT else _ALIKE_SHORT)
    begun = [name for name in names if min(len(name), len(word)) > _SHORT and _begin(name, word)]
    close = (alike or begun)[:2]
    return f" Did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def _begin(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def plural(count: int, noun: str) -> str:
    """A number with its noun: ``"1 file"``, ``"2,000 files"``; of irregular ones see :func:`number_and_noun`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short_path(path: Path) -> Path:
    """A path as one would type it here."""
    path, here = path.resolve(), Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def without_colours(text: str) -> str:
    """The text without ANSI codes for colours and cursor."""
    return _ANSI.sub("", text)


def plain_line(line: str) -> str:
    """A line as it stood at last: without colours, and of a progress bar, which redraws itself, the last state only."""
    return without_colours(line.rstrip("\r").rpartition("\r")[2])


def canonical(value: Any) -> str:
    """A text that is the same for equal settings: 1 and 1.0 are equal, 1 and True are not."""
    return json.dumps(_normal(value), sort_keys=True, default=str)


def _normal(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _normal(v) for key, v in value.items()}
    return [_normal(v) for v in value] if isinstance(value, (list, tuple)) else value


def distinct(values: Iterable[Any]) -> list[Any]:
    """The different values among those given, in the order in which they first appear."""
    return list({canonical(value): value for value in values}.values())


def decimal(value: float, digits: int, sign: str = "") -> str:
    """A number with so many digits and a true minus sign; with ``sign="+"`` all numbers but 0 have a sign."""
    text = f"{value:{sign}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def number_and_noun(count: int, words: str) -> str:
    """A number and what it counts: ``number_and_noun(1, "image{ has|s have} no size")`` is "1 image has no size"."""
    return f"{count:,} {re.sub(r'{([^|}]*)[|]([^}]*)}', lambda found: found[1 if count == 1 else 2], words)}"
