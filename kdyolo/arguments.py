"""Arguments of public functions: held to the kinds that the signature says, before anything is done with them.

People call from notebooks, with numbers of NumPy, a single path where a list is meant, or None by mistake. What has one
meaning is taken so; all that is left is named in one error, instead of the first one somewhere inside.
"""

from __future__ import annotations

import inspect
import math
import numbers
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from kdyolo.errors import ConfigError
from kdyolo.utils.text import quoted

P = ParamSpec("P")
T = TypeVar("T")

_NAMES = {str: "a text", Path: "a path", int: "a whole number", float: "a number", bool: "True or False"}
_MANY = {str: "texts", Path: "paths", int: "whole numbers", float: "numbers"}
_PLAIN = (str, bytes, int, float, list, tuple, dict, set, Path, type(None))  # whose text says more than their type
_WRONG = object()


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """A public function that refuses arguments of other kinds than its signature says.

    Numbers of NumPy become Python's, any :class:`os.PathLike` a path, and any iterable the list that is expected. What
    is annotated with something else than texts, paths, numbers, flags, literals, lists and classes is left as it is,
    and so are keywords by ``**`` but for numbers of NumPy: they have checks of their own.

    Raises:
        ConfigError: Arguments are of other kinds; the error names all of them.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        signature, kinds = _signature(function)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python says best what is missing or too much
        mistakes: list[str] = []
        for name, value in bound.arguments.items():
            how = signature.parameters[name].kind
            if how is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: plain(each) for key, each in value.items()}
            elif name in kinds:
                given = value if how is inspect.Parameter.VAR_POSITIONAL else (value,)
                taken = [_taken(each, kinds[name]) for each in given]
                mistakes += [
                    f"{name}: expected {_expected(kinds[name])}, found {_found(each)}."
                    for each, found in zip(given, taken, strict=True)
                    if found is _WRONG
                ]
                bound.arguments[name] = tuple(taken) if given is value else taken[0]
        if mistakes:
            raise ConfigError(mistakes)
        return function(*bound.args, **bound.kwargs)

    return call


def plain(value: Any) -> Any:
    """A number of NumPy as Python's own; anything else as it is."""
    if isinstance(value, numbers.Number) and type(value).__module__ == "numpy":
        return value.item()  # type: ignore[attr-defined]
    return bool(value) if type(value).__module__ == "numpy" and type(value).__name__.startswith("bool") else value


@cache
def _signature(function: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    """The signature of a function, and parameter → kind, of those that can be checked."""
    signature = inspect.signature(function)
    names = inspect.unwrap(function).__globals__
    kinds = {
        name: eval(parameter.annotation, names) if isinstance(parameter.annotation, str) else parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.annotation is not parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    }
    return signature, kinds


def _taken(value: Any, kind: Any) -> Any:
    """The value as the kind has it, or ``_WRONG``."""
    members = _members(kind)
    return next((found for member in members if (found := _as(value, member)) is not _WRONG), _WRONG)


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _as(value: Any, kind: Any) -> Any:
    if kind is Any:
        return value
    value, origin = plain(value), get_origin(kind)
    if kind in (None, type(None)):
        return value if value is None else _WRONG
    if kind is bool:
        return value if isinstance(value, bool) else _WRONG
    if kind is int:
        return int(value) if _is_real(value, numbers.Integral) else _WRONG
    if kind is float:
        return value if _is_real(value, numbers.Real) and math.isfinite(value) else _WRONG
    if kind is Path:
        return _path(value)
    if kind is str:
        return value if isinstance(value, str) and "\0" not in value else _WRONG
    if origin is Literal:
        same = [each for each in get_args(kind) if type(each) is type(value) and each == value]
        return same[0] if same else _WRONG
    if origin is Sequence:
        return _list(value, get_args(kind)[0])
    if origin is Mapping:
        return value if isinstance(value, Mapping) else _WRONG
    if origin is Callable:
        return value if callable(value) else _WRONG
    if origin is None and inspect.isclass(kind) and not getattr(kind, "_is_protocol", False):
        return value if isinstance(value, kind) else _WRONG
    return value


def _is_real(value: Any, kind: type) -> bool:
    """Whether a value is a number of some kind; True and False are numbers to Python alone."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _path(value: Any) -> Any:
    if not isinstance(value, os.PathLike) or not isinstance(text := os.fspath(value), str) or "\0" in text:
        return _WRONG
    return value if isinstance(value, Path) else Path(text)


def _list(value: Any, kind: Any) -> Any:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping, os.PathLike)):
        return _WRONG
    taken = [_taken(each, kind) for each in value]
    return _WRONG if any(each is _WRONG for each in taken) else taken


def _expected(kind: Any) -> str:
    """What is expected, in words: ``"a whole number, or None"``."""
    members = _members(kind)
    if Path in members:  # a path may be given as text
        members = tuple(member for member in members if member is not str)
    named = [_word(member) for member in members if member is not type(None)]
    return " or ".join(named) + (", or None" if type(None) in members else "")


def _word(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    if origin is Sequence:
        last = _members(get_args(kind)[0])[-1]
        return f"a list of {_MANY.get(last) or f'{last.__name__}s'}"
    if origin in (Mapping, Callable):
        return "a dictionary" if origin is Mapping else "a class"
    return _NAMES.get(kind) or f"a {getattr(kind, '__name__', kind)}"


def _found(value: Any) -> str:
    return quoted(value) if isinstance(plain(value), _PLAIN) else f"a {type(value).__name__}"
