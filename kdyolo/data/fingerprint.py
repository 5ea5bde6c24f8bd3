"""Fingerprints of data sets: whether two dataset YAMLs lead to the same images and labels, by content.

Two fingerprints are made of a YAML. That by place is cheap: classes and the image lists' paths. That by content also
holds for copies elsewhere: classes and the SHA-256 of annotation files, or of image lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdyolo.utils.hashing import sha256_of_file
from kdyolo.utils.plain_files import is_file, is_folder
from kdyolo.utils.text import canonical
from kdyolo.utils.yaml_files import read_mapping

SUBSET = "kdyolo_subset"  # key of a YAML that says of which data set it is a share
_SPLITS = ("train", "val")


def place_fingerprint(yaml: Path) -> str:
    """A text that is the same for two dataset YAMLs with the same classes and the same places of images.

    Args:
        yaml: The dataset YAML; it exists.

    Raises:
        RunError: The file is no YAML mapping.
    """
    whole, *share = whole_of_subset(yaml) or (yaml,)
    dataset = _read(whole)
    places = {split: list(map(str, dataset.places(split))) for split in _SPLITS}
    return canonical([dataset.class_names, places, *share])


def content_fingerprint(yaml: Path) -> str | None:
    """A text that is the same for two dataset YAMLs with equal classes and equal annotation files or image lists.

    Args:
        yaml: The dataset YAML; it exists.

    Returns:
        The fingerprint; None where a split has neither an annotation file nor image lists on this machine.

    Raises:
        RunError: The file is no YAML mapping.
    """
    whole, *share = whole_of_subset(yaml) or (yaml,)
    dataset = _read(whole)
    digests: dict[str, Any] = {}
    for split in _SPLITS:
        annotations = dataset.annotations(split)
        files = [annotations] if annotations else dataset.places(split)
        if not files or not all(is_file(file) for file in files):
            return None
        digests[split] = [_digest(file, file.stat().st_mtime_ns) for file in files]
    return canonical([dataset.class_names, digests, *share])


def whole_of_subset(yaml: Path) -> tuple[Path, float] | None:
    """The dataset YAML that another one is a drawn share of, and the share in 0–1.

    Two draws of one share by different seeds count as the same data: the seed is a run's, as that of its shuffling is.

    Args:
        yaml: The dataset YAML; it exists.

    Returns:
        None where it is no subset, or where what it is of is not on this machine.

    Raises:
        RunError: The file is no YAML mapping.
    """
    subset = _read(yaml).content.get(SUBSET)
    if not isinstance(subset, Mapping) or not isinstance(subset.get("share"), float):
        return None
    whole = Path(str(subset.get("of")))
    return (whole, subset["share"]) if is_file(whole) and whole.resolve() != yaml.resolve() else None


@dataclass(frozen=True)
class _DatasetYaml:
    """What a fingerprint needs of a dataset YAML."""

    path: Path
    content: Mapping[str, Any]

    @property
    def root(self) -> Path:
        """The folder that paths start from; a relative one that is not beside the YAML is in Ultralytics' own."""
        root = Path(str(self.content.get("path") or self.path.parent))
        return self.path.parent / root if is_folder(self.path.parent / root) else root

    @property
    def class_names(self) -> Any:
        """Names in the order of their index; their number where there are no names."""
        names = self.content.get("names")
        if isinstance(names, Mapping):
            return [names[index] for index in sorted(names, key=str)]
        return names or self.content.get("nc")

    def places(self, split: str) -> list[Path]:
        """Image folders or image lists of a split."""
        named = self.content.get(split) or []
        return [(self.root / str(name)).resolve() for name in (named if isinstance(named, list) else [named])]

    def annotations(self, split: str) -> Path | None:
        """The COCO annotation file that the YAML records for a split."""
        recorded = self.content.get("annotations")
        named = recorded.get(split) if isinstance(recorded, Mapping) else None
        return self.root / str(named) if named else None


def _read(path: Path) -> _DatasetYaml:
    return _DatasetYaml(path, _parse(path, path.stat().st_mtime_ns))


# Both caches have the time of the last change among their keys, so that a file is read again once it has changed.
@lru_cache(maxsize=64)
def _parse(path: Path, _modified: int) -> Mapping[str, Any]:
    return read_mapping(path) or {}


@lru_cache(maxsize=64)
def _digest(path: Path, _modified: int) -> str:
    return sha256_of_file(path)
