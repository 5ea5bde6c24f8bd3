"""The ``kdyolo`` command: parse, call one function, print; one module per subject, heavy imports inside commands."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from kdyolo.cli import (  # noqa: F401 - each adds its commands
    checkpoints,
    compare,
    data,
    demo,
    evaluate,
    jobs,
    study,
    train,
)
from kdyolo.cli.base import cli
from kdyolo.errors import ConfigError, KDYOLOError
from kdyolo.runs.process_control import Terminated, honour_launch
from kdyolo.utils.system import let_threads_sleep

__all__ = ["cli", "main"]

EXIT_USAGE = 2  # contradictory, unknown or misspelt options, as click uses it
EXIT_ERROR = 1  # everything else that is wrong with what was given
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells have it
EXIT_TERMINATED = 143  # SIGTERM


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
        if code := cli.main(arguments, prog_name="kdyolo", standalone_mode=False, obj=arguments):
            sys.exit(code)  # what click makes of click.exceptions.Exit; commands themselves return nothing
    except click.NoSuchOption as e:
        e.show()
        click.echo("Ultralytics' own settings are given as KEY=VALUE after the options, e.g. lr0=0.01.", err=True)
        sys.exit(EXIT_USAGE)
    except click.ClickException as e:
        e.show()
        sys.exit(EXIT_USAGE)
    except (KeyboardInterrupt, click.Abort) as e:
        told = e.__cause__ or e  # click makes an Abort of it
        sys.exit(EXIT_TERMINATED if isinstance(told, Terminated) else EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader has seen enough, e.g. head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not fail again
        sys.exit(EXIT_ERROR)
    except Exception as e:  # KDYOLOError is ours; anything else comes from below and is shown by its type as well
        if debug:
            traceback.print_exc()
        ours = isinstance(e, KDYOLOError)
        if ours and os.environ.get("RANK", "0") != "0":  # one of several ranks, and the first one says the same
            sys.exit(EXIT_ERROR)
        click.echo(f"Error: {e}" if ours else f"Error: {type(e).__name__}: {e}", err=True)
        if not ours and not debug:
            click.echo("Run the same command with --debug to see where this comes from.", err=True)
        sys.exit(EXIT_USAGE if isinstance(e, ConfigError) else EXIT_ERROR)
