"""Progress line with rate and time left, on a terminal, for what takes more than a second."""

from __future__ import annotations

import mmap
import sys
import time
from types import TracebackType

from kdyolo.utils.text import printable

PATIENCE = 1.0  # seconds before the line appears
INTERVAL = 0.1  # seconds between two lines
_PROCESSES = 512


def notice(text: str) -> None:
    """Print a line about a wait, if a person is at the terminal to read it."""
    if sys.stderr.isatty():
        print(printable(text), file=sys.stderr, flush=True)


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
        if time.monotonic() >= self._next and sys.stderr.isatty():
            self._next = time.monotonic() + INTERVAL
            self._drawn = True
            print(f"\r\x1b[K{self.line(time.monotonic() - self._began)}", end="", file=sys.stderr, flush=True)

    def line(self, elapsed: float) -> str:
        """The line as it looks ``elapsed`` seconds after the start."""
        done = sum(self._done)
        rate = done / elapsed
        left = f"{(self._total - done) / rate:.0f} s left" if rate else "? s left"
        return f"{self._what} {done / self._total:4.0%}  {done:,}/{self._total:,} {self._unit}  {rate:,.0f}/s  {left}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
