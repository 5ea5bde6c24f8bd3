"""Values that no honest file has, and documents with one of them in each of their places, as JSON and as YAML."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import yaml

Text = Callable[[], str]
_TOKEN = "TOKEN-OF-THE-CORPUS"

# Name → text of the value, in JSON.
JSON_VALUES: dict[str, str] = {
    "null": "null",
    "true": "true",
    "minus one": "-1",
    "zero": "0",
    "half": "0.5",
    "1e400": "1e400",
    "NaN": "NaN",
    "infinity": "-Infinity",
    "64 bits and one": "18446744073709551616",
    "63 bits": "9223372036854775808",
    "5000 digits": "9" * 5000,
    "empty text": '""',
    "number as text": '"1"',
    "text": '"evil"',
    "escapes": '"\\u001b]0;evil\\u0007\\u009b2J\\u202e"',
    "newline": '"a\\nb.jpg"',
    "zero byte": '"a\\u0000.jpg"',
    "lone surrogate": '"\\ud800"',
    "path upwards": '"../../../../../../etc/passwd"',
    "absolute path": '"/etc/passwd"',
    "10 MB": '"' + "n" * 10_000_000 + '"',
    "empty list": "[]",
    "empty object": "{}",
    "list of lists": "[[[1]]]",
    "deep": "[" * 20_000 + "]" * 20_000,
    "missing": "",
}

# The same for YAML, in flow style; what YAML alone has at the end.
YAML_VALUES: dict[str, str] = {
    **{name: value for name, value in JSON_VALUES.items() if name not in ("NaN", "infinity", "10 MB", "deep")},
    "NaN": ".nan",
    "infinity": "-.inf",
    "positive infinity": ".inf",
    "1 MB": '"' + "n" * 1_000_000 + '"',
    "deep": "[" * 3_000 + "]" * 3_000,
    "date": "2026-11-26",
    "octal": "0o17",
    "sexagesimal": "190:20:30",
    "object": "!!python/object/apply:os.mkdir [MARKER]",
    "name": "!!python/name:os.mkdir",
    "binary": "!!binary aGVsbG8=",
    "set": "!!set {a, b}",
    "alias of itself": "&a [*a]",
    "code": "\"__import__('os').mkdir('MARKER')\"",
    "expression": '"${HOME} $(mkdir MARKER) `mkdir MARKER` {0.__class__}"',
    "URL": '"https://evil.invalid/x.zip"',
    "zip": '"evil.zip"',
    "device": '"/dev/zero"',
    "10,000 items": "[" + ", ".join(map(str, range(10_000))) + "]",
}

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything in nested dictionaries and lists, of lists the first item only; () is the whole."""
    yield path
    if isinstance(document, dict):
        for key in document:
            yield from places(document[key], (*path, key))
    elif isinstance(document, list) and document:
        yield from places(document[0], (*path, 0))


def _with_token(document: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return _TOKEN
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = _TOKEN
    return changed


def _without(document: Any, path: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return changed


def json_mutants(document: Any) -> Iterator[tuple[str, Text]]:
    """The document with each value in each place: a name, and what makes the text."""
    for path in places(document):
        for name, value in JSON_VALUES.items():
            if path or value:
                where = ".".join(map(str, path)) or "whole"
                yield f"{where}: {name}", partial(_changed, document, path, value, json.dumps, f'"{_TOKEN}"')


def yaml_mutants(document: Any) -> Iterator[tuple[str, Text]]:
    """The same in YAML, and the documents that only YAML has."""
    for path in places(document):
        for name, value in YAML_VALUES.items():
            if path or value:
                where = ".".join(map(str, path)) or "whole"
                yield f"{where}: {name}", partial(_changed, document, path, value, _dumped, _TOKEN)
    for name, text in yaml_documents(_dumped(document)):
        yield name, partial(str, text)


def _changed(document: Any, path: tuple[Any, ...], value: str, dump: Callable[[Any], str], token: str) -> str:
    if not value:
        return dump(_without(document, path))
    return dump(_with_token(document, path)).replace(token, value)


def _dumped(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, width=10**6, default_flow_style=False)


def yaml_documents(sound: str) -> Iterator[tuple[str, str]]:
    """Texts that are no plain YAML document."""
    yield "bomb alone", BOMB
    yield "bomb beside", sound + "\n" + BOMB
    yield "merge keys", "<<: &a {b: 1}\n" + "".join(f"k{i}: {{<<: *a}}\n" for i in range(999)) + sound
    yield "two documents", f"{sound}\n---\n{sound}"
    yield "key twice", sound + sound
    yield "tabs", sound.replace(" ", "\t")
    yield "not YAML", "a: [1, 2\nb: }"
    yield "10,000 unclosed", "[" * 10_000
    yield "1 MB of dashes", "- " * 500_000
    yield "100,000 keys", "".join(f"k{i}: {i}\n" for i in range(100_000))
    yield "directive", f"%YAML 9.9\n---\n{sound}"
    yield "complex key", f"? [a, b]\n: c\n{sound}"
    yield "control characters", sound + '\nmore: "\\e]0;evil\\a\\x9b"\n'
    yield "raw escape", sound + "\nmore: \x1b]0;evil\x07\n"
    yield "empty", ""
    yield "comment", "# nothing\n"
