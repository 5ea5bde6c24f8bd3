"""Label subsets of a study: seeded, nested shares of the training images, as data sets of links beside the runs.

Of one seed each larger subset holds the smaller ones, and all arms see the same images; another seed draws others, so
that the spread over seeds is also that of the choice of images. Validation images stay the whole split.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdyolo.data.dataset_yaml import ROLES, Dataset, load_dataset
from kdyolo.data.fingerprint import SUBSET
from kdyolo.data.image_names import image_files, label_file
from kdyolo.errors import ConfigError, DatasetError, collect_mistakes
from kdyolo.experiments.comparison.label_shares import share_name
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
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".links-", dir=self.folder.parent))
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


def check_shares(data: str, shares: Sequence[float]) -> None:
    """Refuse shares that are no subsets of their own.

    Args:
        data: Data set YAML.
        shares: Shares in 0–1, ascending.

    Raises:
        ConfigError: A share has no two images, or as many as the one before.
        DatasetError: The data set cannot be read.
    """
    count = len(image_files(load_dataset(Path(data)).places("train"))[1])
    sizes = {share: size_of(count, share) for share in shares}
    with collect_mistakes() as mistakes:
        for share, size in sizes.items():
            if size < 2:
                mistakes.add(f"{share_name(share)} of {count:,} training images are {size}. Expected 2 or more.")
        if len(set(sizes.values())) < len(sizes):
            mistakes.add(f"of {count:,} training images, some shares have the same number. Leave out all but one.")


def subset_of(data: str, share: float, seed: int, folder: Path) -> LabelSubset | None:
    """The subset that a run is trained on; None for all images.

    Args:
        data: Data set YAML of the study.
        share: Share in 0–1.
        seed: Seed of the run.
        folder: Folder of all subsets of the study.

    Raises:
        ConfigError: The share is not above 0.
    """
    if share <= 0:
        raise ConfigError(f"labels: expected a share above 0, found {share}.")
    if share == 1:
        return None
    return LabelSubset(Path(data).resolve(), share, seed, folder / share_name(share) / f"seed{seed}")


def _link(source: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(source.absolute(), link)  # noqa: PTH211 - Path.symlink_to reads backwards
