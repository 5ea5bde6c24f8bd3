"""The ``kdyolo`` command: parse, call one function, print; one module per subject, heavy imports inside commands."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from kdyolo.cli.base import cli, echo
from kdyolo.cli.parsing.exit_codes import BROKEN_PIPE, FAILED, INTERRUPTED, TERMINATED, WRONG_CALL, exit_code
from kdyolo.cli.parsing.output import is_later_rank
from kdyolo.errors import KDYOLOError, RunError, message_text
from kdyolo.runs.process_control import Terminated, honour_launch
from kdyolo.utils.progress import log_escaped
from kdyolo.utils.system import let_threads_sleep
from kdyolo.utils.tables import fitted
from kdyolo.utils.text import shortened

__all__ = ["cli", "main"]

# What a disk says that is full or read-only, or whose files are not ours: no mistake of the program.
DISK = {errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command, and turn an error into one message and an exit code.

    Args:
        argv: The arguments; None: those of this process.

    Raises:
        SystemExit: The command failed, was interrupted, or asked for an exit code other than 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    let_threads_sleep()
    honour_launch()
    try:
        with log_escaped(), _no_word_on_a_broken_pipe(debug):
            code = cli.main(arguments, prog_name="kdyolo", standalone_mode=False, obj=arguments)
        if code == BROKEN_PIPE:  # so that the last flush does not fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code:
            sys.exit(code)  # what click makes of click.exceptions.Exit; commands themselves return nothing
    except click.ClickException as e:
        _show(e)
        sys.exit(WRONG_CALL)
    except (KeyboardInterrupt, click.Abort) as e:
        told = e.__cause__ or e  # click makes an Abort of it
        sys.exit(TERMINATED if isinstance(told, Terminated) else INTERRUPTED)
    except Exception as e:  # KDYOLOError is ours; anything else comes from below and is shown by its type as well
        if debug:
            echo(traceback.format_exc(), err=True)
        if isinstance(e, OSError) and e.errno in DISK:
            e = RunError(f"{e.filename or 'a file'}: {e.strerror}. Check free space and permissions.")
        if wrong := _impossible_path(e):
            e = RunError(f"{wrong} Name another path.")
        if isinstance(e, ModuleNotFoundError) and e.name and e.name.partition(".")[0] != "kdyolo":
            e = RunError(f"the package {e.name}, which this needs, is not installed. Install it, e.g. with pip.")
        from kdyolo.engine.foreign_errors import explained

        e = explained(e) or e
        ours = isinstance(e, KDYOLOError)
        if ours and is_later_rank():  # and the first one says the same
            sys.exit(FAILED)
        shown = str(e) if ours else f"{type(e).__name__}: {message_text(str(e))}"
        echo(fitted(f"Error: {shown}", sys.stderr), err=True)
        if not ours and not debug:
            echo("Run the same command with --debug to see where this comes from.", err=True)
        sys.exit(exit_code(e))


@contextmanager
def _no_word_on_a_broken_pipe(debug: bool) -> Iterator[None]:
    """Keep logging from printing a traceback for each line that nobody reads any more, as behind ``| head``."""
    former, logging.raiseExceptions = logging.raiseExceptions, debug
    try:
        yield
    finally:
        logging.raiseExceptions = former


def _show(error: click.ClickException) -> None:
    """Print an error of the command line as click does; arguments in it may be names of other people's files."""
    text = io.StringIO()
    error.show(text)
    echo(fitted(text.getvalue(), sys.stderr), err=True, nl=False)


def _impossible_path(e: Exception) -> str:
    """What is wrong with a path that no system would open, as a sentence; empty if an error is about something else."""
    loop = "a symbolic link that leads to itself."
    if isinstance(e, OSError) and e.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        return f"{shortened(str(e.filename), 200)}: {loop if e.errno == errno.ELOOP else 'longer than a path can be.'}"
    if isinstance(e, UnicodeEncodeError) and "surrogates" in e.reason:
        return f"{shortened(str(e.object), 200)}: no text in UTF-8, as files here and their names have to be."
    if isinstance(e, ValueError) and "embedded null byte" in str(e):
        return "a path holds a zero byte, which none can."
    words = "Symlink loop from "  # of pathlib, before Python 3.13
    is_loop = isinstance(e, RuntimeError) and str(e).startswith(words)
    return f"{str(e).removeprefix(words)[1:-1]}: {loop}" if is_loop else ""
