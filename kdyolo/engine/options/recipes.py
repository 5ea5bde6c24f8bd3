"""Training recipes: shipped ones by name, own ones by path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from kdyolo.errors import ConfigError
from kdyolo.utils.shipped_files import shipped
from kdyolo.utils.text import did_you_mean
from kdyolo.utils.yaml_files import load_yaml


def load_recipe(name: str) -> dict[str, Any]:
    """Settings of a shipped recipe (by name) or of a YAML file.

    Raises:
        ConfigError: The recipe cannot be found, or is no mapping of settings.
    """
    files = shipped("recipes")
    path = files.get(f"{name}.yaml", Path(name))
    if not path.is_file():
        names = [Path(f).stem for f in files]
        raise ConfigError(
            f"recipe {name!r} not found. Expected a YAML file or one of {', '.join(names)}.{did_you_mean(name, names)}"
        )
    try:
        recipe = load_yaml(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"recipe {path}: not a YAML file ({str(e).splitlines()[0]}).") from e
    if not isinstance(recipe, dict) or not all(isinstance(k, str) for k in recipe):
        raise ConfigError(f"recipe {path}: expected 'setting: value' lines.")
    return recipe
