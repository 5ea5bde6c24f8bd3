"""An Ultralytics dataset as it lies on disk: its YAML, its lists of images, and its label files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from kdyolo.data.coco.splits import ROLES
from kdyolo.data.image_names import IMAGE_SUFFIXES
from kdyolo.data.yolo_labels import Box, clip_box, label_line, outline_line
from kdyolo.errors import DatasetError

_FEWEST_DECIMALS, _MOST_DECIMALS = 2, 9
_TOLERANCE = 0.01  # beyond the image, as Ultralytics grants it
V = TypeVar("V")


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


def image_files(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """The images of a split: the folder that they have in common, and their names relative to it, sorted.

    Args:
        paths: folders, which are searched through, text files with an image on each line, or images.

    Raises:
        DatasetError: a path does not exist, or there is no image.
    """
    files: set[Path] = set()
    folders: list[Path] = []
    for path in paths:
        if path.is_dir():
            folders.append(path)
            files |= {p for p in path.rglob("*") if p.is_file()}
        elif path.suffix == ".txt" and path.is_file():
            lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
            files |= {path.parent / line for line in lines if line}
            folders.append(path.parent / "images" / path.stem)  # where kdyolo convert puts them
        elif path.is_file():
            files.add(path)
        else:
            raise DatasetError(f"{path}: expected a folder with images or a list of them, found nothing.")
    images = sorted(p for p in files if p.suffix[1:].lower() in IMAGE_SUFFIXES)
    if not images:
        raise DatasetError(f"{', '.join(map(str, paths))}: expected images, found none.")
    if missing := next((p for p in images if not p.is_file()), None):
        raise DatasetError(f"{missing}: expected an image, found nothing. Correct the list, or convert again.")
    inside = len(folders) == 1 and all(p.is_relative_to(folders[0]) for p in images)
    folder = folders[0] if inside else Path(os.path.commonpath([p.parent for p in images]))
    return folder, [p.relative_to(folder).as_posix() for p in images]


def label_file(image: Path) -> Path:
    """Where Ultralytics looks for the label of an image: below ``labels`` in place of the last folder ``images``."""
    head, separator, tail = str(image).rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{head}{os.sep}labels{os.sep}{tail}" if separator else tail).with_suffix(".txt")


@dataclass(frozen=True)
class Label:
    """One line of a label file.

    Attributes:
        index: class, 0…nc−1.
        values: cx, cy, w, h, or the corners x1, y1, x2, y2, … of a polygon; fractions of the image.
    """

    index: int
    values: tuple[float, ...]

    @property
    def is_outline(self) -> bool:
        """Whether it is a polygon."""
        return len(self.values) > 4

    @property
    def text(self) -> str:
        """The line as the converter writes it."""
        return f"{self.index} {' '.join(f'{value:.6f}' for value in self.values)}\n"

    def box(self, width: int, height: int) -> Box:
        """Left, top, w, h in pixels, with the fewest decimals that give the same label again."""
        cx, cy, w, h = self.values
        exact = ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height)

        def at(decimals: int) -> Box:
            left, top, w, h = (round(value, decimals) + 0.0 for value in exact)  # + 0.0 makes -0.0 plain
            return left, top, w, h

        return _shortest(at, lambda box: label_line(self.index, clip_box(box, width, height), width, height), self.text)

    def polygon(self, width: int, height: int) -> dict[str, Any]:
        """``segmentation``, ``bbox`` and ``area`` of a polygon, in pixels."""

        def at(decimals: int) -> list[float]:
            return [round(v * (height if i % 2 else width), decimals) for i, v in enumerate(self.values)]

        corners = _shortest(at, lambda corners: outline_line(self.index, corners, width, height), self.text)
        xs, ys = corners[::2], corners[1::2]
        area = abs(sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(zip(xs, ys, strict=True)))) / 2
        bounds = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        return {"segmentation": [corners], "bbox": bounds, "area": area}


def _shortest(at: Callable[[int], V], label_of: Callable[[V], str | None], text: str) -> V:
    for decimals in range(_FEWEST_DECIMALS, _MOST_DECIMALS):
        if label_of(at(decimals)) == text:
            return at(decimals)
    return at(_MOST_DECIMALS)


def read_labels(path: Path, classes: Mapping[int, object]) -> list[Label]:
    """The lines of a label file; none where there is no file, as for Ultralytics.

    Raises:
        DatasetError: a line is no label of these classes.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}.") from error
    return [_parse(path, number, line, classes) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse(path: Path, number: int, line: str, classes: Mapping[int, object]) -> Label:
    words = line.split()
    try:
        index, *values = map(float, words)
    except ValueError:
        index, values = math.nan, []
    boxes, outlines = len(values) == 4, len(values) >= 6 and len(values) % 2 == 0
    if not (boxes or outlines) or not all(-_TOLERANCE <= v <= 1 + _TOLERANCE for v in values):
        raise DatasetError(
            f"{path}, line {number}: expected 'class cx cy w h' or 'class x1 y1 x2 y2 x3 y3 …' with coordinates from 0 "
            f"to 1, found {line[:80]!r}. Correct the label."
        )
    if index not in classes:
        raise DatasetError(f"{path}, line {number}: expected a class from 0 to {len(classes) - 1}, found {words[0]}.")
    return Label(int(index), tuple(values))
