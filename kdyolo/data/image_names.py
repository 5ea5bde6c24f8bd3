"""File names of images: usable, existing and normalised names, and the images of a split. No image is opened."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path, PurePosixPath, PureWindowsPath

from kdyolo.errors import DatasetError
from kdyolo.utils.plain_files import is_file, is_folder, refuse_endless

# Ultralytics leaves files with any other suffix out of a list without a word (its IMG_FORMATS; a test compares them).
IMAGE_SUFFIXES = frozenset(
    {"avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp"}
)
MOST_BYTES = 1 << 30  # of an image file; OpenCV decodes no image of more pixels
LARGEST = 10**9  # pixels a side: beyond any image, and well within what a float holds exactly
# Names that need no closer look, such as 000000000009.jpg: path objects cost more than everything else here.
_ORDINARY = re.compile(r"\w[\w-]*\.(?:jpe?g|png)", re.ASCII).fullmatch


def normalise(name: str, folder: Path) -> str:
    """A file name relative to the image folder and without ``.`` in it; one that lies elsewhere stays absolute."""
    if _ORDINARY(name):
        return name
    path = PurePosixPath(name)
    if path.is_absolute():
        for base in (folder.absolute(), folder.resolve()):
            if path.is_relative_to(base):
                return str(path.relative_to(base))
    return str(path)


def all_plain(names: Sequence[str]) -> bool:
    """Whether all are ordinary names of files in the image folder itself, each with a stem of its own."""
    if not all(map(_ORDINARY, names)) or len(set(names)) < len(names):
        return False
    suffix = names[0].rpartition(".")[2] if names else ""
    one_suffix = all(map(str.endswith, names, repeat(f".{suffix}")))  # then stems differ where names do
    return one_suffix or len({name.rpartition(".")[0] for name in names}) == len(names)


def image_problem(name: str, width: int, height: int) -> tuple[str, str] | None:
    """What is wrong with an image record on its own.

    Args:
        name: Normalised file name.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        Reason and detail; None for a usable record.
    """
    if width <= 0 or height <= 0:
        return "width and height must be positive", f"found {width}×{height}"
    if width > LARGEST or height > LARGEST:
        return f"width and height must be at most {LARGEST}", f"found {str(width)[:20]}×{str(height)[:20]}"
    return None if _ORDINARY(name) else _name_problem(name)


def _name_problem(name: str) -> tuple[str, str] | None:
    windows = PureWindowsPath(name)  # knows / and \ and drives, so that no system is left out
    if windows.anchor or ".." in windows.parts:
        return "file_name leaves the image folder", repr(name)
    if name.rpartition(".")[2].lower() not in IMAGE_SUFFIXES or not PurePosixPath(name).suffix:
        return (
            "file_name has no suffix that Ultralytics reads",
            f"{name!r} is none of {', '.join(sorted(IMAGE_SUFFIXES))}",
        )
    if name.splitlines() != [name] or "\0" in name or has_surrogates(name):
        return "file_name does not fit on a line of UTF-8 text", repr(name)
    return None


def has_surrogates(text: str) -> bool:
    """Whether there are halves of surrogate pairs in it, which JSON can hold and UTF-8 cannot."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def find_missing(folder: Path, names: Sequence[str]) -> set[str]:
    """The relative file names that are no files. Folders are listed, which is much quicker than asking."""
    listed = {"": _files_in(folder)}
    missing = set()
    for name in [name for name in names if name not in listed[""]]:
        parent, _, last = name.rpartition("/")
        if parent not in listed:
            listed[parent] = _files_in(folder / parent)
        # A listing is exact, and some file systems are not about case or Unicode's forms: they have the last word.
        if last not in listed[parent] and not os.path.isfile(folder / name):  # noqa: PTH113 - Path.is_file may raise
            missing.add(name)
    return missing


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()


def image_files(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """The images of a split: the folder that they have in common, and their names relative to it, sorted.

    Args:
        paths: Folders, which are searched with all below them; text files with an image on each line; or images.

    Raises:
        DatasetError: A path does not exist, a list cannot be read, or there is no image.
    """
    files: set[Path] = set()
    folders: list[Path] = []
    for path in paths:
        if path.is_dir():
            folders.append(path)
            # Ultralytics' own search: links to folders are followed, and what is hidden (macOS' "._a.jpg") is no image.
            found = glob.iglob(f"{glob.escape(str(path))}/**/*.*", recursive=True)  # noqa: PTH207
            files |= {p for name in found if (p := Path(name)).is_file()}
        elif path.suffix[1:].lower() not in IMAGE_SUFFIXES and path.is_file():
            files |= _listed(path)
            folders.append(path.parent / "images" / path.stem)  # where kdyolo convert puts them
        elif is_file(path):
            files.add(path)
        else:
            raise DatasetError(f"{path}: expected a folder with images or a list of them, found nothing.")
    images = sorted(p for p in files if p.suffix[1:].lower() in IMAGE_SUFFIXES)
    if not images:
        raise DatasetError(f"{', '.join(map(str, paths))}: expected images, found none.")
    if missing := next((p for p in images if not is_file(p)), None):
        raise DatasetError(f"{missing}: expected an image, found nothing. Correct the list, or convert again.")
    for image in images:
        refuse_odd_name(image)
    inside = len(folders) == 1 and all(p.is_relative_to(folders[0]) for p in images)
    folder = folders[0] if inside else Path(os.path.commonpath([p.parent for p in images]))
    return folder, [p.relative_to(folder).as_posix() for p in images]


def _listed(path: Path) -> set[Path]:
    """The images that a list means.

    Lines that start with ``./`` stand beside the list; the others where Ultralytics looks, in the working directory, if
    the first of them is there, or else beside the list too.
    """
    lines = lines_of_list(path)
    first = next((line for line in lines if not line.startswith("./")), None)
    here = Path.cwd() if first is not None and os.path.isfile(first) else path.parent  # noqa: PTH113
    return {(path.parent if line.startswith("./") else here) / line for line in lines}


def refuse_odd_images(paths: Iterable[Path]) -> None:
    """Refuse what has the name of an image and never ends, before Ultralytics reads some of a split's to time it.

    What is missing, or no image though a file, is left to whoever opens it.

    Args:
        paths: Folders, text files with an image on each line, or images.

    Raises:
        DatasetError: A pipe or a device, or a file of more than :data:`MOST_BYTES`.
    """
    for path in paths:
        if is_folder(path):
            images: Iterable[Path] = path.rglob("*.*")
        else:  # what a list names is an image to Ultralytics too, never a folder or another list
            images = _listed(path) if path.suffix == ".txt" and is_file(path) else [path]
        for image in images:
            if image.suffix[1:].lower() in IMAGE_SUFFIXES:
                refuse_odd_image(image)


def refuse_odd_name(path: Path) -> None:
    """Refuse an image whose path is no UTF-8 text: OpenCV crashes on it, and most files that name it cannot.

    Raises:
        DatasetError: It is none.
    """
    if has_surrogates(str(path)):
        raise DatasetError(f"{path}: its name or folder is no UTF-8 text. Rename it.")


def refuse_odd_image(path: Path) -> None:
    """Refuse what an image's path leads to if it never ends; see :func:`refuse_odd_images`.

    Raises:
        DatasetError: A pipe or a device, a file of more than :data:`MOST_BYTES`, or a path that is no UTF-8 text.
    """
    refuse_odd_name(path)
    try:
        status = path.stat()
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise DatasetError(f"{path}: expected an image, found a pipe or a device. Remove it, or name others.")
    if status.st_size > MOST_BYTES:
        raise DatasetError(
            f"{path}: expected an image, found a file of {status.st_size:,} bytes. Remove it, or name others."
        )


def lines_of_list(path: Path) -> list[str]:
    """The lines of a list of images that say something.

    Raises:
        DatasetError: It is no file, no text, or of a size beyond any list.
    """
    refuse_endless(path, error=DatasetError)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}. Expected a list of images, one on each line.") from error
    if any("\0" in line for line in lines):
        raise DatasetError(f"{path}: expected a list of images, one on each line, found zero bytes. Write it again.")
    return [line for line in lines if line]


def label_file(image: Path) -> Path:
    """Where Ultralytics looks for the label of an image: below ``labels`` in place of the last folder ``images``."""
    head, separator, tail = str(image).rpartition(f"{os.sep}images{os.sep}")
    return Path(f"{head}{os.sep}labels{os.sep}{tail}" if separator else tail).with_suffix(".txt")
