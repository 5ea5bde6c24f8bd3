"""Label subsets of a study: seeded, nested shares of the training images, as data sets of links beside the runs.

Of one seed each larger subset holds the smaller ones, and all arms see the same images; another seed draws others, so
that the spread over seeds is also that of the choice of images. Validation images stay the whole split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdyolo.data.dataset_yaml import load_dataset
from kdyolo.data.image_names import image_files
from kdyolo.data.training_subset import LabelSubset, size_of
from kdyolo.errors import collect_mistakes
from kdyolo.experiments.comparison.label_shares import share_name


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
        share: Share above 0, up to 1.
        seed: Seed of the run.
        folder: Folder of all subsets of the study.
    """
    if share == 1:
        return None
    return LabelSubset(Path(data).resolve(), share, seed, folder / share_name(share) / f"seed{seed}")
