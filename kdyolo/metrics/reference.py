"""Reference of an evaluation: ground truth of a split, category id of each class, image id of each file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from kdyolo.errors import DatasetError
from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.ground_truth import GroundTruth


@dataclass(frozen=True)
class Reference:
    """Reference that a detector's output on a split is scored against.

    Attributes:
        truth: Ground truth with all images of the annotation file, and the categories that are classes of the data set.
        category_ids: Class index → category id.
        image_ids: Image file, as the data set names it → image id.
        chosen: Category ids that are scored; None for all.
    """

    truth: GroundTruth
    category_ids: list[int]
    image_ids: dict[str, int]
    chosen: list[int] | None = None

    def without_objects(self) -> Reference:
        """The same reference without the objects, for a process that finds detections and scores none."""
        return replace(self, truth=replace(self.truth, annotations=[]))

    def of_files(self, files: Sequence[str]) -> Reference:
        """The same reference for image files in another place.

        Raises:
            DatasetError: They are not the images of the annotation file.
        """
        return replace(self, image_ids=image_ids(self.truth, files))


def build_reference(
    annotations: Path,
    files: Sequence[str],
    names: Sequence[str],
    category_ids: Sequence[int] | None = None,
    classes: Sequence[int] | None = None,
) -> Reference:
    """Read the annotation file of a split and tie it to the data set.

    Args:
        annotations: COCO JSON of the split.
        files: The image files of the split, absolute.
        names: Names of the classes 0…nc−1.
        category_ids: Category id of each class in this file, if the data set was converted from it; otherwise classes
            and categories are tied by their names.
        classes: Indices of the classes that are scored; None for all.

    Raises:
        DatasetError: The file is not what it should be, or has not the classes or the images of the data set.
    """
    truth = read_ground_truth(annotations)
    ids = list(category_ids) if category_ids else _ids_by_name(names, truth)
    truth = truth.completed(dict(zip(ids, names, strict=True)))
    chosen = None if classes is None else [ids[index] for index in classes]
    return Reference(truth.only(ids), ids, image_ids(truth, files), chosen)


def _ids_by_name(names: Sequence[str], truth: GroundTruth) -> list[int]:
    """Class index → category id, for an annotation file that the data set was not converted from.

    A file may list only the categories that occur in it; other classes get ids that it does not use. Where it has names
    that are no classes either, nobody knows whether a class is missing or is called otherwise.
    """
    id_of = {name: category for category, name in truth.categories.items()}
    missing = [name for name in names if name not in id_of]
    if missing and not (truth.complete and id_of.keys() <= set(names)):
        raise DatasetError(
            f"{truth.path}: {len(missing)} of {len(names)} classes of the data set are no categories there, e.g. "
            f"{missing[0]!r}; it has {', '.join(map(repr, list(id_of)[:5]))}, …. Expected the same names."
        )
    id_of |= {name: number for number, name in enumerate(missing, max(truth.categories) + 1)}
    return [id_of[name] for name in names]


def image_ids(truth: GroundTruth, files: Sequence[str]) -> dict[str, int]:
    """Image file → image id, by the ``file_name`` in the JSON.

    Names there are relative to a folder of images, and may have folders in them. That folder is looked for upwards from
    the files' common folder, so that ``a/1.jpg`` and ``b/1.jpg`` stay apart, and so do ``1.jpg`` and ``a/1.jpg``.

    Where that does not lead to all files, as with URLs, paths of another machine or an ending in other case, the last
    part of the names decides, if no two share it.

    Args:
        truth: Ground truth with the names of the images.
        files: Absolute paths of the image files.

    Raises:
        DatasetError: An image of the JSON has no file or the other way round; both would falsify the result. Or images
            have no ``file_name``.
    """
    if truth.unnamed:
        raise DatasetError(
            f"{truth.path}: {len(truth.unnamed):,} of its {len(truth.images):,} images have no file_name, by which "
            "they are tied to the images of the data set. Add it, or name another file: --annotations, or "
            "'annotations' in the data set YAML."
        )
    best = _by_whole_name(truth, files)
    if len(best) < len(files):
        best = _by_base_name(truth, files) or best
    if unknown := [file for file in files if file not in best]:
        raise DatasetError(
            f"{truth.path}: {len(unknown)} of {len(files)} images of the data set are not in it, e.g. {unknown[0]}; "
            f"it has {len(truth.images)}, e.g. {next(iter(truth.images.values()))}. Expected the annotation file of "
            "these images (same file names)."
        )
    if missing := sorted(truth.images.keys() - set(best.values())):
        raise DatasetError(
            f"{truth.path}: {len(missing)} of its {len(truth.images)} images are not in the data set, e.g. "
            f"{truth.images[missing[0]]} (id {missing[0]}): missing or unreadable files, a part of the split, or "
            "records that the conversion skipped. Official metrics count all images of the file: complete the data "
            "set, or name a file of these images only: --annotations, or 'annotations' in the data set YAML."
        )
    return best


def _by_whole_name(truth: GroundTruth, files: Sequence[str]) -> dict[str, int]:
    """Image file → image id by names relative to the folder above the files that leads to most of them."""
    id_of = dict(zip(_relative(list(truth.images.values())), truth.images, strict=True))
    common = Path(os.path.commonpath([str(Path(file).parent) for file in files]))
    best: dict[str, int] = {}
    for folder in (common, *common.parents):
        names = {file: PurePosixPath(Path(os.path.relpath(file, folder)).as_posix()) for file in files}
        found = {file: id_of[str(name)] for file, name in names.items() if str(name) in id_of}
        best = found if len(found) > len(best) else best
        if len(best) == len(files):
            break
    return best


def _by_base_name(truth: GroundTruth, files: Sequence[str]) -> dict[str, int] | None:
    """Image file → image id by the last part of names, without case; None where it leads not to all, or to several."""
    id_of = {_base_name(name): image for image, name in truth.images.items()}
    bases = {_base_name(file): file for file in files}
    if len(id_of) < len(truth.images) or len(bases) < len(files) or not bases.keys() <= id_of.keys():
        return None
    return {file: id_of[base] for base, file in bases.items()}


def _base_name(name: str) -> str:
    path = urlsplit(name).path if "://" in name else name
    return unquote(path.replace("\\", "/")).rpartition("/")[2].casefold()


def _relative(names: Sequence[str]) -> list[str]:
    """File names without ``./``; absolute ones relative to their common folder."""
    tidy = [str(PurePosixPath(name)) for name in names]
    absolute = [name for name in tidy if name.startswith("/")]
    if not absolute:
        return tidy
    common = os.path.commonpath([str(PurePosixPath(name).parent) for name in absolute])
    return [os.path.relpath(name, common) if name.startswith("/") else name for name in tidy]
