"""Commands ``kdyolo ps``, ``logs`` and ``stop``, and ``--detach`` of the commands that take long."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdyolo.cli.base import GroupedOption, command, echo, json_option, print_result, there
from kdyolo.cli.parsing.output import result_stream
from kdyolo.errors import ConfigError
from kdyolo.runs.files import LOG_NAME
from kdyolo.utils.text import format_duration, printable, shell_word, short_path

if TYPE_CHECKING:
    from kdyolo.runs.status import RunStatus

CONTROL = "Controlling the run"  # title of a group of options

detach_option = click.option(
    "--detach",
    cls=GroupedOption,
    group=CONTROL,
    is_flag=True,
    help="Go on in the background once it has begun; the terminal may be closed.",
)


def run_detached(dry_run: bool, as_json: bool = False) -> None:
    """Start the command of this command line in the background, and print how to follow it, or why it did not begin.

    Args:
        dry_run: Whether it is asked to train nothing, which nobody would see.
        as_json: Whether folder, process and log are printed as JSON.

    Raises:
        ConfigError: It is a dry run, or this is one of several processes that torchrun started.
    """
    from kdyolo.runs.detach import DidNotBegin, detach

    if dry_run:
        raise ConfigError("--detach and --dry-run exclude each other: a dry run is for reading what it prints.")
    if "RANK" in os.environ:
        raise ConfigError("--detach is not for processes that torchrun starts: put torchrun itself in the background.")
    arguments: list[str] = click.get_current_context().find_root().obj
    try:
        folder, process = detach([argument for argument in arguments if argument != "--detach"])
    except DidNotBegin as e:
        echo(e.output or f"Error: {e}", err=True)
        raise click.exceptions.Exit(e.code) from None
    run = short_path(folder)
    if as_json:
        pid = process.pid if process else None
        print_result({"run": str(run), "process": pid, "log": str(run / LOG_NAME)})
        return
    where = run if process is None or run.parts[0] in ("runs", "studies") else run.parent
    echo(f"{run} · {f'process {process.pid}' if process else 'has ended already'} · {run / LOG_NAME}")
    below = "" if where == run else f" {shell_word(where)}"
    echo(f"  kdyolo logs {shell_word(run)} -f\n  kdyolo ps{below}\n  kdyolo stop {shell_word(run)}")


@command("  kdyolo ps\n  kdyolo ps runs/detect/train studies/\n  kdyolo ps --json", check=there("folders"))
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path), metavar="[FOLDER]...")
@json_option
def ps(folders: Sequence[Path], as_json: bool) -> None:
    """List runs: phase, epoch, best mAP50-95, and whether the process lives.

    Looks below FOLDER; by default in runs/ and studies/ here, and where Ultralytics is set to put runs.
    """
    from kdyolo.runs.status import FOLDERS, list_runs
    from kdyolo.utils.tables import aligned

    runs = list_runs(folders)
    if as_json:
        print_result([run.to_dict() for run in runs])
    elif not runs:
        echo(f"no runs in {', '.join(map(str, folders or FOLDERS))}")
    elif (result_stream() or sys.stdout).isatty():
        _print_table(runs)
    else:
        echo("\n".join(aligned([HEADER, *map(_row, runs)])))
    for run in runs:
        if run.problem and not as_json:
            echo(printable(run.problem), err=True)


EXPENDABLE = ("PID", "PHASE")  # columns that a narrow terminal has no room for, the first goes first
OFTEN_EMPTY = ("PID", "LEFT")  # and these before a name is folded, where no run has anything in them
FOLDED = ("RUN", "STATUS")
HEADER = ("RUN", "STATUS", "PHASE", "EPOCH", "mAP50-95", "PID", "LEFT")


def _row(run: RunStatus) -> tuple[str, ...]:
    pid = "" if run.process is None else f"{run.process.pid}{' (stale)' if run.stale else ''}"
    best = "" if math.isnan(run.best) else f"{run.best:.3f}"
    left = "" if math.isnan(run.seconds_left) else format_duration(run.seconds_left)
    return (str(short_path(run.path)), run.summary, run.phase, f"{run.epoch}/{run.epochs}", best, pid, left)


def _print_table(runs: Sequence[RunStatus]) -> None:
    """Print the table for a terminal: what a narrow one has no room for is left out, names of runs are folded."""
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from kdyolo.utils.tables import NARROWEST, fitting_columns

    rows = [dict(zip(HEADER, map(printable, _row(run)), strict=True)) for run in runs]
    console = Console(file=result_stream())
    widths = {name: max(map(cell_len, (name, *(row[name] for row in rows)))) for name in HEADER}
    empty = [name for name in OFTEN_EMPTY if not any(row[name] for row in rows)]
    whole = fitting_columns(widths, console.width, empty)
    widths = {name: min(widths[name], NARROWEST) if name in FOLDED else widths[name] for name in whole}
    columns = fitting_columns(widths, console.width, EXPENDABLE)
    # The box puts a blank between two columns.
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name not in FOLDED, min_width=widths[name])
    styles = {"running": "green", "finished": "dim", "interrupted": "yellow", "died": "red", "damaged": "red"}
    for run, row in zip(runs, rows, strict=True):  # Text: names may hold [square] brackets
        table.add_row(*(Text(row[name]) for name in columns), style=styles.get(run.state))
    console.print(table)


@command("  kdyolo logs runs/detect/train\n  kdyolo logs runs/detect/train -f", check=there("run"))
@click.argument("run", type=click.Path(path_type=Path))
@click.option("-f", "--follow", "following", is_flag=True, help="Go on printing until the run ends.")
@click.option("-n", "--lines", type=click.IntRange(min=0), default=20, show_default=True, help="Lines from the end.")
def logs(run: Path, following: bool, lines: int) -> None:
    """Print the end of a run's train.log."""
    from kdyolo.runs.log_reader import follow, goes_on, log_of, readable

    blocks = follow(log_of(run), lines, (lambda: goes_on(run)) if following else lambda: False)
    for text in readable(blocks):
        echo(text, nl=False, colours=True)


@command("  kdyolo stop runs/detect/train\n  kdyolo stop studies/*/*/seed* --timeout 60", check=there("runs"))
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait after Ctrl-C, and again after SIGTERM, before the run is killed.",
)
@json_option
def stop(runs: Sequence[Path], timeout: float, as_json: bool) -> None:
    """End runs so that each can be resumed: Ctrl-C first, then SIGTERM, SIGKILL at last.

    Runs that are not running are left as they are.
    """
    from kdyolo.runs.status import stop_runs

    results = stop_runs(runs, timeout)
    if as_json:
        print_result([{"run": str(found.path), "summary": found.summary, "failed": found.failed} for found in results])
    for result in () if as_json else results:
        echo(printable(f"{result.path}: {result.summary}"), err=result.failed)
    if any(result.failed for result in results):
        raise click.exceptions.Exit(1)
