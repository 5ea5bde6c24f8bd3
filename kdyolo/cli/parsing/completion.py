"""Completion of KEY=VALUE by the shell: keys of options and of Ultralytics' settings, and the values of options."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from kdyolo.cli.parsing.key_values import option_keys
from kdyolo.cli.parsing.shells import behind_equals


def complete_settings(ctx: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Completions of a word that is no option: a key as far as the ``=``, the value behind one, or a file."""
    key, equals, value = begun.partition("=")
    options = {name: p for p in ctx.command.params if isinstance(p, click.Option) for name in option_keys(p)}
    if equals:
        return behind_equals(_values(ctx, options.get(key), value), begun)
    from kdyolo.engine.options.keywords import UltralyticsKeywords

    keys = dict.fromkeys((*options, *UltralyticsKeywords.__annotations__))
    named = [CompletionItem(f"{name}=") for name in keys if begun and name.startswith(begun)]
    return named or [CompletionItem(begun, type="file")]


def _values(ctx: click.Context, option: click.Option | None, begun: str) -> list[CompletionItem]:
    """Values of an option; of any other setting perhaps a file."""
    if option is None:
        return [CompletionItem(begun, type="file")]
    if option.is_flag:
        return [CompletionItem(value) for value in ("True", "False") if value.startswith(begun)]
    return option.shell_complete(ctx, begun) or [CompletionItem(begun, type="file")]
