"""Errors by subject, and the one way to gather several mistakes into one of them.

Each message says what was expected, what was found and what to do next. The command line prints the message alone and
exits with a non-zero code; ``--debug`` shows the traceback as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
LONGEST = 20_000  # characters of a message; what a file brings may be of any length
LONGEST_LINE = 2_500  # characters of a line of one, and of the log
_OF_A_CUT = 60  # characters that stand where the middle was
LONGEST_MISTAKE = 2_000  # characters of one of several mistakes
MOST_MISTAKES = 200
# What a terminal obeys or does not show: control characters (also those from 0x80 on), marks that turn the direction
# of writing, that have no width or end a line, halves of characters (from file names that are no UTF-8), tags.
CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


class KDYOLOError(Exception):
    """Base class of every error that kdyolo raises on purpose.

    A message is cut and escaped by :func:`message_text`, whoever prints it: quotations are short where they are
    written, and this is for those that were forgotten.
    """

    def __init__(self, message: str = "") -> None:
        """Make an error of a message for a person."""
        super().__init__(message_text(message))


def message_text(text: str) -> str:
    """A message for a terminal: what that would obey in it becomes Python's escapes for it, and what is long is cut.

    Args:
        text: The message; names and files may have brought along whatever is in it.

    Returns:
        Lines of at most about :data:`LONGEST_LINE` characters, about :data:`LONGEST` together; cut in the middle.
    """
    return short_lines(CONTROL.sub(_escaped, _without_middle(short_lines(text), LONGEST)))


def short_lines(text: str) -> str:
    """The text with each line that is much longer than :data:`LONGEST_LINE` characters cut to that in its middle."""
    lines = text.split("\n")
    return "\n".join(_without_middle(ln, LONGEST_LINE) if len(ln) > LONGEST_LINE + _OF_A_CUT else ln for ln in lines)


def _escaped(found: re.Match[str]) -> str:
    """A character of :data:`CONTROL` as Python writes it; ends of lines and tabs stay."""
    character = found[0]
    return character if character in "\n\t" else character.encode("unicode_escape").decode("ascii")


def _without_middle(text: str, most: int) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} […, {len(text) - most:,} characters more, …] {text[len(text) - end :]}"


class CheckpointError(KDYOLOError):
    """A weights file cannot be read, or does not fill the backbone it is meant for."""


class DatasetError(KDYOLOError):
    """COCO annotations, images or a dataset YAML are not what they should be."""


class ModelError(KDYOLOError):
    """A model YAML cannot be found, resolved or built."""


class ConfigError(KDYOLOError):
    """Options contradict each other, are unknown or out of range. All mistakes found are reported at once.

    Attributes:
        mistakes: The mistakes, a sentence or more each.
    """

    def __init__(self, mistakes: str | Sequence[str]) -> None:
        """Make one message of one mistake or several."""
        found = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        if len(found) == 1:
            self.mistakes: tuple[str, ...] = found
            super().__init__(found[0])
            return
        self.mistakes = tuple(_without_middle(mistake, LONGEST_MISTAKE) for mistake in found[:MOST_MISTAKES])
        more = [f"and {len(found) - MOST_MISTAKES:,} more."] if len(found) > MOST_MISTAKES else []
        super().__init__(listed_mistakes([*self.mistakes, *more], len(found)))


def listed_mistakes(mistakes: Sequence[str], count: int) -> str:
    """One message of several mistakes: a line or more for each, further lines of one below its first.

    Args:
        mistakes: The mistakes, perhaps with a word on those left out at their end.
        count: Number of mistakes.
    """
    lines = (mistake.strip().replace("\n", "\n    ") for mistake in mistakes)
    return "\n  - ".join((f"{count} mistakes:", *lines))


class RunError(KDYOLOError):
    """A training run cannot start, continue or be finished as asked."""


class Mistakes:
    """Mistakes found so far.

    Attributes:
        found: The mistakes, in the order in which they were found.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self._raised: list[KDYOLOError] = []

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.found)

    def add(self, *mistakes: str) -> None:
        """Note mistakes, each in words for a person."""
        self.found += mistakes

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Note what is raised in this block as mistakes, leave the block, and go on behind it.

        A :class:`ConfigError` counts with each of its mistakes, any other kdyolo error with its message. Other errors
        pass through.
        """
        try:
            yield
        except KDYOLOError as e:
            self._note(e)

    def result(self, check: Callable[[], T]) -> T | None:
        """The result of a check; None if it raised a kdyolo error, which is noted as in :meth:`gathered`."""
        try:
            return check()
        except KDYOLOError as e:
            self._note(e)
            return None

    def error(self) -> KDYOLOError:
        """The mistakes as one error; a single one that was raised is raised as it was, of its own kind."""
        alone = len(self.found) == 1 and self._raised
        return self._raised[0] if alone else ConfigError(self.found)

    def _note(self, error: KDYOLOError) -> None:
        self._raised.append(error)
        self.add(*(error.mistakes if isinstance(error, ConfigError) else (str(error),)))


@contextmanager
def collect_mistakes() -> Iterator[Mistakes]:
    """Let several checks find mistakes, and raise all of them in one error at the end of the block.

    >>> with collect_mistakes() as mistakes:
    ...     data = mistakes.result(lambda: check_data(path))
    ...     if epochs < 1:
    ...         mistakes.add(f"epochs must be at least 1; found {epochs}.")

    Yields:
        The mistakes found so far; without any, the block ends like any other.

    Raises:
        ConfigError: All mistakes that were found. Another error that leaves the block is raised in its place.
        KDYOLOError: The only mistake that was found, if it was raised as an error of another kind.
    """
    mistakes = Mistakes()
    yield mistakes
    if mistakes:
        raise mistakes.error()
