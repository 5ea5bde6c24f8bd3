"""Splits of a COCO data set: their annotation files and image folders, and their roles (train, val, test)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from kdyolo.data.dataset_yaml import ROLES
from kdyolo.data.image_names import IMAGE_SUFFIXES
from kdyolo.errors import ConfigError, DatasetError, collect_mistakes

_PREFIX = "instances_"
_ROBOFLOW = "_annotations.coco"
_SUFFIXES = (".json", ".json.gz")


@dataclass(frozen=True)
class CocoSplit:
    """One split to convert.

    Attributes:
        annotations: COCO JSON file.
        images: Folder that the file names in it are relative to.
        split: Name of the split, such as ``train2017``.

    Examples:
        >>> from pathlib import Path
        >>> from kdyolo import CocoSplit, convert_coco
        >>> coco = Path("COCO2017")
        >>> train = CocoSplit(coco / "annotations/instances_train.json", coco / "train", "train")
        >>> val = CocoSplit(coco / "annotations/instances_val.json", coco / "val", "val")
        >>> convert_coco(sources=[train, val], out="datasets/own").yaml.name
        'coco.yaml'
    """

    annotations: Path
    images: Path
    split: str


def is_plain_name(name: str) -> bool:
    """Whether a name can be that of a folder on any system, and starts with a letter, digit or underscore."""
    return re.fullmatch(r"\w[\w.-]*", name) is not None


def find_sources(root: Path) -> list[CocoSplit]:
    """The splits of a folder in one of the usual layouts.

    These are COCO's own, ``annotations/instances_<split>.json`` and images beside it, which CVAT writes too; and
    Roboflow's, ``<split>/_annotations.coco.json`` among the images. Files may be gzipped.

    Raises:
        DatasetError: A folder or file is missing, or two files or image folders could belong to one split.
    """
    if not root.is_dir():
        found = "a file: name it with --annotations, its images with --images" if root.is_file() else "nothing there"
        raise DatasetError(f"{root}: expected the folder of a COCO data set, found {found}. Give the folder.")
    exported = _json_files(root.glob(f"*/{_ROBOFLOW}*"))
    folder = root / "annotations"
    if exported and not folder.is_dir():
        return [CocoSplit(path, path.parent, path.parent.name) for path in exported]
    if not folder.is_dir():
        raise DatasetError(
            f"{root}: expected a folder 'annotations' in it (or {_ROBOFLOW}.json in the folder of each split), found "
            "none. Give the folder that COCO's archives were unpacked into, or name each split with --annotations, "
            "--images and --split."
        )
    files = _json_files(folder.glob(f"{_PREFIX}*"))
    if not files:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
        raise DatasetError(
            f"{folder}: expected a file {_PREFIX}<split>.json, found {found}. Unpack COCO's annotations there, or name "
            "each split with --annotations, --images and --split."
        )
    splits = [(path, _bare(path).removeprefix(_PREFIX)) for path in files]
    return [CocoSplit(path, _image_folder(root, split), split) for path, split in splits]


def _json_files(paths: Iterable[Path]) -> list[Path]:
    """The JSON files among these, in the order of their names.

    Raises:
        DatasetError: A file is there twice, plain and gzipped.
    """
    files = sorted(path for path in paths if path.name.endswith(_SUFFIXES) and path.is_file())
    for one, other in pairwise(files):
        if one.parent == other.parent and _bare(one) == _bare(other):
            raise DatasetError(f"{one}: the same annotations could be in {other}. Move one of the files away.")
    return files


def _bare(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".json")


def _image_folder(root: Path, split: str) -> Path:
    candidates = [root / "images" / split, root / split]
    present = [path for path in candidates if path.is_dir()]
    if not present and _has_images(root / "images"):
        return root / "images"  # one folder for all splits, as CVAT writes it
    if not present:
        raise DatasetError(
            f"{root}: expected the images of split {split!r} in {candidates[0]} or {candidates[1]}, found neither. "
            f"Unpack {split}.zip, or move annotations/{_PREFIX}{split}.json away."
        )
    if len(present) == 2 and not present[0].samefile(present[1]):
        raise DatasetError(
            f"{root}: the images of split {split!r} could be those in {present[0]} or those in {present[1]}. "
            "Remove or rename one of the folders, or name the image folder with --images."
        )
    return present[0]


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and any(path.suffix[1:].lower() in IMAGE_SUFFIXES for path in folder.iterdir())


def check_sources(sources: Sequence[CocoSplit]) -> None:
    """Check split names and image folders.

    Raises:
        ConfigError: A split name is used twice or cannot name a folder; all such names at once.
        DatasetError: An image folder is missing.
    """
    splits = [source.split for source in sources]
    mistakes = [f"split name {split!r} is used more than once: give each source its own" for split in _repeated(splits)]
    # Ultralytics finds labels by the last folder 'images' of a path, so no split can have that name.
    bad = [split for split in splits if not is_plain_name(split) or split == "images"]
    mistakes += [f"split name {split!r} cannot name a folder: use letters, digits, '_', '-', '.'" for split in bad]
    with collect_mistakes() as found:
        found.add(*mistakes)
        for source in sources:
            with found.gathered():
                if not source.annotations.exists():
                    raise DatasetError(f"{source.annotations}: cannot be read: No such file. Correct the path.")
            with found.gathered():
                if not source.images.is_dir():
                    raise DatasetError(
                        f"{source.images}: expected the folder with the images of {source.annotations}, found "
                        f"{'a file' if source.images.exists() else 'nothing'}. Correct the path of the image folder."
                    )


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def pick_roles(splits: Sequence[str]) -> dict[str, str]:
    """Role (train, val, test) → split, by how its name begins: ``Train``, ``valid``, ``Validation``, ``test2017``.

    A single split is both train and val, as in Ultralytics' coco128.

    Raises:
        ConfigError: Several splits, of which none or several could be train or val, or several test.
    """
    if len(splits) == 1:
        return {"train": splits[0], "val": splits[0]}
    candidates = {role: [split for split in splits if split.lower().startswith(role)] for role in ROLES}
    mistakes = [
        f"expected one split for the role {role!r}, found {', '.join(found) or 'none'} among {', '.join(splits)}: "
        f"give exactly one split a name that starts with {role!r}"
        for role, found in candidates.items()
        if len(found) > 1 or (not found and role != "test")
    ]
    if mistakes:
        raise ConfigError([*mistakes, "Name the splits train…, val… and test… (--split), with one source for each."])
    return {role: found[0] for role, found in candidates.items() if found}
