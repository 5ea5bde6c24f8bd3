"""KEY=VALUE on the command line of any command: what names an option becomes that option, as ``yolo`` has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from kdyolo.errors import listed_mistakes
from kdyolo.utils.text import did_you_mean, quoted

PAIR = re.compile(r"([A-Za-z_][\w-]*)\s*=\s*(.*)", re.DOTALL)
KEY = re.compile(r"[A-Za-z_][\w-]*")
OPTION = re.compile(r"-[^\d.]")  # and no negative number
TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


@dataclass
class CommandLine:
    """A command line, its words sorted.

    Attributes:
        options: Options with their values, also those that were given as KEY=VALUE.
        others: What is no option: files, and settings that the command passes on.
        given: Names of the parameters given so far.
        paired: Those of them that were given as KEY=VALUE.
        mistakes: What is wrong with single words, a sentence each.
    """

    options: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    paired: set[str] = field(default_factory=set)
    mistakes: list[str] = field(default_factory=list)


class WordSorter:
    """Sorts the words of one command's line by its parameters."""

    def __init__(self, params: Sequence[click.Parameter], order: Sequence[str]) -> None:
        """Know the parameters.

        Args:
            params: Parameters of the command, ``--help`` among them.
            order: Names of options that words without a key stand for, one after the other, e.g. ``("model", "data")``.
        """
        options = [param for param in params if isinstance(param, click.Option)]
        self._flags = {flag: option for option in options for flag in (*option.opts, *option.secondary_opts)}
        self._arguments = {str(param.name): param for param in params if isinstance(param, click.Argument)}
        self._named = {name: option for option in options if option.expose_value for name in option_keys(option)}
        self._order, self._passes_on = order, "settings" in self._arguments

    def sort(self, words: Sequence[str]) -> CommandLine:
        """Sort the words behind a command's name, and note every mistake in them."""
        found, rest = CommandLine(), _joined(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                found.others += ["--", *rest]
                break
            if len(word) > 1 and word.startswith("-"):
                self._take_option(word, rest, found)
            elif (pair := PAIR.fullmatch(word)) and not self._is_other(pair[1], word):
                self._take_pair(pair[1].replace("-", "_"), pair[2], word, found)
            elif free := [name for name in self._order if name not in found.given]:
                self._add(self._named[free[0]], word, found)
            else:
                found.others.append(word)
        return found

    def _is_other(self, key: str, word: str) -> bool:
        """Whether a word with "=" in it is no setting: it names a file, and its key nothing that the command knows."""
        name = key.replace("-", "_")
        known = name in self._named or name in self._arguments or self._passes_on
        return not known and Path(word).exists()

    def _take_option(self, word: str, rest: list[str], found: CommandLine) -> None:
        """Take an option, and its value, which may be the next word."""
        flag, equals, _ = word.partition("=")
        if not word.startswith("--") and flag not in self._flags:
            flag, equals = word[:2], word[2:]  # -n5, or several flags in one word
        option = self._flags.get(flag)
        if option is None:
            hint = " Ultralytics' own settings are given as KEY=VALUE, e.g. lr0=0.01." if self._passes_on else ""
            found.mistakes.append(f"No such option: {quoted(flag)}.{did_you_mean(flag, list(self._flags))}{hint}")
            if not equals and rest and not rest[0].startswith("-") and not PAIR.fullmatch(rest[0]):
                rest.pop(0)  # its value
            return
        if word.startswith("--") and equals and option.is_flag:  # --errors=False
            self._add(option, word.partition("=")[2], found)
            return
        if str(option.name) in found.paired and not option.multiple:
            found.mistakes.append(f"{option.name} is given twice.")
        found.given.add(str(option.name))
        found.options.append(word)
        if not equals and (alone := _value_alone(option)):
            found.options[-1] = f"{word}={alone}"
        elif not equals and not (option.is_flag or option.count):
            if rest:
                found.options.append(rest.pop(0))
            else:
                found.options.pop()
                found.mistakes.append(f"Option {quoted(flag)} requires an argument.")

    def _take_pair(self, name: str, value: str, word: str, found: CommandLine) -> None:
        if not value:
            found.mistakes.append(f"expected KEY=VALUE, found {quoted(word)}.")
        elif option := self._named.get(name):
            self._add(option, _unquoted(value), found)
            found.paired.add(str(option.name))
        elif name in self._arguments and name != "settings":
            found.others.append(_unquoted(value))
        elif self._passes_on:
            found.others.append(word)
        else:
            known = [*self._named, *self._arguments]
            found.mistakes.append(f"unknown setting {quoted(name)}.{did_you_mean(name, known)}")

    def _add(self, option: click.Option, value: str, found: CommandLine) -> None:
        name = str(option.name)
        if name in found.given and not option.multiple:
            found.mistakes.append(f"{name} is given twice.")
            return
        found.given.add(name)
        flag = max(option.opts, key=len)
        alone = _value_alone(option)
        if alone and value.lower() in TRUE:
            found.options.append(f"{flag}={alone}")
        elif not option.is_flag and not (alone and value.lower() in FALSE):
            found.options.append(f"{flag}={value}")
        elif alone:
            return
        elif value.lower() in TRUE:
            found.options.append(flag)
        elif value.lower() not in FALSE:
            found.mistakes.append(f"{name} takes True or False; found {quoted(value)}.")


def _joined(words: Sequence[str]) -> list[str]:
    """The words, those that a shell took apart joined again: ``lr0 = 0.1``, ``lr0= 0.1``, ``classes=[0, 1]``."""
    found, rest = list[str](), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*found, word, *rest]
        if KEY.fullmatch(word) and rest and rest[0].startswith("="):
            word += rest.pop(0)
        key, equals, value = word.partition("=")
        if equals and KEY.fullmatch(key):
            if not value and rest and not OPTION.match(rest[0]) and not PAIR.fullmatch(rest[0]):
                word += rest.pop(0)
            while word.count("[") > word.count("]") and any("]" in later for later in rest):
                word += rest.pop(0)
        found.append(word)
    return found


def _unquoted(value: str) -> str:
    """A value without the quotes that it was given in, as Ultralytics reads it."""
    quotes = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quotes and not Path(value).exists() else value


def _value_alone(option: click.Option) -> str:
    """The value of an option that is given without one, where that may be; it never takes the next word."""
    return option.flag_value if isinstance(option.flag_value, str) and not option.is_flag else ""


def several(mistakes: Sequence[str]) -> str:
    """One message of one mistake or several."""
    return mistakes[0] if len(mistakes) == 1 else listed_mistakes(mistakes, len(mistakes))


def option_keys(option: click.Option) -> set[str]:
    """Keys that stand for an option: its name, or its flags where none is called like it.

    ``freeze`` is no key of ``--freeze, --freeze-epochs``, because Ultralytics has a setting of that name.
    """
    flags = {flag.lstrip("-").replace("-", "_") for flag in option.opts if flag.startswith("--")}
    return {str(option.name)} if option.name in flags else flags
