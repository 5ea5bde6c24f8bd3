"""One kind of command for all: KEY=VALUE, every mistake in one message, options in groups, how much is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from kdyolo.cli.parsing.key_values import WordSorter, several
from kdyolo.cli.parsing.output import telling
from kdyolo.errors import Mistakes

COMMON = "Help and output"
_COMMON_FLAGS = {"--help", "--version", "--debug", "--quiet", "--verbose", "--json"}


class GroupedOption(click.Option):
    """An option that the help lists in a group.

    Attributes:
        group: Title of the group.
    """

    def __init__(self, *args: Any, group: str = "Options", **kwargs: Any) -> None:
        self.group = group
        super().__init__(*args, **kwargs)


class SharedCommand(click.Command):
    """A command as all of kdyolo's are.

    Attributes:
        order: Options that words without a key stand for, one after the other.
        check: Finds the mistakes in what was read, for a command line that has others already.
    """

    def __init__(
        self,
        *args: Any,
        order: Sequence[str] = (),
        check: Callable[[Mapping[str, Any]], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.order, self.check = tuple(order), check

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line.

        Raises:
            click.UsageError: Every mistake in it, in one message.
        """
        if ctx.resilient_parsing:  # completion: words may be half written
            return super().parse_args(ctx, args)
        line = WordSorter(self.get_params(ctx), self.order).sort(args)
        mistakes = line.mistakes
        for param in self.get_params(ctx):
            _gather(param, mistakes)
        try:
            rest = super().parse_args(ctx, [*line.options, *line.others])
        except click.UsageError as e:  # of words that are too many, once all others have been read
            mistakes.append(e.format_message())
        if not mistakes:
            return rest
        if self.check:
            others = Mistakes()
            with others.gathered():
                self.check(ctx.params)
            mistakes += others.found
        raise click.UsageError(several(list(dict.fromkeys(mistakes))), ctx)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, telling as much as was asked for."""
        with telling(ctx):
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options into the help, group by group; what every command has comes last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and isinstance(param, click.Option):
                title = COMMON if _COMMON_FLAGS & set(param.opts) else getattr(param, "group", "Options")
                groups.setdefault(title, []).append(record)
        groups[COMMON] = groups.pop(COMMON)  # to the end
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _gather(param: click.Parameter, mistakes: list[str]) -> None:
    """Let a parameter that is wrong or missing add to the mistakes, where click would stop at the first."""

    def handle(ctx: click.Context, opts: Mapping[str, Any], args: list[str]) -> tuple[Any, list[str]]:
        try:
            return type(param).handle_parse_result(param, ctx, opts, args)
        except click.BadParameter as e:  # also one that is missing
            e.param = e.param or param
            mistakes.append(e.format_message())
            return None, args

    param.handle_parse_result = handle  # type: ignore[method-assign]
