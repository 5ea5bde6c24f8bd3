"""What is told during work: how much of it, a line on what takes longer than two seconds, and a log as shown."""

from __future__ import annotations

import logging
import mmap
import os
import re
import shutil
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO, TypeVar, get_args

from kdyolo.errors import short_lines
from kdyolo.utils.tables import fitted, terminal_width
from kdyolo.utils.text import format_duration, printable, printable_lines, quoted, shortened, without_colours

T = TypeVar("T")
Verbosity = Literal["quiet", "normal", "verbose"]
VERBOSITY_NAME = "KDYOLO_VERBOSITY"  # environment variable, which the processes of several devices inherit

PATIENCE = 2.0  # seconds before the line appears
INTERVAL = 0.1  # seconds between two lines
_PROCESSES = 512
_TERMINAL = logging.StreamHandler
_OWN = str(Path(__file__).resolve().parents[1])  # the folder of kdyolo, from whose files its own lines come


def verbosity() -> Verbosity:
    """How much is told on the terminal: only results and warnings, what matters, or everything."""
    found = os.environ.get(VERBOSITY_NAME)
    return next((level for level in get_args(Verbosity) if level == found), "normal")


@contextmanager
def verbosity_set(level: Verbosity) -> Iterator[None]:
    """Tell so much in this block, also in processes started in it."""
    former = os.environ.get(VERBOSITY_NAME)
    os.environ[VERBOSITY_NAME] = level
    try:
        yield
    finally:
        if former is None:
            del os.environ[VERBOSITY_NAME]
        else:
            os.environ[VERBOSITY_NAME] = former


@contextmanager
def details(*beginnings: str) -> Iterator[None]:
    """Keep details that Ultralytics logs in this block off the terminal unless all is to be told; a log gets them.

    Args:
        *beginnings: How the lines begin that are details, colours left out. Default: all below a warning.
    """

    def shown(record: logging.LogRecord) -> bool:
        line = without_colours(record.getMessage())
        return record.levelno >= logging.WARNING or bool(beginnings and not line.startswith(beginnings))

    # The terminal's handler is a plain one, which Ultralytics makes; a run's log has a kind of its own.
    handlers = [handler for handler in logging.getLogger("ultralytics").handlers if type(handler) is _TERMINAL]
    hiding = handlers if verbosity() != "verbose" else []
    for handler in hiding:
        handler.addFilter(shown)
    try:
        yield
    finally:
        for handler in hiding:
            handler.removeFilter(shown)


@contextmanager
def each_line_once() -> Iterator[None]:
    """Show no line of Ultralytics' log twice in this block, in which several runs are looked at one after the other."""
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = text in told
        told.add(text)
        return not known

    logger = logging.getLogger("ultralytics")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def notice(text: str) -> None:
    """Print a line about a wait, if a person is at the terminal to read it."""
    if person_waits():
        print(printable(text), file=sys.stderr, flush=True)


def person_waits() -> bool:
    """Whether a person looks at the terminal and wants to be told."""
    return sys.stderr.isatty() and verbosity() != "quiet"


def progress_over(things: Iterable[T], what: str, total: int, unit: str) -> Iterator[T]:
    """The things one after the other, with a progress line; see :class:`Progress`."""
    with Progress(what, total, unit) as progress:
        for thing in things:
            yield thing
            progress.advance()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show how long something goes on that cannot say how far it is, on a terminal, if it takes :data:`PATIENCE`.

    Args:
        what: What is being done, e.g. ``"scoring 5,000 images"``.
    """
    if not person_waits():
        yield
        return
    began, ended = time.monotonic(), threading.Event()

    def show() -> None:
        pause = PATIENCE
        while not ended.wait(pause):
            pause = 1.0
            _draw(f"{what} … {format_duration(round(time.monotonic() - began))}")
        if pause != PATIENCE:
            _draw("")

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _draw(line: str) -> None:
    """Replace the line that the cursor stands in."""
    shown = shortened(printable(line), shutil.get_terminal_size().columns - 1)
    print(f"\r\x1b[K{shown}", end="", file=sys.stderr, flush=True)


class Progress:
    """Counts what is done, also in processes forked later, and draws a line on a terminal.

    Attributes:
        number: The number of this process; the one that draws is 0.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        """Start to count.

        Args:
            what: A word for what is being done, e.g. ``"writing"``.
            total: The number of things to do.
            unit: A word for the things, e.g. ``"files"``.
        """
        self.number = 0
        self._what, self._total, self._unit = what, total, unit
        self._done = memoryview(mmap.mmap(-1, 8 * _PROCESSES)).cast("Q")  # shared with forked processes
        self._began = time.monotonic()
        self._next = self._began + PATIENCE
        self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def advance(self, count: int = 1) -> None:
        """Count some more things as done, and show the line if it is time for it."""
        self._done[self.number] += count
        if self.number == 0:
            self.draw()

    def draw(self) -> None:
        """Show the line, if it is time for it and stderr is a terminal."""
        if time.monotonic() >= self._next and person_waits():
            self._next = time.monotonic() + INTERVAL
            self._drawn = True
            _draw(self.line(time.monotonic() - self._began))

    def line(self, elapsed: float) -> str:
        """The line as it looks ``elapsed`` seconds after the start."""
        done = sum(self._done)
        rate = done / elapsed
        left = f"{format_duration(max(self._total - done, 0) / rate) if rate else '?'} left"
        speed = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
        return f"{self._what} {done / self._total:4.0%}  {done:,}/{self._total:,} {self._unit}  {speed}  {left}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._drawn:
            _draw("")


# Ultralytics' table of metrics: a class, its images and objects, four numbers; each row takes 88 cells.
_HEADING = ("Class", "Images", "Instances", "Box(P", "R", "mAP50", "mAP50-95)")
_ROW = re.compile(r"(.{21}\S)((?: {1,10}[\w().+-]{1,10}){6})")
_BAR = 36  # cells of a progress bar, before which Ultralytics prints the heading
_NARROW = (7, 7, 8, 8, 8, 9)  # widths of the columns behind the name where a terminal is narrower than the table


def heading_of_metrics() -> str:
    """The heading of Ultralytics' table of metrics where its own is cut off by the progress bar, else nothing."""
    room, heading = terminal_width(), f"{_HEADING[0]:>22}" + "".join(f"{word:>11}" for word in _HEADING[1:])
    return heading if room is not None and room < len(heading) + _BAR else ""


def narrow_row(line: str, room: int) -> str:
    """A row of Ultralytics' table of metrics, or its heading, that fits in so many cells; other lines as they are."""
    found = _ROW.fullmatch(line)
    if not found or len(line) <= room:
        return line
    head, cells = found[1].strip(), found[2].split()
    if head == _HEADING[0]:
        cells = ["Boxes" if cell == "Instances" else cell.removeprefix("Box(").rstrip(")") for cell in cells]
    else:
        cells = [*cells[:2], *(f"{float(cell):.3f}" for cell in cells[2:])]
    name = max(min(22, room - sum(_NARROW)), 1)
    return f"{shortened(head, name):>{name}}" + "".join(f"{c:>{w}}" for c, w in zip(cells, _NARROW, strict=True))


class _Folding(logging.Formatter):
    """Format of the terminal's log, in which lines of kdyolo's own are folded, and rows of metrics are made to fit."""

    def __init__(self, handler: logging.StreamHandler[Any]) -> None:
        super().__init__()
        self._handler, self._former = handler, handler.formatter or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """The record as its former format has it, folded where the terminal is narrow."""
        text, room = self._former.format(record), terminal_width(self._handler.stream)
        if room is not None and (row := narrow_row(text, room)) != text:
            return row
        return fitted(text, self._handler.stream) if record.pathname.startswith(_OWN) else text


@contextmanager
def log_escaped() -> Iterator[None]:
    """Have Ultralytics' log, whose lines are ours too, show what a terminal would obey as escapes; colours stay.

    ``ultralytics.utils.LOGGER`` passes on whatever names and files bring along. Lines without end are cut. The same for
    warnings of every package (Matplotlib's quote the characters that a font lacks), and for what threads end with
    (Ultralytics draws in some), of which Python prints a traceback: here it is a warning of a line.
    """
    logger = logging.getLogger("ultralytics")

    def escape(record: logging.LogRecord) -> bool:
        record.msg, record.args = short_lines(printable_lines(record.getMessage(), colours=True)), None
        for handler in logger.handlers:  # Ultralytics makes the terminal's when it is first imported
            if type(handler) is _TERMINAL and not isinstance(handler.formatter, _Folding):
                handler.setFormatter(_Folding(handler))
        return True

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        shown = short_lines(printable_lines(warnings.formatwarning(message, category, filename, lineno, line)))
        (file or sys.stderr).write(shown)

    def warn(ended: Any) -> None:
        logger.warning(f"in {ended.thread.name if ended.thread else 'a thread'}: {ended.exc_type.__name__}: "
                       f"{quoted(ended.exc_value)}")  # fmt: skip

    before = warnings.showwarning, threading.excepthook
    logger.addFilter(escape)
    warnings.showwarning, threading.excepthook = show, warn
    try:
        yield
    finally:
        logger.removeFilter(escape)
        warnings.showwarning, threading.excepthook = before
