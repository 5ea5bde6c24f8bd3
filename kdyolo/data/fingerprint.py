"""Whether runs saw the same data: by what the data set's YAML leads to, not by how it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdyolo.runs.history import Run
from kdyolo.utils.hashing import sha256_of_file
from kdyolo.utils.text import canonical
from kdyolo.utils.yaml_files import read_mapping

_SPLITS = ("train", "val")


def data_keys(runs: Sequence[Run]) -> list[str]:
    """A text for each run that is the same for the same data.

    Data sets are the same if classes and image lists are the same ones; or, at different places, if classes and
    annotation files (by SHA-256) or image lists (by content) are equal. Where the YAML is not on this machine, its name
    has to do.
    """
    keys = [_by_place(run) for run in runs]
    if len(set(keys)) > 1:
        keys = [_by_content(run) or key for run, key in zip(runs, keys, strict=True)]
    return keys


def data_name(run: Run) -> str:
    """The data set as the run names it."""
    return str(run.args.get("data"))


def data_file(run: Run) -> Path | None:
    """The data set's YAML, if it is on this machine: as named, or from a folder above the run, where it was started."""
    name = Path(data_name(run))
    if name.suffix not in {".yaml", ".yml"}:
        return None
    places = (folder / name for folder in (Path(), *run.path.resolve().parents))
    return next((place.resolve() for place in places if place.is_file()), None)


def _by_place(run: Run) -> str:
    path = data_file(run)
    if path is None:
        return data_name(run)
    data = _read(path)
    places = {split: _places(path, data, split) for split in _SPLITS}
    return canonical([_classes(data), {split: list(map(str, found)) for split, found in places.items()}])


def _by_content(run: Run) -> str | None:
    """By the content of annotation files, else of image lists; None where there is neither."""
    path = data_file(run)
    if path is None:
        return None
    data = _read(path)
    recorded = data.get("annotations")
    digests: dict[str, Any] = {}
    for split in _SPLITS:
        named = recorded.get(split) if isinstance(recorded, Mapping) else None
        files = [_root(path, data) / str(named)] if named else _places(path, data, split)
        if not files or not all(file.is_file() for file in files):
            return None
        digests[split] = [_digest(file, file.stat().st_mtime_ns) for file in files]
    return canonical([_classes(data), digests])


def _root(path: Path, data: Mapping[str, Any]) -> Path:
    """The folder that the YAML's paths start from; a relative one that is not beside it is in Ultralytics' own."""
    root = Path(str(data.get("path") or path.parent))
    return path.parent / root if (path.parent / root).exists() else root


def _places(path: Path, data: Mapping[str, Any], split: str) -> list[Path]:
    named = data.get(split) or ()
    return [(_root(path, data) / str(n)).resolve() for n in ([named] if isinstance(named, str) else named)]


def _classes(data: Mapping[str, Any]) -> Any:
    """Names in the order of their index; their number where there are none."""
    names = data.get("names")
    if isinstance(names, Mapping):
        return [names[index] for index in sorted(names, key=str)]
    return names or data.get("nc")


def _read(path: Path) -> Mapping[str, Any]:
    return _parse(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _parse(path: Path, _modified: int) -> Mapping[str, Any]:
    return read_mapping(path) or {}


@lru_cache(maxsize=64)
def _digest(path: Path, _modified: int) -> str:
    return sha256_of_file(path)
