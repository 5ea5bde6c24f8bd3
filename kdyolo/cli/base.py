"""Base of every command: the group, options that all have, examples in the help, settings of Ultralytics, printing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from kdyolo._version import __version__
from kdyolo.cli.parsing.commands import GroupedOption, SharedCommand
from kdyolo.cli.parsing.completion import complete_settings
from kdyolo.cli.parsing.output import QUIET, VERBOSE, echo, note, plain_data, print_if_quiet, print_result
from kdyolo.cli.sections import SectionedGroup
from kdyolo.errors import ConfigError, DatasetError, KDYOLOError, Mistakes, collect_mistakes
from kdyolo.utils.text import quoted

__all__ = [
    "F",
    "GroupedOption",
    "command",
    "complete_settings",
    "echo",
    "evaluator_option",
    "json_option",
    "note",
    "plain_data",
    "print_if_quiet",
    "print_result",
]

F = TypeVar("F", bound=Callable[..., Any])

EVALUATORS = ("faster-coco-eval", "pycocotools")  # as in kdyolo.metrics.coco_metrics, which is heavy to import


def common_options(function: F) -> F:
    """Give a command, and the group, the options that all have."""

    def keep(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
        def callback(ctx: click.Context, param: click.Parameter, value: bool) -> None:
            ctx.meta[name] = value or ctx.meta.get(name, False)

        return callback

    for flags, name, text in (
        (("--debug",), "", "Show the traceback of an error."),
        (("-v", "--verbose"), VERBOSE, "Show everything, Ultralytics' settings and layers too."),
        (("-q", "--quiet"), QUIET, "Show the result, warnings and errors only."),
    ):
        callback = keep(name) if name else None
        function = click.option(*flags, is_flag=True, expose_value=False, callback=callback, help=text)(function)
    return click.version_option(__version__, "-V", "--version", prog_name="kdyolo")(function)


@click.group(
    cls=SectionedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@common_options
def cli() -> None:
    """From a distilled backbone to a COCO detector on Ultralytics.

    \b
    kdyolo convert COCO2017/ --out datasets/coco
    kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --freeze 50
    yolo val model=runs/detect/train/weights/best.pt data=datasets/coco/coco.yaml

    \b
    Options may be given as KEY=VALUE, too:
    kdyolo val model=best.pt data=coco.yaml
    """  # noqa: D301 - click wants the backspace itself


def command(
    examples: str, *, order: Sequence[str] = (), check: Callable[[Mapping[str, Any]], None] | None = None
) -> Callable[[F], click.Command]:
    """Make a function a subcommand with the options that all have, and examples below its help that keep their lines.

    Args:
        examples: Lines of commands, each indented by two blanks.
        order: Options that words without a key stand for, one after the other, e.g. ``("model", "data")``.
        check: Finds further mistakes in what was given, where the command line has some already.
    """

    def decorate(function: F) -> click.Command:
        return cli.command(
            cls=SharedCommand,
            epilog=f"\b\nExamples:\n{examples}",
            context_settings={"max_content_width": 100},
            order=order,
            check=check,
        )(common_options(function))

    return decorate


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON; the rest to stderr.")

evaluator_option = click.option(
    "--evaluator",
    type=click.Choice(EVALUATORS),
    default=EVALUATORS[0],
    show_default=True,
    help="What computes the official metrics; pycocotools is the reference.",
)


def require_files(files: Mapping[str, str | None], error: type[KDYOLOError] = DatasetError) -> None:
    """Refuse files that are not there, all of them at once.

    Args:
        files: What names a file, e.g. ``"--data"`` → the file; None and "" are left out.
        error: The kind of error of a single one.

    Raises:
        KDYOLOError: Of the kind asked for: a file is missing; or all of them in a :class:`ConfigError`.
    """
    missing = [
        f"{what} {file}: {'expected a file, found a folder' if Path(file).is_dir() else 'no such file'}."
        for what, file in files.items()
        if file and not Path(file).is_file()
    ]
    if missing:
        raise error(missing[0]) if len(missing) == 1 else ConfigError(missing)


def there(*names: str) -> Callable[[Mapping[str, Any]], None]:
    """A check for :func:`command` that refuses files and folders that are not there.

    Args:
        *names: Arguments that name one, or several.
    """

    def check(given: Mapping[str, Any]) -> None:
        values = (given.get(name) or () for name in names)
        paths = [str(path) for value in values for path in (value if isinstance(value, (list, tuple)) else [value])]
        with collect_mistakes() as mistakes:
            mistakes.add(*(f"{path}: no such file or folder." for path in paths if not Path(path).exists()))

    return check


def key_values(settings: Sequence[str], taken: dict[str, Any], mistakes: Mistakes) -> dict[str, Any]:
    """Settings in the form ``("lr0=0.01",)`` → ``{"lr0": 0.01}``, read as Ultralytics reads its own command line.

    Options that are Ultralytics' settings of numbers are read in the same way.

    Args:
        settings: Texts of the form ``key=value``.
        taken: What was given as options already.
        mistakes: Where texts are noted that are not ``key=value``, or whose key was given already; they are left out.
    """
    from ultralytics.cfg import CFG_FLOAT_KEYS, CFG_FRACTION_KEYS, CFG_INT_KEYS, parse_key_value_pair

    found: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            mistakes.add(f"expected KEY=VALUE, found {quoted(text)}.")
        elif key.strip() in taken or key.strip() in found:
            mistakes.add(f"{key.strip()} is given twice.")
        else:
            found.update([parse_key_value_pair(text)])
    for key, value in taken.items():
        if isinstance(value, str) and key in {*CFG_FLOAT_KEYS, *CFG_FRACTION_KEYS, *CFG_INT_KEYS, "imgsz"}:
            found.update([parse_key_value_pair(f"{key}={value}")])
    return found
