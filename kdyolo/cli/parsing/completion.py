"""Completion of KEY=VALUE by the shell: keys of options and of Ultralytics' settings, and the values of options."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from kdyolo.cli.parsing.key_values import option_keys


def complete_settings(ctx: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
    """Completions of a word that is no option: a key as far as the ``=``, the value behind one, or a file.

    Bash hands on what stands behind an ``=`` as a word of its own, and the key as the word before it.
    """
    key, equals, value = begun.partition("=")
    options = {name: p for p in ctx.command.params if isinstance(p, click.Option) for name in option_keys(p)}
    if equals:
        found = _values(ctx, options.get(key), value)
        return [CompletionItem(f"{key}={item.value}", type=item.type) for item in found]
    words = [word for word in ctx.params.get(str(param.name)) or () if word != "="]
    from kdyolo.engine.options.keywords import UltralyticsKeywords

    keys = dict.fromkeys((*options, *UltralyticsKeywords.__annotations__))
    if words and words[-1] in keys:
        return _values(ctx, options.get(words[-1]), begun)
    named = [CompletionItem(f"{name}=") for name in keys if begun and name.startswith(begun)]
    return named or [CompletionItem(begun, type="file")]


def _values(ctx: click.Context, option: click.Option | None, begun: str) -> list[CompletionItem]:
    """Values of an option; of any other setting perhaps a file."""
    if option is None:
        return [CompletionItem(begun, type="file")]
    if option.is_flag:
        return [CompletionItem(value) for value in ("True", "False") if value.startswith(begun)]
    return option.shell_complete(ctx, begun) or [CompletionItem(begun, type="file")]
