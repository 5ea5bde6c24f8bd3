"""An Ultralytics dataset as it lies on disk: its YAML, its lists of images, and its label files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdyolo.errors import DatasetError

ROLES = ("train", "val", "test")


@dataclass(frozen=True)
class Dataset:
    """The content of a dataset YAML.

    Attributes:
        path: the YAML.
        names: class index → name.
        category_ids: class index → category id; 1…nc where the YAML does not say otherwise.
        images: role → folders, lists or image files.
        annotations: role → the COCO file that it was converted from, where that exists.
    """

    path: Path
    names: dict[int, str]
    category_ids: dict[int, int]
    images: dict[str, list[Path]]
    annotations: dict[str, Path]

    def roles(self, role: str | None) -> dict[str, list[Path]]:
        """The roles to read: one, or all without those that only repeat another.

        Raises:
            DatasetError: there is no such role.
        """
        if role is not None and role not in self.images:
            raise DatasetError(f"{self.path}: expected a key {role!r}, found {', '.join(self.images)}. Choose another.")
        chosen = [role] if role else list(self.images)
        unique = {tuple(self.images[name]): name for name in reversed(chosen)}
        return {name: self.images[name] for name in chosen if name in unique.values()}


def load_dataset(path: Path) -> Dataset:
    """Read a dataset YAML.

    Raises:
        DatasetError: it cannot be read, or lacks what it needs.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}. Give a dataset YAML.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}: not a YAML file: {' '.join(str(error).split())}. Give a dataset YAML.") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected keys such as 'train' and 'names', found none. Give a dataset YAML.")
    names = _names(path, content.get("names"))
    ids = content.get("category_ids") or {index: index + 1 for index in names}
    if not isinstance(ids, dict) or ids.keys() != names.keys() or len(set(ids.values())) != len(ids):
        raise DatasetError(f"{path}: expected a category id of its own for each class, found {ids}. Correct the YAML.")
    root = _root(path, content.get("path"))
    images = {role: [root / p for p in _as_list(path, role, content[role])] for role in ROLES if content.get(role)}
    if not images:
        raise DatasetError(f"{path}: expected at least one of the keys {', '.join(ROLES)}, found none of them.")
    sources = content.get("annotations")
    found = {role: root / file for role, file in sources.items()} if isinstance(sources, dict) else {}
    return Dataset(path, names, ids, images, {role: file for role, file in found.items() if file.is_file()})


def _names(path: Path, names: Any) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or sorted(names, key=str) != sorted(range(len(names)), key=str) or not names:
        raise DatasetError(f"{path}: expected under 'names' a name for each class 0, 1, …, found {names!r}.")
    return {index: str(names[index]) for index in range(len(names))}


def _as_list(path: Path, role: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in values):
        raise DatasetError(f"{path}: expected under {role!r} a path or a list of paths, found {value!r}.")
    return values


def _root(path: Path, given: Any) -> Path:
    """As Ultralytics reads ``path``; a relative one may also lie beside the YAML."""
    if given is None:
        return path.absolute().parent
    candidates = [Path(str(given)).absolute(), path.absolute().parent / str(given)]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    raise DatasetError(f"{path}: 'path' leads nowhere: there is no {candidates[0]}. Correct the YAML.")
