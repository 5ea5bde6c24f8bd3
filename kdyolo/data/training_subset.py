"""Subset of a data set's training images: drawn by a seed, nested, and laid out as a data set of links.

Of one seed each larger subset holds the smaller ones. Validation images stay the whole split.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdyolo.data.dataset_yaml import ROLES, Dataset, load_dataset
from kdyolo.data.fingerprint import SUBSET
from kdyolo.data.image_names import image_files, label_file
from kdyolo.errors import DatasetError
from kdyolo.utils.yaml_files import read_mapping


@dataclass(frozen=True)
class LabelSubset:
    """A share of a data set's training images.

    Attributes:
        data: Data set YAML that the share is of; an absolute path.
        share: Share of the training images, in 0–1.
        seed: Seed that the images are drawn by.
        folder: Folder of the subset; an absolute path.
    """

    data: Path
    share: float
    seed: int
    folder: Path

    @property
    def yaml(self) -> Path:
        """Data set YAML of the subset."""
        return self.folder / "data.yaml"

    def write(self) -> None:
        """Write the data set: links to its images and their labels, and a YAML; nothing where it is there already.

        Raises:
            DatasetError: The data set cannot be read, or no links can be made.
        """
        if self.yaml.is_file():
            return
        dataset = load_dataset(self.data)
        folder, names = image_files(dataset.places("train"))
        chosen = draw(len(names), self.share, self.seed)
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".links-", dir=self.folder.parent))
        except OSError as e:
            raise DatasetError(f"{self.folder}: cannot be made ({e}). Give a work dir that can be written to.") from e
        try:
            for number in chosen:
                image = folder / names[number]
                _link(image, scratch / "images" / "train" / names[number])
                if (label := label_file(image)).is_file():
                    _link(label, (scratch / "labels" / "train" / names[number]).with_suffix(".txt"))
            content = self._content(dataset, len(chosen), len(names))
            (scratch / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
            shutil.rmtree(self.folder, ignore_errors=True)
            scratch.rename(self.folder)
        except OSError as e:
            raise DatasetError(f"{self.folder}: links to the training images cannot be made ({e}).") from e
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _content(self, dataset: Dataset, images: int, of_images: int) -> dict[str, Any]:
        """The YAML: that of the whole data set, with absolute paths, and what the subset is of."""
        found = dict(read_mapping(self.data, error=DatasetError) or {})
        for key in ("download", "validation", *ROLES):
            found.pop(key, None)
        places = {role: [str(place) for place in dataset.places(role)] for role in ROLES if role in dataset.images}
        recorded = {role: dataset.annotations(role) for role in dataset.recorded_annotations if role != "train"}
        annotations = {role: str(file.absolute()) for role, file in recorded.items() if file}
        what = {"of": str(self.data), "share": self.share, "seed": self.seed, "images": images, "of_images": of_images}
        found |= {"path": str(self.folder), **places, "train": "images/train", SUBSET: what}
        return {**found, "annotations": annotations} if annotations else found


def draw(count: int, share: float, seed: int) -> list[int]:
    """Numbers of the images in a share, ascending; of one seed, a larger share holds a smaller one.

    Args:
        count: Number of all images.
        share: Share in 0–1.
        seed: Seed of the draw.
    """
    order = np.random.default_rng([seed, count]).permutation(count)
    return sorted(order[: size_of(count, share)].tolist())


def size_of(count: int, share: float) -> int:
    """Number of images in a share of so many."""
    return round(share * count)


def _link(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(source.absolute(), link)  # noqa: PTH211 - Path.symlink_to reads backwards
