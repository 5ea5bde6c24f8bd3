"""Image records read carefully: which file each means, and how large it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdyolo.coco_json.records import RegularDocument
from kdyolo.coco_json.values import real_number, shown, whole_number
from kdyolo.data.coco.reading.image_files import ImageFiles
from kdyolo.data.coco.reading.regularity import FindProblems
from kdyolo.data.coco.reading.schema import ImageRecord, RecordLog
from kdyolo.data.image_names import find_missing, image_problem, normalise
from kdyolo.errors import DatasetError
from kdyolo.utils.text import number_and_noun

# Where tools write the name of an image's file; LVIS has only coco_url.
_NAME_KEYS = ("file_name", "coco_url", "path", "url", "flickr_url")
_MISSING = "image file is missing"
_SHARED = "image file is another record's too"
_MOST_NAMED = 3


def find_images(
    regular: RegularDocument, folder: Path, problems: FindProblems | None, log: RecordLog
) -> tuple[dict[int, ImageRecord], list[str]]:
    """The images whose file exists and can be used.

    Args:
        regular: Records of the file in one form.
        folder: Folder with the images.
        problems: Function that gives the unusable images of a folder with the reasons; without it, an image that
            exists is usable.
        log: Log of the invalid images.

    Returns:
        Image id → record, its file name relative to ``folder``; and sentences on what was read otherwise than written.

    Raises:
        DatasetError: An image is invalid and not to be skipped (missing files are reported together), or none is left.
    """
    search = _Search(ImageFiles(folder), regular, log)
    images = search.images()
    if problems:
        found = problems(folder, [image.file_name for image in images.values()])
        for row, key in [(row, key) for row, key in search.rows.items() if key in images]:
            if why := found.get(images[key].file_name):
                log.invalid("image", row, key, "image cannot be used", f"{folder / images.pop(key).file_name}: {why}")
    if not images:
        counts = ", ".join(f"{reason} ({count})" for reason, count in log.skipped["image"].items())
        raise DatasetError(
            f"{log.path}: no valid image is left: {counts}. Correct the file or the image folder {folder}."
        )
    return images, search.notes()


class _Search:
    """The way from records to image files.

    Attributes:
        rows: Place of each record in the file → its id.
    """

    def __init__(self, files: ImageFiles, regular: RegularDocument, log: RecordLog) -> None:
        self._files, self._log = files, log
        self._records = dict(zip(regular.image_rows, regular.images, strict=True))
        self.rows = {row: record["id"] for row, record in self._records.items()}
        self._told: Counter[str] = Counter()

    def notes(self) -> list[str]:
        """A sentence for each kind of what was read otherwise than it is written."""
        return [number_and_noun(count, what) for what, count in self._told.items() if count]

    def images(self) -> dict[int, ImageRecord]:
        """Image id → record, of those with a usable file that is theirs alone, and a size."""
        names = {row: name for row, record in self._records.items() if (name := self._name(row, record)) is not None}
        names = self._existing(names)
        images, owner_of = {}, dict[str, str]()  # file name without suffix, which is the label's name → file name
        for row, name in names.items():
            record, stem = self._records[row], name.rpartition(".")[0]
            if owner_of.get(stem) == name:
                self._log.invalid("image", row, record["id"], "two images of one name", repr(name))
            elif stem in owner_of:
                both = f"{owner_of[stem]!r} and {name!r} would both own '{stem}.txt'"
                self._log.invalid("image", row, record["id"], "two images share a label file", both)
            elif size := self._size(row, record, name):
                owner_of[stem] = name
                images[record["id"]] = ImageRecord(record["id"], name, *size)
        return images

    def _name(self, row: int, record: Mapping[str, Any]) -> str | None:
        """The name of the file as it is written."""
        given = [record[key] for key in _NAME_KEYS if record.get(key) not in (None, "")]
        if not given or not isinstance(given[0], str):
            what = shown(given[0]) if given else ""
            self._log.invalid(
                "image", row, record["id"], "file_name is not text" if given else "has no file_name", what
            )
            return None
        if record.get("file_name") in (None, ""):
            self._told["image{ has|s have} no file_name: that in the URL or path counts"] += 1
        return given[0]

    def _existing(self, written: Mapping[int, str]) -> dict[int, str]:
        """Place of each record → relative name of its file."""
        folder = self._files.folder
        names = {row: normalise(name, folder) for row, name in written.items()}
        wrong = {row for row, name in names.items() if image_problem(name, 1, 1)}
        absent = find_missing(folder, [name for row, name in names.items() if row not in wrong])
        lost = [row for row in names if row in wrong or names[row] in absent]
        found = {row: name for row in lost if (name := self._files.find(written[row])) is not None}
        claims = Counter({**names, **dict.fromkeys(lost, ""), **found}.values())
        shared = {row: name for row, name in found.items() if claims[name] > 1}
        for row, name in shared.items():
            detail = f"{shown(written[row])} would be {name!r}, which is meant by {claims[name]} records"
            self._log.invalid("image", row, self.rows[row], _SHARED, detail)
        self._refuse_lost([row for row in lost if row not in found], names, written)
        own = {row: name for row, name in found.items() if row not in shared}
        self._told["image{ is|s are} found below the image folder by the base name of the file"] += len(own)
        return {row: own.get(row, names[row]) for row in names if row in own or row not in lost}

    def _refuse_lost(self, rows: Sequence[int], names: Mapping[int, str], written: Mapping[int, str]) -> None:
        problems = {row: image_problem(names[row], 1, 1) for row in rows}
        missing = [row for row in rows if not problems[row]]
        for row, problem in problems.items():
            if problem:
                hint = "" if self._log.skip_invalid else self._files.advice(written[row])
                self._log.invalid("image", row, self.rows[row], problem[0], f"{problem[1]}. {hint}".rstrip(". "))
        if missing and not self._log.skip_invalid:
            raise self._missing(missing, names, written)
        for row in missing:
            self._log.invalid("image", row, self.rows[row], _MISSING)

    def _missing(self, rows: Sequence[int], names: Mapping[int, str], written: Mapping[int, str]) -> DatasetError:
        first = ", ".join(f"{names[row]} (image {row}, id {self.rows[row]})" for row in rows[:_MOST_NAMED])
        hint = self._files.advice(written[rows[0]])
        return DatasetError(
            f"{self._log.path}: {len(rows)} of {len(self.rows)} image files are missing in {self._files.folder}: "
            f"{first}{', …' if len(rows) > _MOST_NAMED else ''}. {hint}Unpack all of the images "
            "there, name their folder with --images, or leave those without a file out with --skip-invalid."
        )

    def _size(self, row: int, record: Mapping[str, Any], name: str) -> tuple[int, int] | None:
        """Width and height in pixels; those of the file where the record has none."""
        sides = [_side(record.get(key)) for key in ("width", "height")]
        if None in sides:
            values = ", ".join(f"{key} {shown(record.get(key))}" for key in ("width", "height"))
            self._log.invalid("image", row, record["id"], "width and height must be whole numbers", values)
            return None
        width, height = (side or 0 for side in sides)
        if 0 in sides and min(width, height) >= 0:
            return self._size_of_file(row, record, name)
        if problem := image_problem(name, width, height):
            self._log.invalid("image", row, record["id"], *problem)
            return None
        if not all(type(record[key]) is int for key in ("width", "height")):
            self._told["image{ has|s have} a size in another spelling of whole numbers: read as such"] += 1
        return width, height

    def _size_of_file(self, row: int, record: Mapping[str, Any], name: str) -> tuple[int, int] | None:
        from kdyolo.data.image_verification import verify_image  # Pillow waits until it is needed

        path = self._files.folder / name
        found = verify_image(path)
        if found.problem:
            self._log.invalid("image", row, record["id"], "has no size, and its file none", f"{path}: {found.problem}")
            return None
        self._told["image{ has|s have} no width and height: read from the file"] += 1
        return found.width, found.height


def _side(value: Any) -> int | None:
    """A width or height; 0 where none is given, None for what has no meaning."""
    if value is None or value == "" or (isinstance(value, float) and real_number(value) is None):
        return 0
    return whole_number(value)
