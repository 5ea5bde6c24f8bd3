"""YAML files read safely and with bounds: any document, or a mapping with one form of error."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from kdyolo.errors import KDYOLOError, RunError
from kdyolo.utils.plain_files import DEEPEST, read_file
from kdyolo.utils.text import quoted, shortened

MOST_BYTES = 4 << 20  # of a YAML file; names of 20,000 classes have a tenth of it
MOST_VALUES = 200_000  # in a document, what stands behind aliases counted as often as it is named
MOST_DIGITS = 100  # of a number
_VALUE_LENGTH = 64  # characters of a text that count as one value more

_TAG = "tag:yaml.org,2002:"
_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it
_Construct = Callable[[Any, yaml.ScalarNode], Any]


class _Plain(_FAST):  # type: ignore[misc, valid-type]
    """YAML whose values are those that JSON has: dates stay text, sets and binary data are refused."""


class _UniqueKeys(_Plain):
    """YAML in which a key given twice is a mistake; plain YAML would take the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != f"{_TAG}merge"]
        counts = Counter(key for key in keys if isinstance(key, Hashable))  # others are refused below
        if twice := [str(key) for key, count in counts.items() if count > 1]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {shortened(', '.join(twice), 200)} given twice")
        found: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return found


def _number(construct: _Construct) -> _Construct:
    """A constructor of numbers for which their length is no trap: Python reads long ones in quadratic time, or not."""

    def bounded(loader: Any, node: yaml.ScalarNode) -> Any:
        if len(node.value) > MOST_DIGITS:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: a number of {len(node.value)} digits")
        return construct(loader, node)

    return bounded


_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_constructors = {
    key: value for key, value in _FAST.yaml_constructors.items() if key in (None, *map(_TAG.__add__, _KINDS))
}
_constructors |= {key: _number(_constructors[key]) for key in (f"{_TAG}int", f"{_TAG}float")}
_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != f"{_TAG}timestamp"]
    for first, found in _FAST.yaml_implicit_resolvers.items()
}
_Plain.yaml_constructors = _constructors
_Plain.yaml_implicit_resolvers = _resolvers


def load_yaml(text: str | bytes, *, unique_keys: bool = False) -> Any:
    """The document in a YAML text, made of plain types only: mappings, lists, texts, numbers, booleans, None.

    Args:
        text: The YAML, as text or as the bytes of a file.
        unique_keys: Whether a key that is given twice in one mapping is a mistake.

    Returns:
        What the text holds: a mapping, a list, a single value, or None if it is empty.

    Raises:
        yaml.YAMLError: The bytes are no text, the text is no YAML, a key is given twice, or it holds more than
            :data:`MOST_VALUES` values or deeper than :data:`DEEPEST`, as what stands for itself many times over does.
            Its message shows the place.
    """
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"expected at most {MOST_BYTES >> 20} MiB, found more")
    if isinstance(text, bytes) and not _is_text(text):
        raise yaml.YAMLError("expected text in UTF-8, found another kind of file")
    try:
        _check_extent(text)
        return yaml.load(text, _UniqueKeys if unique_keys else _Plain)
    # What PyYAML lets through where a tag does not fit its value, e.g. !!bool x.
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as e:
        raise yaml.YAMLError(f"a value that is none of its kind: {quoted(e)}") from e


def _is_text(content: bytes) -> bool:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # which YAML allows
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_extent(text: str | bytes) -> None:
    """Refuse a document that is too deep or too large once its aliases are followed, before anything of it is built."""
    sizes: dict[str, int] = {}  # anchor → number of values that it stands for
    anchors: list[str | None] = []
    counts = [0]
    for event in yaml.parse(text, _FAST):
        alias = event.anchor or "" if isinstance(event, yaml.AliasEvent) else None
        if isinstance(event, yaml.CollectionEndEvent):
            count = counts.pop()
            if anchor := anchors.pop():
                sizes[anchor] = count
            counts[-1] += count
        elif isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            counts.append(1)
        elif isinstance(event, yaml.ScalarEvent):
            size = 1 + len(event.value) // _VALUE_LENGTH
            if event.anchor:
                sizes[event.anchor] = size
            counts[-1] += size
        elif alias is not None:
            if alias in anchors:
                raise _too_much(event, f"*{shortened(alias, 40)} stands within itself")
            counts[-1] += sizes.get(alias, 1)
        if len(anchors) > DEEPEST:
            raise _too_much(event, f"more than {DEEPEST} lists and mappings within each other")
        if counts[-1] > MOST_VALUES:
            what = "these are" if alias is None else f"*{shortened(alias, 40)} makes"
            raise _too_much(event, f"{what} more than {MOST_VALUES:,} values. Expected a small file")


def _too_much(event: yaml.Event, what: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {event.start_mark.line + 1}: {what}" if event.start_mark else what)


def read_yaml(path: Path, *, unique_keys: bool = False, error: type[KDYOLOError] = RunError) -> Any:
    """The document in a YAML file; None if there is no such file, or nothing in it.

    Args:
        path: The file.
        unique_keys: Whether a key that is given twice in one mapping is a mistake.
        error: The kind of error to raise.

    Raises:
        KDYOLOError: Of the kind asked for: the file cannot be read or is no YAML; see :func:`load_yaml`.
    """
    data = read_file(path, most=MOST_BYTES, error=error)
    try:
        return None if data is None else load_yaml(data, unique_keys=unique_keys)
    except yaml.YAMLError as e:
        raise error(f"{path}: not a YAML file ({quoted(e)}).") from e


def read_mapping(path: Path, form: type | None = None, *, error: type[KDYOLOError] = RunError) -> dict[str, Any] | None:
    """The content of a YAML file of names and values; None if there is no such file.

    Args:
        path: The file.
        form: A ``msgspec`` type that says of which kind some values are; other values may be there too.
        error: The kind of error to raise.

    Raises:
        KDYOLOError: Of the kind asked for: the file is no YAML, no mapping, or a value is of another kind.
    """
    data = read_file(path, most=MOST_BYTES, error=error)
    if data is None:
        return None
    try:
        content = load_yaml(data)
    except yaml.YAMLError as e:
        raise error(f"{path}: damaged ({quoted(e)}). Expected 'name: value' lines.") from e
    if not isinstance(content, dict):
        raise error(f"{path}: damaged. Expected 'name: value' lines, found {type(content).__name__}.")
    if other := [key for key in content if not isinstance(key, str)]:
        raise error(f"{path}: damaged. Expected names before the colons, found {quoted(other[0])}.")
    if form is not None:
        check_values(path, content, form, error=error)
    return content


def check_values(path: Path, content: dict[str, Any], form: type, *, error: type[KDYOLOError] = RunError) -> None:
    """Refuse a file whose values are not of the kind that the rest relies on.

    Args:
        path: The file, for the message.
        content: What was read from it.
        form: A ``msgspec`` type that says of which kind some values are.
        error: The kind of error to raise.

    Raises:
        KDYOLOError: Of the kind asked for: a value is of another kind.
    """
    try:
        msgspec.convert(content, form)
    except (msgspec.ValidationError, OverflowError) as e:  # the second for whole numbers beyond any float
        raise error(f"{path}: damaged ({quoted(e)}). Restore it, or leave the run out.") from e
