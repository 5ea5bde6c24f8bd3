"""Output of a command: its result on stdout, everything else as much as was asked for, and nothing that is obeyed."""

from __future__ import annotations

import io
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO

import click

from kdyolo.utils.progress import Verbosity, verbosity, verbosity_set
from kdyolo.utils.tables import fitted
from kdyolo.utils.text import json_text, printable_lines

QUIET, VERBOSE = "kdyolo.quiet", "kdyolo.verbose"  # where the context of a command line keeps what was asked for
_results: list[TextIO] = []  # where results go while stdout is taken for nothing else


def echo(text: Any, *, err: bool = False, nl: bool = True, colours: bool = False) -> None:
    """Print lines; what a terminal would obey in them, as names and files may bring it along, is shown as escapes.

    Everything that a command prints passes here, so that no name can do anything; one whose ends of lines must not
    show passes ``printable`` before.

    Args:
        text: The lines, or a path.
        err: Whether they go to stderr.
        nl: Whether the end of a line follows.
        colours: Whether codes for colours stay, on a terminal.
    """
    shown = printable_lines(str(text), colours=colours)
    click.echo(shown, file=None if err else result_stream(), err=err, nl=nl)


def result_stream() -> TextIO | None:
    """Where results go; None: to stdout."""
    return _results[-1] if _results else None


def note(text: Any) -> None:
    """Print lines that are not the result, to stderr; not with ``--quiet``."""
    if verbosity() != "quiet":
        echo(fitted(str(text), sys.stderr), err=True)


def is_later_rank() -> bool:
    """Whether this is one of several processes of a run, and not the first; a scheduler's RANK alone makes it none."""
    if os.environ.get("RANK", "0") in ("0", "-1"):
        return False
    from kdyolo.runs.lifecycle.devices import OF_A_RANK

    return all(os.environ.get(name) for name in OF_A_RANK)


def print_result(result: str | Mapping[str, Any] | Sequence[Any] | None) -> None:
    """Print a table as it is, plain data as JSON; on stdout, also where nothing else goes there.

    Of several processes of a run the first one prints.
    """
    if is_later_rank():
        return
    echo(fitted(result, result_stream()) if isinstance(result, str) else json_text(result))


def print_if_quiet(text: Any) -> None:
    """Print, with ``--quiet``, the result of a command whose work tells it on the way otherwise."""
    if verbosity() == "quiet":
        print_result(str(text))


def plain_data(value: Any) -> Any:
    """A result of dataclasses, paths and tuples as plain data, which JSON can hold; NaN becomes None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain_data(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain_data(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(each) for each in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


@contextmanager
def telling(ctx: click.Context) -> Iterator[None]:
    """Tell as much as ``--quiet``, ``--verbose`` and ``--json`` of a command line ask for.

    With ``--json`` stdout has the result alone, and what is told on the way goes to stderr; with ``--quiet`` it goes
    nowhere, but for warnings and errors. In both cases a run's own log has everything.
    """
    quiet, verbose = (ctx.meta.get(name, False) for name in (QUIET, VERBOSE))
    if quiet and verbose:
        raise click.UsageError("--quiet and --verbose exclude each other.", ctx)
    level: Verbosity = "quiet" if quiet else "verbose" if verbose else "normal"
    with ExitStack() as stack:
        stack.enter_context(verbosity_set(level))
        if quiet or ctx.params.get("as_json"):
            stack.enter_context(_stdout_for_results(quiet))
        yield


@contextmanager
def _stdout_for_results(quiet: bool) -> Iterator[None]:
    """Keep stdout for :func:`print_result`; all else goes to stderr, or nowhere but for warnings."""
    logger = logging.getLogger("ultralytics")
    with ExitStack() as stack:
        nowhere = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8")) if quiet else None
        others, former = nowhere or sys.stderr, sys.stdout
        stack.enter_context(_results_of(_stdout_kept(stack, nowhere)))
        stack.enter_context(redirect_stdout(others))
        if quiet:
            warnings = _Warnings(sys.stderr)
            logger.addHandler(warnings)
            stack.callback(logger.removeHandler, warnings)
        stack.callback(_move_log, others, former)  # Ultralytics may be imported by then
        _move_log(former, others)
        yield


class _Warnings(logging.StreamHandler):  # type: ignore[type-arg] # Python 3.10
    """What is shown of a log that goes nowhere else."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.setLevel(logging.WARNING)

    def format(self, record: logging.LogRecord) -> str:
        """The message behind its level, which Ultralytics' own handler may have put before it already."""
        text = record.getMessage()
        return text if text.startswith(record.levelname) else f"{record.levelname} {text}"


def _stdout_kept(stack: ExitStack, nowhere: TextIO | None) -> TextIO:
    """A stream to what stdout is now; what is written past Python, also by child processes, goes elsewhere."""
    try:
        if sys.stdout.fileno() != 1:
            return sys.stdout
    except (io.UnsupportedOperation, AttributeError):  # a test's or notebook's own stream
        return sys.stdout
    sys.stdout.flush()
    kept = os.dup(1)
    stream = stack.enter_context(os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors))

    def restore() -> None:
        stream.flush()
        os.dup2(kept, 1)

    stack.callback(restore)
    os.dup2(nowhere.fileno() if nowhere else 2, 1)
    return stream


@contextmanager
def _results_of(stream: TextIO) -> Iterator[None]:
    _results.append(stream)
    try:
        yield
    finally:
        _results.pop()


def _move_log(source: TextIO, target: TextIO) -> None:
    """Let Ultralytics' logger, if it is there, write to another stream; a run's own log is another kind of handler."""
    for handler in logging.getLogger("ultralytics").handlers:
        if type(handler) is logging.StreamHandler and handler.stream in (source, sys.__stdout__):
            handler.setStream(target)
