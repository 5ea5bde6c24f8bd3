"""Log of a run, ``train.log``: all that a training prints, also from behind Python. No torch."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from kdyolo.runs import detach
from kdyolo.utils.text import plain_line, without_colours

LOGGER = logging.getLogger("ultralytics")  # Ultralytics' own logger, by the name that it gives it


class RunLog:
    """Collects Ultralytics' log from construction on, and everything printed while :meth:`capture` is active.

    Lines gathered before the run folder is known wait in memory until :meth:`open`.

    Attributes:
        alone: Whether it is the only place that this process prints to, so that errors are read nowhere else.
    """

    alone = False

    def __init__(self) -> None:
        self._file: TextIO = io.StringIO()
        self._handler = _Handler(_Plain(self))
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        LOGGER.addHandler(self._handler)
        self._silenced: list[tuple[logging.StreamHandler[Any], Any]] = []

    def open(self, path: Path, append: bool = False) -> None:
        """Continue in a file, which first receives what was gathered so far."""
        waiting = self._file
        self._file = path.open("a" if append else "w", encoding="utf-8", buffering=1)
        if early := detach.output_file():  # holds what was printed before this log was there, too
            text = early.read_bytes().decode("utf-8", "replace")
            self._file.write("\n".join(map(plain_line, text.split("\n"))))
        elif isinstance(waiting, io.StringIO):
            self._file.write(waiting.getvalue())

    def write(self, text: str) -> None:
        """Append text unchanged."""
        self._file.write(text)

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """Also record what is written to stdout and stderr (progress bars, warnings, prints); then close the log."""
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(stdout, self), _Tee(stderr, self)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = stdout, stderr
            self.close()

    def take_over(self) -> None:
        """Be from here on the only place that this process prints to: the terminal that started it goes away.

        What is written past Python (a crash, a library in C) goes to the log as well, and so does everything that comes
        after :meth:`close`. What :meth:`capture` and Ultralytics' logger record already is printed nowhere else.
        """
        self.alone = True
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
                os.dup2(self._file.fileno(), stream.fileno())
        nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process prints
        for tee in (sys.stdout, sys.stderr):
            if isinstance(tee, _Tee):
                tee.redirect(nowhere)
        for handler in LOGGER.handlers:
            if isinstance(handler, logging.StreamHandler) and handler is not self._handler:
                self._silenced.append((handler, handler.setStream(nowhere)))

    def hand_over(self, folder: Path, several_ranks: bool) -> None:
        """Of a detached command, be the only place that it prints to, and let the terminal go; else do nothing.

        Args:
            folder: Folder of the run, which the terminal names.
            several_ranks: Whether other processes of the run print elsewhere.
        """
        if output := detach.output_file():
            if several_ranks:
                LOGGER.info(f"what the launcher and the other ranks print: {output}")
            self.take_over()
            detach.tell_begun(folder)

    def close(self) -> None:
        """Stop recording."""
        LOGGER.removeHandler(self._handler)
        for handler, stream in self._silenced:
            handler.setStream(stream)
        self._file.close()


class _Handler(logging.StreamHandler):  # type: ignore[type-arg] # Python 3.10
    """A handler whose trouble ends the run, like that of any other file, where logging would print it and go on."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise


class _Plain:
    """A stream for the log handler: colour codes removed."""

    def __init__(self, log: RunLog) -> None:
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(without_colours(text))
        return len(text)

    def flush(self) -> None:
        """Nothing to do: the file is line-buffered."""


class _Tee:
    """A stream that also feeds a log; of a progress bar, which redraws its line, only the last state is logged."""

    def __init__(self, stream: TextIO, log: RunLog) -> None:
        self._stream, self._log, self._line = stream, log, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._log.write(f"{plain_line(line)}\n")
        return self._stream.write(text)

    def redirect(self, stream: TextIO) -> None:
        """Pass what is written on to another stream."""
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
