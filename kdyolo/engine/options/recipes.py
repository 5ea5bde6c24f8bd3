"""Training recipes: shipped ones by name, own ones by path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdyolo.errors import ConfigError
from kdyolo.utils.plain_files import is_file
from kdyolo.utils.shipped_files import shipped
from kdyolo.utils.text import did_you_mean, quoted
from kdyolo.utils.yaml_files import read_yaml


def load_recipe(name: str) -> dict[str, Any]:
    """Settings of a shipped recipe (by name) or of a YAML file.

    Raises:
        ConfigError: The recipe cannot be found, or is no mapping of settings.
    """
    files = shipped("recipes")
    path = files.get(f"{name}.yaml", Path(name))
    if not is_file(path):
        names = [Path(f).stem for f in files]
        raise ConfigError(
            f"recipe {quoted(name)} not found. Expected a YAML file or one of {', '.join(names)}."
            f"{did_you_mean(name, names)}"
        )
    recipe = read_yaml(path, error=ConfigError)
    if recipe is None:
        return {}
    if not isinstance(recipe, dict) or not all(isinstance(key, str) for key in recipe):
        raise ConfigError(f"recipe {path}: expected 'setting: value' lines, found {quoted(recipe)}.")
    return recipe
