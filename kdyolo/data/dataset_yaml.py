"""Dataset YAMLs of Ultralytics: classes, category ids, and where the images and annotations of each split lie.

The one reader of these files. Commands that use a data set call :func:`load_dataset`, which refuses what they could not
work with; commands that only look at what was trained call :func:`look_at_dataset`, for which nothing has to be there
any more. Ultralytics reads one through :func:`check_for_ultralytics`, which lets it fetch and run nothing, and what it
has read goes through :func:`from_ultralytics`.
"""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdyolo.errors import DatasetError
from kdyolo.utils.plain_files import read_file
from kdyolo.utils.text import excerpt, plural, quoted, shortened
from kdyolo.utils.ultralytics_patches import fonts_left_out
from kdyolo.utils.yaml_files import MOST_BYTES, MOST_VALUES, load_yaml

_MOST_LINES = 40  # of a script that is shown
_LONGEST_NAME = 1000  # characters; matplotlib needs ten seconds to draw a million
ROLES = ("train", "val", "test")
LABEL_KEYS = ("task", "kpt_shape", "kpt_names", "skeleton")


@dataclass(frozen=True)
class Dataset:
    """The content of a dataset YAML.

    Attributes:
        path: The YAML.
        root: Folder that relative paths of the YAML start from.
        class_names: Class index 0…nc−1 → name, ascending.
        recorded_ids: Class index 0…nc−1 → COCO category id, ascending; None where the YAML has none.
        images: Role (train, val, test) → folders, lists or image files, as the YAML names them.
        recorded_annotations: Role → COCO JSON that the split was converted from, as the YAML names it.
        label_settings: What the YAML says on the form of its labels, as it stands there; see
            :func:`kdyolo.data.label_files.label_form`.
    """

    path: Path
    root: Path
    class_names: dict[int, str]
    recorded_ids: dict[int, int] | None
    images: dict[str, list[str]]
    recorded_annotations: dict[str, str]
    label_settings: dict[str, Any] = field(default_factory=dict)

    @property
    def category_ids(self) -> dict[int, int]:
        """Class index → category id; 1…nc where the YAML does not say otherwise."""
        return self.recorded_ids or {index: index + 1 for index in self.class_names}

    def places(self, split: str) -> list[Path]:
        """Folders, lists or image files of a split, whether they exist or not; none if the YAML does not name it.

        Links are followed and ``../`` is left out where it leads nowhere, as Ultralytics' ``check_det_dataset`` does.
        """
        return [_place(self.root, name) for name in self.images.get(split, ())]

    def annotations(self, split: str) -> Path | None:
        """The COCO JSON that the YAML records for a split, whether it exists or not."""
        recorded = self.recorded_annotations.get(split)
        return None if recorded is None else self.root / recorded

    def roles(self, role: str | None) -> dict[str, list[Path]]:
        """The places of one role, or of all roles without those that only repeat another.

        Raises:
            DatasetError: The YAML has no such role.
        """
        if role is not None and role not in self.images:
            raise DatasetError(f"{self.path}: expected a key {role!r}, found {', '.join(self.images)}. Choose another.")
        chosen = [role] if role else list(self.images)
        unique = {tuple(self.images[name]): name for name in reversed(chosen)}
        return {name: self.places(name) for name in chosen if name in unique.values()}

    def ids_in(self, annotations: Path, split: str) -> list[int] | None:
        """Category id of each class in an annotation file; None unless the split was converted from this very file."""
        recorded = self.annotations(split)
        own = recorded is not None and os.path.realpath(recorded) == os.path.realpath(annotations)
        return list(self.recorded_ids.values()) if own and self.recorded_ids else None


def load_dataset(path: Path) -> Dataset:
    """Read a dataset YAML to work with its data set.

    Raises:
        DatasetError: The YAML cannot be read, or lacks what is needed: a name for each class, a folder to start from
            that exists, and at least one split.
    """
    content = _with_val(_read(path))
    names = _class_names(content)
    if not names:
        found = content.get("names")
        raise DatasetError(f"{path}: expected under 'names' a name for each class 0, 1, …, found {quoted(found)}.")
    if content.get("nc") is not None and _whole(content["nc"]) != len(names):
        raise DatasetError(
            f"{path}: expected as many names as 'nc' says, found {len(names)} names and nc {quoted(content['nc'])}. "
            "Correct the one that is wrong."
        )
    _refuse_wrong_classes(path, content, names)
    for role in ROLES:
        if content.get(role) and not _paths(content[role]):
            raise DatasetError(
                f"{path}: expected under {role!r} a path or a list of paths, found {quoted(content[role])}."
            )
    images = _images(content)
    if not images:
        raise DatasetError(f"{path}: expected at least one of the keys {', '.join(ROLES)}, found none of them.")
    root = _root(path, content, images)
    ids = _ids(content.get("category_ids"), names)
    return Dataset(path, root, names, ids, images, _annotations(content), _label_settings(content))


def _root(path: Path, content: Mapping[str, Any], images: Mapping[str, Sequence[str]]) -> Path:
    """The first folder that the data set may lie in with images of a split there, else the first that exists.

    Raises:
        DatasetError: None of them exists.
    """
    candidates = _roots(path, content)
    if content.get("path") and not _exists(candidates[0]) and not os.path.isabs(str(content["path"])):  # noqa: PTH117
        from ultralytics.utils import DATASETS_DIR  # takes seconds; asked only where Ultralytics would look there too

        candidates.insert(1, DATASETS_DIR / str(content["path"]))
    folders = [candidate for candidate in candidates if candidate.is_dir()]
    if not folders:
        raise DatasetError(f"{path}: 'path' leads nowhere: there is no {candidates[0]}. Correct the YAML.")
    named = [name for role in ("train", "val") for name in images.get(role, ())]
    return next((root for root in folders if any(_exists(_place(root, name)) for name in named)), folders[0])


def look_at_dataset(path: Path) -> Dataset:
    """Read a dataset YAML only to see what it says, anywhere and at any time after it was used.

    What is missing or malformed in it counts as absent, and nothing that it names has to exist. A relative ``path`` is
    looked for beside the YAML first, since the working directory need not be the one that training was started in.

    Raises:
        DatasetError: The file cannot be read or holds no keys at all.
    """
    content = _with_val(_read(path))
    candidates = _roots(path, content)
    root = next((candidate for candidate in reversed(candidates) if candidate.exists()), candidates[0])
    return _dataset(path, root, content)


def from_ultralytics(data: Mapping[str, Any]) -> Dataset:
    """The data set that Ultralytics has read and checked itself.

    Args:
        data: What its ``check_det_dataset`` returns, with absolute paths.
    """
    root = Path(data["path"])
    return _dataset(Path(data.get("yaml_file") or root), root, data)


def check_for_ultralytics(
    data: str | Path, split: str, run_download: bool = False, channels: int | None = None
) -> dict[str, Any]:
    """The description of a data set, checked by Ultralytics, which fetches, unpacks and runs nothing for it.

    Args:
        data: Path of a dataset YAML or of the folder that it is in, or the name of one that Ultralytics ships.
        split: Split whose images have to be there.
        run_download: Run what the YAML has under ``download``, after showing it, if these images are missing.
        channels: Channels of the images that the model takes. Default: any number.

    Returns:
        The description with absolute paths, as Ultralytics' trainers take it.

    Raises:
        DatasetError: It cannot be read or used, its images are missing or of other channels, or it is a URL or an
            archive.
    """
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.utils import LOGGER

    file = dataset_file(str(data))
    content = _read(file)
    _refuse_wrong_classes(file, content, _class_names(content))
    if channels is not None and (said := content.get("channels", 3)) != channels:
        raise DatasetError(
            f"data {data}: the model takes images of {plural(channels, 'channel')}, the data set says 'channels: "
            f"{shortened(str(said), 40)}'. Expected 'channels: {channels}' in its YAML, or a model for these images."
        )
    script = content.get("download")
    if split not in ("train", "val") and not content.get(split):  # Ultralytics says the same of the other two
        there = [name for name in ("train", "val", "test") if content.get(name)]
        raise DatasetError(f"data {data}: it has no {split!r} images. It has: {', '.join(there)}.")
    try:
        with fonts_left_out():
            found: dict[str, Any] = check_det_dataset(str(file), autodownload=False, split=split)
        return found
    except FileNotFoundError as e:
        if not script:
            raise DatasetError(f"data {data}: {str(e).strip()}") from e
        missing = str(e).strip().splitlines()[0]
        if not run_download:
            raise DatasetError(
                f"data {data}: {missing}. The YAML names what would fetch them ({_kind(script)}), which is not run "
                f"unless you say so:\n{excerpt(str(script), _MOST_LINES)}\nGet the images in another way and correct "
                "'path'; or, if you have read this and trust it, run it by --run-download with kdyolo train or val."
            ) from e
    except Exception as e:  # Ultralytics raises many types here; each of them is about the data set
        raise DatasetError(f"data {data}: {str(e).strip()}") from e
    LOGGER.warning(f"{file}: running what it has under 'download' ({_kind(script)}), as asked:\n{excerpt(str(script))}")
    try:
        check_det_dataset(str(file), autodownload=True, split=split)
        return check_det_dataset(str(file), autodownload=False, split=split)  # type: ignore[no-any-return]
    except Exception as e:  # whatever the script raises
        raise DatasetError(f"data {data}: its download failed ({type(e).__name__}: {str(e).strip()}).") from e


def dataset_file(data: str) -> Path:
    """The YAML that a path, folder or name means; looked for on this machine only."""
    from ultralytics.data.utils import find_dataset_yaml
    from ultralytics.utils.checks import check_file

    if "://" in data:
        raise DatasetError(
            f"data {data}: expected a dataset YAML on this machine, found an address, from which nothing is fetched. "
            "Download the data set, unpack it, and give the path of its YAML."
        )
    try:
        whole = Path(data).exists() or data.endswith((".yaml", ".yml"))
        names = [data] if whole else [f"{data}.yaml", f"{data}.yml"]  # of a shipped one, e.g. coco8
        place = Path(next((found for name in names if (found := check_file(name, download=False, hard=False))), data))
        file = find_dataset_yaml(place) if place.is_dir() else place
    except Exception as e:  # of many types
        raise DatasetError(f"data {data}: {str(e).strip().splitlines()[0].rstrip('.')}. Name the YAML.") from e
    if not file.is_file():
        raise DatasetError(f"data {data}: '{file}' does not exist. Expected a dataset YAML.")
    if file.suffix in {".pt", ".pth", ".safetensors"}:
        raise DatasetError(f"data {data}: expected a dataset YAML, found weights. Give the YAML of the data set.")
    if zipfile.is_zipfile(file) or tarfile.is_tarfile(file):
        raise DatasetError(
            f"data {data}: expected a dataset YAML, found an archive. Unpack it, and give the path of the YAML in it."
        )
    return file


def _kind(script: Any) -> str:
    text = str(script)[:10].lower()
    if text.startswith("http"):
        return "an address"
    return "a command" if text.startswith("bash ") else "a Python script"


def find_annotations(dataset: Dataset, split: str) -> Path | None:
    """The COCO JSON to score a split with.

    Returns:
        The file that ``kdyolo convert`` recorded; else, for COCO as Ultralytics downloads it, the official file, if
        it is there; else None.

    Raises:
        DatasetError: The recorded file is missing.
    """
    recorded = dataset.annotations(split)
    if recorded is not None:
        if not recorded.is_file():
            raise DatasetError(
                f"{recorded}: the data set names this annotation file, but it is not there (a broken link?). Put it "
                "back, convert again, or name the file with --annotations."
            )
        return recorded
    images = [str(place) for place in dataset.places(split)]
    # The rule by which Ultralytics itself knows COCO.
    if len(images) == 1 and "coco" in images[0] and images[0].endswith(f"{os.sep}val2017.txt"):
        official = dataset.root / "annotations" / "instances_val2017.json"
        return official if official.is_file() else None
    return None


def _read(path: Path) -> dict[str, Any]:
    data = read_file(path, most=MOST_BYTES, error=DatasetError)
    if data is None:
        raise DatasetError(f"{path}: cannot be read: no such file. Give a dataset YAML.")
    try:
        content = load_yaml(data)
    except yaml.YAMLError as error:
        raise DatasetError(f"{path}: not a YAML file: {quoted(error)}. Give a dataset YAML.") from error
    if not isinstance(content, dict):
        raise DatasetError(f"{path}: expected keys such as 'train' and 'names', found none. Give a dataset YAML.")
    return content


def _with_val(content: dict[str, Any]) -> dict[str, Any]:
    """The content with ``validation`` as ``val``, unless there is one, as Ultralytics renames it."""
    if "val" in content or "validation" not in content:
        return content
    return {("val" if key == "validation" else key): value for key, value in content.items()}


def _dataset(path: Path, root: Path, content: Mapping[str, Any]) -> Dataset:
    """What can be used of the content."""
    names = _class_names(content)
    ids = _ids(content.get("category_ids"), names)
    return Dataset(path, root, names, ids, _images(content), _annotations(content), _label_settings(content))


def _class_names(content: Mapping[str, Any]) -> dict[int, str]:
    """Class index → name; nothing unless each class from 0 on has one. Without names, those that Ultralytics gives."""
    names = content.get("names")
    if names is None:
        return {index: f"class_{index}" for index in range(min(_whole(content.get("nc")) or 0, MOST_VALUES))}
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping):
        return {}
    numbered = {_whole(key): str(name) for key, name in names.items()}
    if len(numbered) < len(names) or numbered.keys() != set(range(len(names))):
        return {}
    return {index: numbered[index] for index in range(len(names))}


def _whole(value: Any) -> int | None:
    """A whole number, also one written as text or with a point."""
    try:
        return int(float(value)) if float(value).is_integer() else None
    except (TypeError, ValueError, OverflowError):
        return None


def _ids(ids: Any, names: Mapping[int, str]) -> dict[int, int] | None:
    """Class index → category id; None unless each class has a whole number of its own."""
    if not isinstance(ids, Mapping) or ids.keys() != names.keys():
        return None
    found = {index: number for index in names if (number := _whole(ids[index])) is not None}
    return found if found and len(set(found.values())) == len(ids) else None


def _refuse_wrong_classes(path: Path, content: Mapping[str, Any], names: Mapping[int, str]) -> None:
    """Refuse names too long to draw, and category ids of which a class has none of its own; names do without ids.

    Raises:
        DatasetError: They are wrong.
    """
    if len(longest := max(names.values(), key=len, default="")) > _LONGEST_NAME:
        raise DatasetError(f"{path}: expected names of at most {_LONGEST_NAME} characters, found {quoted(longest)}.")
    ids = content.get("category_ids")
    if ids and _ids(ids, names) is None:
        raise DatasetError(
            f"{path}: expected a category id of its own for each class, a whole number, found {quoted(ids)}. "
            "Correct the YAML."
        )


def _roots(path: Path, content: Mapping[str, Any]) -> list[Path]:
    """Where the data set may lie, first as Ultralytics reads it, from the working directory; then beside the YAML."""
    given, beside = content.get("path"), path.absolute().parent
    return [beside] if not given else [Path(str(given)).absolute(), beside / str(given)]


def _place(root: Path, name: str) -> Path:
    """Where a path of the YAML leads, by the rule of Ultralytics' ``check_det_dataset``, whether there is anything."""
    found = _real(root / name)
    # Roboflow writes '../train/images' for a folder that is beside its YAML.
    return _real(root / name[3:]) if name.startswith("../") and not _exists(found) else found


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists may raise


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # of a zero byte, with which nothing exists
        return path


def _label_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: content[key] for key in LABEL_KEYS if content.get(key) is not None}


def _images(content: Mapping[str, Any]) -> dict[str, list[str]]:
    return {role: paths for role in ROLES if (paths := _paths(content.get(role)))}


def _paths(value: Any) -> list[str]:
    """One path or several; nothing where it is something else."""
    values = value if isinstance(value, list) else [value]
    return values if all(isinstance(item, str) for item in values) else []


def _annotations(content: Mapping[str, Any]) -> dict[str, str]:
    recorded = content.get("annotations")
    if not isinstance(recorded, Mapping):
        return {}
    return {str(role): file for role, file in recorded.items() if isinstance(file, str)}
