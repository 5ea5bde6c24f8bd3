"""Sections of the command line: every command with one sentence on what it does, loaded when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from kdyolo.cli.parsing.exit_codes import BROKEN_PIPE, EXIT_CODES
from kdyolo.utils.text import did_you_mean, quoted

# Section → command → (module of kdyolo.cli that defines it, sentence in the list of commands).
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Data": {
        "convert": ("data", "Turn COCO annotations into an Ultralytics data set."),
        "to-coco": ("data", "Write COCO annotations from the labels of a data set."),
    },
    "Train": {
        "distill": ("distill", "Distil a foundation model into a backbone, without labels."),
        "train": ("train", "Train a detector on a distilled backbone."),
        "doctor": ("train", "Check this machine, a data set and a checkpoint."),
        "demo": ("demo", "Go the whole way once, on a small data set that is drawn."),
    },
    "Evaluate": {
        "val": ("evaluate", "Evaluate a detector with the official COCO metrics."),
        "predict": ("evaluate", "Draw what a detector finds in images."),
        "score": ("evaluate", "Score the COCO results file of any detector."),
    },
    "Compare": {
        "compare": ("compare", "Compare runs, with the uncertainty that comes from seeds."),
        "probe": ("probe", "Compare backbones by what their features tell of objects."),
        "study": ("study", "Train every arm of a study with every seed, and compare."),
    },
    "Runs": {
        "ps": ("jobs", "List runs: state, phase, epoch, best mAP50-95, time left."),
        "logs": ("jobs", "Show the end of a run's log, and follow it."),
        "stop": ("jobs", "End runs so that each can be resumed."),
        "card": ("checkpoints", "Write the model card of a run."),
    },
    "Checkpoints": {
        "inspect": ("checkpoints", "Show what a checkpoint holds, or how two of them differ."),
        "export-stock": ("checkpoints", "Write a checkpoint that needs Ultralytics alone."),
        "extract": ("checkpoints", "Write the backbone of a detector on its own."),
    },
}

_COMMANDS = {name: found for section in SECTIONS.values() for name, found in section.items()}

_YOLO = "Ultralytics' own command takes kdyolo's checkpoints: yolo {} model=best.pt"
# Words that users of ``yolo`` begin with → what to type instead.
_OF_YOLO = {
    **{name: _YOLO.format(name) for name in ("export", "track", "benchmark")},
    "detect": "kdyolo is for detection alone: leave the word out.",
    "tune": "Compare settings as arms of a study: kdyolo study FILE.",
    "help": "See kdyolo --help.",
}


@contextmanager
def _reader_there() -> Iterator[None]:
    """End with the code for a reader that is gone, where click itself would end with 1."""
    try:
        yield
    except BrokenPipeError:
        raise click.exceptions.Exit(BROKEN_PIPE) from None


class SectionedGroup(click.Group):
    """A group that lists its commands by section, and imports the module of one only when that one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order of the sections."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context | None, cmd_name: str) -> click.Command | None:
        """The command of a name; its module, which adds it to the group, is imported first.

        Raises:
            click.UsageError: There is no such command, but one with a similar name.
        """
        if cmd_name not in _COMMANDS:
            if ctx and not ctx.resilient_parsing and cmd_name in _OF_YOLO:
                ctx.fail(f"No such command {quoted(cmd_name)}. {_OF_YOLO[cmd_name]}")
            if ctx and not ctx.resilient_parsing and (close := did_you_mean(cmd_name, list(_COMMANDS))):
                ctx.fail(f"No such command {quoted(cmd_name)}.{close}")
            return None
        import_module(f"kdyolo.cli.{_COMMANDS[cmd_name][0]}")
        return self.commands[cmd_name]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what stands before the command; nothing at all asks for the help, which click would call a mistake."""
        return super().parse_args(ctx, args or ["--help"])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line; ``--help`` and ``--version`` are printed meanwhile.

        Raises:
            click.exceptions.Exit: They have been printed, or their reader is gone.
        """
        with _reader_there():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, to its last line.

        Raises:
            click.exceptions.Exit: The reader of the output is gone.
        """
        with _reader_there():
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections with their commands into the help."""
        width = max(map(len, _COMMANDS))
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), sentence) for name, (_, sentence) in commands.items()])
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{code:>3}".ljust(width), words) for code, words in EXIT_CODES.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[click.shell_completion.CompletionItem]:
        """Completions of a command's name with its sentence, without importing any; of options as click has them."""
        options = click.Command.shell_complete(self, ctx, incomplete)
        return options + [
            click.shell_completion.CompletionItem(name, help=sentence)
            for name, (_, sentence) in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
