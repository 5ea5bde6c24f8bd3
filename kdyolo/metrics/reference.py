"""A data set YAML and its annotation file: which JSON it is, which category a class is, which image a file is."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from kdyolo.errors import DatasetError
from kdyolo.metrics.coco_files import GroundTruth, read_ground_truth


@dataclass(frozen=True)
class Reference:
    """What a detector's output on a split is scored against.

    Attributes:
        truth: All images of the annotation file; the categories that are classes of the data set.
        category_ids: Class index → category id.
        image_ids: Image file, as the data set names it → image id.
    """

    truth: GroundTruth
    category_ids: list[int]
    image_ids: dict[str, int]


def find_annotations(data: Mapping[str, Any], split: str) -> Path | None:
    """The COCO JSON of a split.

    Args:
        data: The data set YAML as Ultralytics' ``check_det_dataset`` returns it.
        split: ``train``, ``val`` or ``test``.

    Returns:
        The file that ``kdyolo convert`` recorded; else, for COCO as Ultralytics downloads it, the official file, if
        it is there; else nothing.

    Raises:
        DatasetError: The recorded file is missing.
    """
    root, recorded = Path(data["path"]), data.get("annotations")
    if isinstance(recorded, Mapping) and isinstance(recorded.get(split), str):
        path: Path = root / recorded[split]
        if not path.is_file():
            raise DatasetError(
                f"{path}: the data set names this annotation file, but it is not there (a broken link?). Put it back, "
                "convert again, or name the file with --annotations."
            )
        return path
    images = data.get(split)
    if isinstance(images, str) and "coco" in images and images.endswith(f"{os.sep}val2017.txt"):
        official = root / "annotations" / "instances_val2017.json"
        return official if official.is_file() else None
    return None


def build_reference(data: Mapping[str, Any], split: str, annotations: Path, files: Sequence[str]) -> Reference:
    """Read the annotation file of a split and tie it to the data set.

    Args:
        data: The data set YAML as Ultralytics' ``check_det_dataset`` returns it.
        split: ``train``, ``val`` or ``test``.
        annotations: Its COCO JSON.
        files: The image files of the split, absolute.

    Raises:
        DatasetError: The file is not what it should be, or has not the classes or the images of the data set.
    """
    truth = read_ground_truth(annotations)
    recorded = data.get("annotations")
    own = isinstance(recorded, Mapping) and str(recorded.get(split)) in (
        str(annotations),
        os.path.relpath(annotations, data["path"]),
    )
    category_ids = list(data["category_ids"].values()) if own and data.get("category_ids") else _by_name(data, truth)
    return Reference(truth.only(category_ids), category_ids, image_ids(truth, files))


def _by_name(data: Mapping[str, Any], truth: GroundTruth) -> list[int]:
    """Class index → category id, for an annotation file that the data set was not converted from."""
    id_of = {name: category for category, name in truth.categories.items()}
    names = list(data["names"].values())
    if missing := [name for name in names if name not in id_of]:
        raise DatasetError(
            f"{truth.path}: {len(missing)} of {len(names)} classes of the data set are no categories there, e.g. "
            f"{missing[0]!r}; it has {', '.join(map(repr, list(id_of)[:5]))}, …. Expected the same names."
        )
    return [id_of[name] for name in names]


def image_ids(truth: GroundTruth, files: Sequence[str]) -> dict[str, int]:
    """Image file → image id, by the ``file_name`` in the JSON.

    Names there are relative to a folder of images, and may have folders in them. That folder is looked for upwards from
    the files' common folder, so that ``a/1.jpg`` and ``b/1.jpg`` stay apart, and so do ``1.jpg`` and ``a/1.jpg``.

    Args:
        truth: With the names.
        files: Absolute paths.

    Raises:
        DatasetError: An image of the JSON has no file or the other way round; both would falsify the result.
    """
    id_of = dict(zip(_relative(list(truth.images.values())), truth.images, strict=True))
    common = Path(os.path.commonpath([str(Path(file).parent) for file in files]))
    best: dict[str, int] = {}
    for folder in (common, *common.parents):
        names = {file: PurePosixPath(Path(os.path.relpath(file, folder)).as_posix()) for file in files}
        found = {file: id_of[str(name)] for file, name in names.items() if str(name) in id_of}
        best = found if len(found) > len(best) else best
        if len(best) == len(files):
            break
    if unknown := [file for file in files if file not in best]:
        raise DatasetError(
            f"{truth.path}: {len(unknown)} of {len(files)} images of the data set are not in it, e.g. {unknown[0]}; "
            f"it has {len(id_of)}, e.g. {next(iter(id_of))}. Expected the annotation file of these "
            "images (same file names)."
        )
    if missing := sorted(truth.images.keys() - set(best.values())):
        raise DatasetError(
            f"{truth.path}: {len(missing)} of its {len(truth.images)} images are not in the data set, e.g. "
            f"{truth.images[missing[0]]} (id {missing[0]}): missing or unreadable files, a part of the split, or "
            "records that the conversion skipped. Official metrics count all images of the file: complete the data "
            "set, or name a file of these images only: --annotations, or 'annotations' in the data set YAML."
        )
    return best


def _relative(names: Sequence[str]) -> list[str]:
    """File names without ``./``; absolute ones relative to their common folder."""
    tidy = [str(PurePosixPath(name)) for name in names]
    absolute = [name for name in tidy if name.startswith("/")]
    if not absolute:
        return tidy
    common = os.path.commonpath([str(PurePosixPath(name).parent) for name in absolute])
    return [os.path.relpath(name, common) if name.startswith("/") else name for name in tidy]
