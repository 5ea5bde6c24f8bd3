"""YAML files read safely: any document, or a mapping with one form of error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from kdyolo.errors import KDYOLOError, RunError

_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is a mistake; plain YAML would take the last and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [str(key) for key, count in Counter(keys).items() if count > 1]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {', '.join(twice)} given twice")
        return super().construct_mapping(node, deep)


def load_yaml(text: str | bytes, *, unique_keys: bool = False) -> Any:
    """The document in a YAML text, made of plain types only.

    Args:
        text: The YAML, as text or as the bytes of a file.
        unique_keys: Whether a key that is given twice in one mapping is a mistake.

    Returns:
        What the text holds: a mapping, a list, a single value, or None if it is empty.

    Raises:
        yaml.YAMLError: The text is no YAML, or a key is given twice. Its message shows the place in the text.
    """
    return yaml.load(text, _UniqueKeys if unique_keys else yaml.SafeLoader)


def read_mapping(path: Path, form: type | None = None, *, error: type[KDYOLOError] = RunError) -> dict[str, Any] | None:
    """The content of a YAML file of names and values; None if there is no such file.

    It is parsed by libyaml where PyYAML has it, as ``kdyolo ps`` reads many files; its messages have one line.

    Args:
        path: The file.
        form: A ``msgspec`` type that says of which kind some values are; other values may be there too.
        error: The kind of error to raise.

    Raises:
        KDYOLOError: Of the kind asked for: the file is no YAML, no mapping, or a value is of another kind.
    """
    if not path.is_file():
        return None
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_FAST)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise error(f"{path}: damaged ({str(e).splitlines()[0]}). Expected 'name: value' lines.") from e
    if not isinstance(content, dict):
        raise error(f"{path}: damaged. Expected 'name: value' lines, found {type(content).__name__}.")
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
    except msgspec.ValidationError as e:
        raise error(f"{path}: damaged ({e}). Restore it, or leave the run out.") from e
