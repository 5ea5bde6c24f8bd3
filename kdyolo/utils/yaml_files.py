"""YAML files of names and values, with one form of error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from kdyolo.errors import RunError

_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML has it: kdyolo ps reads many files


def read_mapping(path: Path, form: type | None = None) -> dict[str, Any] | None:
    """A YAML file of names and values; None if there is no such file.

    Args:
        path: To read.
        form: A ``msgspec`` type that says of which kind some values are.

    Raises:
        RunError: Something else is in it.
    """
    if not path.is_file():
        return None
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_YAML)
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise RunError(f"{path}: damaged ({str(e).splitlines()[0]}). Expected 'name: value' lines.") from e
    if not isinstance(content, dict):
        raise RunError(f"{path}: damaged. Expected 'name: value' lines, found {type(content).__name__}.")
    if form is not None:
        check_values(path, content, form)
    return content


def check_values(path: Path, content: dict[str, Any], form: type) -> None:
    """Refuse a file whose values are not of the kind that the rest relies on."""
    try:
        msgspec.convert(content, form)
    except msgspec.ValidationError as e:
        raise RunError(f"{path}: damaged ({e}). Restore it, or leave the run out.") from e
