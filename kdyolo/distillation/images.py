"""Images to distil on: found, opened once, those that cannot be read left out, and some held out by the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from kdyolo.data.image_names import image_files
from kdyolo.data.image_verification import ImageVerifier
from kdyolo.errors import DatasetError, collect_mistakes
from kdyolo.utils.progress import progress_over
from kdyolo.utils.text import number_and_noun, plural

MOST_UNREADABLE = 0.05  # share of the images that may be left out
_NAMED = 3  # unreadable images that an error names


@dataclass(frozen=True)
class ImageSplit:
    """Images to learn from, and images held out to measure what was learned.

    Attributes:
        train: Files to learn from, sorted.
        held_out: Files that are never learned from, sorted.
        unreadable: File → why it was left out.
    """

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]
    unreadable: dict[Path, str]

    @cached_property
    def digest(self) -> str:
        """Digest of the images' names and sizes in bytes, in order: not of their folder, which may move."""
        found = hashlib.sha256()
        for path in (*self.train, *self.held_out):
            found.update(f"{path.name}\0{path.stat().st_size}\n".encode())
        return found.hexdigest()

    def summary(self) -> str:
        """One line: how many images there are of each kind."""
        skipped = f", {len(self.unreadable):,} unreadable ones left out" if self.unreadable else ""
        return f"images: {len(self.train):,} to learn from, {len(self.held_out):,} held out{skipped}"


def split_images(
    paths: Sequence[Path],
    held_out: float,
    seed: int,
    batch: int,
    val_images: Sequence[Path] = (),
    *,
    opened: bool = True,
) -> ImageSplit:
    """Find the images, open each once, and hold some of them out.

    Args:
        paths: Folders, which are searched with all below them; lists of images (``.txt``); or images.
        held_out: Share of the images to hold out, or their number where it is 1 or more.
        seed: Seed of the choice.
        batch: Images in a batch of the training, of which at least one must be had.
        val_images: Images to hold out instead, given as ``paths`` are.
        opened: Whether images are opened, which takes long for many; without, only their names say what is wrong.

    Raises:
        DatasetError: There are no images, too few, or too many that cannot be read.
        ConfigError: Several of these mistakes.
    """
    with collect_mistakes() as mistakes:
        learned = mistakes.result(lambda: _readable(paths, opened))
        kept = mistakes.result(lambda: _readable(val_images, opened)) if val_images else ([], {})
    assert learned is not None  # else there were mistakes
    assert kept is not None
    (found, problems), (others, more) = learned, kept
    unreadable = problems | more
    if val_images:
        chosen = set(others)
        if both := chosen & set(found):
            what = number_and_noun(len(both), "image{ is|s are} held out and learned from")
            raise DatasetError(f"{what}, e.g. {min(both)}. Separate them.")
        train = found
    else:
        count = int(held_out) if held_out >= 1 else max(round(held_out * len(found)), 2)
        order = np.random.default_rng([seed, len(found)]).permutation(len(found))
        chosen = {found[i] for i in order[:count]}
        train = [path for path in found if path not in chosen]
    if len(train) < batch or len(chosen) < 2:
        raise DatasetError(
            f"too few images: {len(train)} to learn from and {len(chosen)} held out. Expected at least one batch of "
            f"{batch} and 2 held out: give more images, a smaller --batch, or another --held-out."
        )
    return ImageSplit(tuple(train), tuple(sorted(chosen)), unreadable)


def _readable(paths: Sequence[Path], opened: bool) -> tuple[list[Path], dict[Path, str]]:
    if described := [path for path in paths if path.suffix in (".yaml", ".yml")]:
        raise DatasetError(
            f"{described[0]}: expected images, found a YAML file. Give the folder of its images, or their list (.txt)."
        )
    folder, names = image_files(paths)
    if not opened:
        return [folder / name for name in names], {}
    problems = ImageVerifier().problems(folder, names)
    problems |= _undecodable(folder, [name for name in names if name not in problems])
    if len(problems) > max(MOST_UNREADABLE * len(names), 1):
        named = "; ".join(f"{folder / name}: {why}" for name, why in list(problems.items())[:_NAMED])
        raise DatasetError(
            f"{len(problems):,} of {plural(len(names), 'image')} cannot be read, e.g. {named}. Up to "
            f"{MOST_UNREADABLE:.0%} are left out; mend or remove the others."
        )
    return [folder / name for name in names if name not in problems], {folder / n: why for n, why in problems.items()}


def _undecodable(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """File name → reason, of the images that open but that OpenCV, which every epoch reads them with, gives up on.

    JPEG and PNG are not decoded here: of a JPEG OpenCV gives what there is, and a PNG's checksums have been checked.
    """
    others = [name for name in names if not name.lower().endswith((".jpg", ".jpeg", ".png"))]
    found = progress_over(others, "decoding", len(others), "images")
    with _quiet_decoders():
        return {name: "OpenCV cannot decode it" for name in found if cv2.imread(str(folder / name)) is None}


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Keep OpenCV from printing what is wrong with a file, which is told in another way."""
    logging: Any = cv2.utils.logging
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)
