"""Verification of image files by opening them: readable, of which size, turned by EXIF, complete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from PIL import Image

from kdyolo.data.image_names import IMAGE_SUFFIXES, refuse_odd_image
from kdyolo.utils.parallel import parallel_map
from kdyolo.utils.progress import Progress

_SMALLEST = 10  # pixels a side: Ultralytics drops smaller images
_TURNED = {5, 6, 7, 8}  # EXIF orientations that exchange width and height
_ORIENTATION = 274
_WORTH_A_PROCESS = 500  # images


@dataclass(frozen=True)
class ImageFacts:
    """Facts about an image file.

    Attributes:
        width: Width in pixels, as decoders show the image: turned by its EXIF orientation.
        height: Height in pixels, as decoders show the image.
        problem: The reason for which Ultralytics would leave the image out; empty if there is none.
        broken_end: Whether it is a JPEG without its end marker, which Ultralytics writes anew at its first scan.
    """

    width: int = 0
    height: int = 0
    problem: str = ""
    broken_end: bool = False


@dataclass
class ImageVerifier:
    """Opens images, each once.

    Attributes:
        found: (folder, file name) → what was found.
    """

    found: dict[tuple[Path, str], ImageFacts] = field(default_factory=dict)

    def problems(self, folder: Path, names: Iterable[str]) -> dict[str, str]:
        """File name → reason, of the images that cannot be used."""
        names = list(names)
        new = [name for name in names if (folder, name) not in self.found]
        with Progress("opening", len(new), "images") as progress:

            def work(run: Sequence[str]) -> list[ImageFacts]:
                results = []
                for name in run:
                    results.append(verify_image(folder / name))
                    progress.advance()
                return results

            runs = parallel_map(work, new, at_least=_WORTH_A_PROCESS, progress=progress)
        self.found |= zip(((folder, name) for name in new), chain.from_iterable(runs), strict=True)
        return {name: self.found[folder, name].problem for name in names if self.found[folder, name].problem}


def verify_image(path: Path) -> ImageFacts:
    """Look at one image as Ultralytics' scan does, but without ever writing to it."""
    try:
        refuse_odd_image(path)
        with Image.open(path) as image:
            turned = _orientation(image) in _TURNED
            image.verify()
            kind = (image.format or "").lower()
            width, height = _turned_size(image) if turned else image.size
        if kind not in IMAGE_SUFFIXES | {"jpeg2000"}:
            return ImageFacts(problem=f"its format {kind} is none that Ultralytics reads")
        if min(width, height) < _SMALLEST:
            return ImageFacts(problem=f"it has {width}×{height} pixels, and Ultralytics drops images below {_SMALLEST}")
        return ImageFacts(width, height, broken_end=kind in ("jpg", "jpeg") and not _ends_as_jpeg(path))
    except ModuleNotFoundError:  # Ultralytics looks for a decoder of HEIC where Pillow knows none
        return ImageFacts(problem="no image, or of a format that nothing here can decode, such as HEIC")
    except Exception as error:  # decoders raise anything on damaged files
        return ImageFacts(problem=str(error).replace("\n", " ") or type(error).__name__)


def _ends_as_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-2, os.SEEK_END)
        return file.read() == b"\xff\xd9"


def _orientation(image: Image.Image) -> int | None:
    try:
        # The base class's method: that of PNG would decode the whole image first.
        found = Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:  # a damaged EXIF block is no reason to refuse an image: decoders go on without it, too
        return None
    return found if isinstance(found, int) else None


def _turned_size(image: Image.Image) -> tuple[int, int]:
    if image.format in ("JPEG", "MPO", "PNG", "AVIF"):
        return image.size[::-1]
    from ultralytics.data.utils import exif_size  # whether others are turned depends on versions of the decoders

    width, height = exif_size(image)
    return width, height
