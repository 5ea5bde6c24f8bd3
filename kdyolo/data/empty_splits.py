"""Splits without objects, from which nothing can be learnt or measured: refused, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdyolo.data.dataset_yaml import ROLES
from kdyolo.data.image_names import image_files, label_file
from kdyolo.errors import DatasetError
from kdyolo.utils.text import printable, quoted

CROWDS = "crowd_regions"  # role → share of objects that a conversion left out as crowd regions, where it is large


def crowd_warnings(content: Mapping[str, Any]) -> list[str]:
    """What a conversion recorded of splits in which many objects are crowd regions, and so became background.

    Args:
        content: Content of a dataset YAML, such as ``check_det_dataset`` returns it.
    """
    recorded = content.get(CROWDS)
    found = recorded.items() if isinstance(recorded, dict) else ()
    return [
        f"{role}: {printable(str(share))[:80]} were crowd regions (iscrowd 1), and are background now; CVAT and "
        "SAM mark every mask so. If they are objects, convert again with --include-crowd"
        for role, share in found
        if role in ROLES
    ]


def no_objects(split: str, images: Any, count: int, content: Mapping[str, Any]) -> str:
    """The error about a split without any object, from which nothing can be learnt and on which nothing is measured.

    Args:
        split: Role of the split.
        images: Where its images are.
        count: Number of its images.
        content: Content of the dataset YAML.
    """
    hints = [warning for warning in crowd_warnings(content) if warning.startswith(f"{split}:")] or [
        "Are there labels in a folder 'labels' in place of the last 'images' of each path, and of the classes that are "
        "asked for?"
    ]
    return f"{quoted(images)}: expected objects in the {split} images, found none in {count:,} of them. {hints[0]}"


def refuse_unlabelled(content: Mapping[str, Any]) -> None:
    """Refuse a data set of which the train or val split has no object. Label files are not read, only found.

    Args:
        content: The data set as Ultralytics' ``check_det_dataset`` returns it, with absolute paths.

    Raises:
        DatasetError: A split has no image, or no label file with anything in it.
    """
    for split in ("train", "val"):
        paths = content[split] if isinstance(content[split], list) else [content[split]]
        folder, names = image_files([Path(path) for path in paths])
        labels = (label_file(folder / name) for name in names)
        if not any(path.is_file() and path.stat().st_size for path in labels):
            raise DatasetError(no_objects(split, content[split], len(names), content))
