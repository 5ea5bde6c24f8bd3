"""Base of every command: the group, ``--debug`` and examples in the help, KEY=VALUE settings, printing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from kdyolo._version import __version__
from kdyolo.cli.sections import SectionedGroup
from kdyolo.errors import collect_mistakes
from kdyolo.utils.text import json_text, printable_lines, quoted

F = TypeVar("F", bound=Callable[..., Any])

EVALUATORS = ("faster-coco-eval", "pycocotools")  # as in kdyolo.metrics.coco_metrics, which is heavy to import


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdyolo")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """From a distilled backbone to a COCO detector on Ultralytics.

    \b
    kdyolo convert COCO2017/ --out datasets/coco
    kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --freeze 50
    yolo val model=runs/detect/train/weights/best.pt data=datasets/coco/coco.yaml
    """  # noqa: D301 - click wants the backspace itself


def command(examples: str, cls: type[click.Command] = click.Command) -> Callable[[F], click.Command]:
    """Make a function a subcommand with ``--debug``, and examples below its help that keep their lines.

    Args:
        examples: Lines of commands, each indented by two blanks.
        cls: Class of the command.
    """

    def decorate(function: F) -> click.Command:
        function = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(
            function
        )
        epilog, settings = f"\b\nExamples:\n{examples}", {"max_content_width": 100}
        return cli.command(cls=cls, epilog=epilog, context_settings=settings)(function)

    return decorate


evaluator_option = click.option(
    "--evaluator",
    type=click.Choice(EVALUATORS),
    default=EVALUATORS[0],
    show_default=True,
    help="What computes the official metrics; pycocotools is the reference.",
)


def key_values(settings: Sequence[str], taken: dict[str, Any]) -> dict[str, Any]:
    """Settings in the form ``("lr0=0.01",)`` → ``{"lr0": 0.01}``, read as Ultralytics reads its own command line.

    Args:
        settings: Texts of the form ``key=value``.
        taken: What was given as options already.

    Raises:
        ConfigError: A text is not ``key=value``, or its key was given already; all such mistakes at once.
    """
    from ultralytics.cfg import parse_key_value_pair

    found: dict[str, Any] = {}
    with collect_mistakes() as mistakes:
        for text in settings:
            key, equals, value = text.partition("=")
            if not (key and equals and value):
                mistakes.add(f"expected KEY=VALUE, found {quoted(text)}.")
            elif key in taken or key in found:
                mistakes.add(f"{key} is given twice.")
            else:
                found.update([parse_key_value_pair(text)])
    if isinstance(taken.get("batch"), str):  # whole number, or a share of memory as Ultralytics allows
        found.update([parse_key_value_pair(f"batch={taken['batch']}")])
    return found


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
    click.echo(printable_lines(str(text), colours=colours), err=err, nl=nl)


@contextmanager
def escaped_log() -> Iterator[None]:
    """Let what Ultralytics' logger prints, its own lines and ours, pass as :func:`echo` does; colours stay."""
    logger = logging.getLogger("ultralytics")

    def escape(record: logging.LogRecord) -> bool:
        record.msg, record.args = printable_lines(record.getMessage(), colours=True), None
        return True

    logger.addFilter(escape)
    try:
        yield
    finally:
        logger.removeFilter(escape)


def print_result(result: str | Mapping[str, Any] | Sequence[Any]) -> None:
    """Print a table as it is, plain data as JSON."""
    echo(result if isinstance(result, str) else json_text(result))
