"""Options from a YAML file, ``--config``: plain ``option: value`` lines, or the ``kdyolo.yaml`` that a run has left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.files import ARGS_NAME, RECORD_NAME
from kdyolo.utils.text import quoted
from kdyolo.utils.yaml_files import read_yaml

# What a record says of its run alone: a new one has a folder of its own, and what it starts from follows from options.
OF_THE_RUN = ("work_dir", "save_dir", "mode", "task", "pretrained", "resume", "exist_ok")
UNSAFE = ("trust", "run_download")


def read_config(file: str | Path, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a config file.

    Args:
        file: A YAML file, or the folder of a run, whose record is taken.
        defaults: Option of the command → its default; what a record holds at its default was not asked for.

    Returns:
        Option → value, both as a Python call has them; what they mean is not checked here.

    Raises:
        RunError: There is no such file.
        ConfigError: The file cannot be read, is no mapping, or asks to run code of others.
    """
    path = Path(file) / RECORD_NAME if Path(file).is_dir() else Path(file)
    content = read_yaml(path, unique_keys=True, error=ConfigError)
    if content is None and not path.is_file():
        raise RunError(f"--config {path}: no such file.")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"--config {path}: expected 'option: value' lines, found {quoted(content)}.")
    if is_record(content):
        return _asked(content, defaults)
    if unsafe := [key for key in UNSAFE if content.get(key)]:
        raise ConfigError(f"--config {path}: {unsafe[0]} lets code of others run, so no file can ask for it.")
    return content


def teacher_of(file: str | Path) -> str | None:
    """The teacher of a distillation as it was given, its weights file too; None if the config is not in its folder."""
    path = Path(file)
    arguments = read_yaml((path if path.is_dir() else path.parent) / ARGS_NAME, error=ConfigError)
    found = arguments.get("teacher") if isinstance(arguments, dict) else None
    return found if isinstance(found, str) and (path.is_dir() or path.name == RECORD_NAME) else None


def is_record(content: Mapping[str, Any]) -> bool:
    """Whether a YAML file is the record of a run."""
    return all(isinstance(content.get(key), dict) for key in ("settings", "asked", "versions"))


def _asked(record: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was asked for, by its record."""
    own = {key: record["settings"][key] for key in defaults if key in record["settings"]}
    own = {key: value for key, value in own.items() if value != defaults[key]}
    found = {"model": record.get("model"), "data": record.get("data"), **record["asked"], **own}
    return {key: value for key, value in found.items() if value is not None and key not in (*OF_THE_RUN, *UNSAFE)}
