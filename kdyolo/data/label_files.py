"""Label files of a YOLO data set, read as Ultralytics' own scan reads them: boxes, polygons, poses and rotated boxes.

A row is told by its number of columns: ``class cx cy w h`` is a box, with as many columns more as ``kpt_shape`` of the
YAML asks for it is a pose, and from three corners on it is a polygon. Nothing in a row tells a rotated box (OBB) from a
polygon of four corners: Ultralytics knows it from the task of the model, and here ``task: obb`` in the YAML says so. It
makes no difference to box, outline and area unless the corners do not go around the object in order, or are more than
four: then Ultralytics takes the smallest rectangle around them, and so do we. What Ultralytics would leave
out with its whole image and a warning is an error here, unless each row has one meaning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdyolo.data.dataset_yaml import Dataset
from kdyolo.data.yolo_labels import Label
from kdyolo.errors import DatasetError
from kdyolo.utils.plain_files import refuse_endless
from kdyolo.utils.text import quoted

_TOLERANCE = 0.01  # beyond the image, as Ultralytics grants it
_MOST_KEYPOINTS = 10_000  # of one object


@dataclass(frozen=True)
class LabelForm:
    """What the columns of a data set's label files mean.

    Attributes:
        classes: Number of classes.
        keypoints: Number of keypoints of each object; 0 where the data set has no poses.
        dimensions: Columns of a keypoint: 2 for x and y, 3 with the visibility.
        rotated: Whether four corners are a rotated box.
        keypoint_names: Class index → name of each keypoint; empty where the YAML has none.
        skeleton: Pairs of keypoints that are joined, counted from 1, as COCO has them.
    """

    classes: int
    keypoints: int = 0
    dimensions: int = 0
    rotated: bool = False
    keypoint_names: Mapping[int, Sequence[str]] | None = None
    skeleton: Sequence[Sequence[int]] = ()

    @property
    def pose_columns(self) -> int:
        """Numbers after the class in the row of a pose; 0 where the data set has no poses."""
        return 4 + self.keypoints * self.dimensions if self.keypoints else 0

    def pose_of(self, label: Label, width: int, height: int) -> dict[str, Any]:
        """COCO's fields of a pose in pixels; where the data set has poses and the object none, zeros, as COCO has."""
        without = {"keypoints": [0] * 3 * self.keypoints, "num_keypoints": 0} if self.keypoints else {}
        return label.pose(width, height) or without

    def category(self, index: int) -> dict[str, Any]:
        """``keypoints`` and ``skeleton`` of a class's category; nothing where the YAML has no names of keypoints."""
        names = (self.keypoint_names or {}).get(index)
        return {"keypoints": list(names), "skeleton": [list(pair) for pair in self.skeleton]} if names else {}


def label_form(data: Dataset) -> LabelForm:
    """The form of a data set's labels, by ``task``, ``kpt_shape``, ``kpt_names`` and ``skeleton`` of its YAML.

    Raises:
        DatasetError: One of them is not what Ultralytics' pose training takes, or contradicts another.
    """
    settings, classes = data.label_settings, len(data.class_names)
    keypoints, dimensions = _shape(data.path, settings)
    names = settings.get("kpt_names")
    if names is None or not keypoints:
        return LabelForm(classes, keypoints, dimensions, settings.get("task") == "obb")
    of_class = names if isinstance(names, Mapping) else dict.fromkeys(range(classes), names)
    if not all(isinstance(of, list) and len(of) == keypoints for of in of_class.values()):
        raise DatasetError(
            f"{data.path}: expected under 'kpt_names' {keypoints} names for each class, found "
            f"{quoted(names)}. Correct the YAML."
        )
    skeleton = settings.get("skeleton", [])
    if not isinstance(skeleton, list) or not all(_is_edge(pair, keypoints) for pair in skeleton):
        raise DatasetError(
            f"{data.path}: expected under 'skeleton' pairs of keypoints from 1 to {keypoints}, found "
            f"{quoted(skeleton)}. Correct the YAML."
        )
    known = {index: [str(name) for name in of] for index in range(classes) if (of := _of_class(of_class, index))}
    return LabelForm(classes, keypoints, dimensions, settings.get("task") == "obb", known, skeleton)


def _shape(path: Path, settings: Mapping[str, Any]) -> tuple[int, int]:
    shape = settings.get("kpt_shape", [0, 0])
    valid = isinstance(shape, list) and len(shape) == 2 and all(type(v) is int for v in shape)
    if valid and shape[0] <= 0 and settings.get("task") != "pose":
        return 0, 0
    if not valid or not 0 < shape[0] <= _MOST_KEYPOINTS or shape[1] not in (2, 3):
        raise DatasetError(
            f"{path}: expected under 'kpt_shape' the number of keypoints and 2 (x, y) or 3 (x, y, visibility), "
            f"found {quoted(settings.get('kpt_shape'))}. Correct the YAML."
        )
    return shape[0], shape[1]


def _of_class(names: Mapping[Any, list[Any]], index: int) -> list[Any] | None:
    return names.get(index, names.get(str(index)))


def _is_edge(pair: Any, keypoints: int) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(end) is int and 1 <= end <= keypoints for end in pair)


def read_labels(path: Path, form: LabelForm) -> list[Label]:
    """The lines of a label file; none where there is no file, as for Ultralytics.

    Raises:
        DatasetError: The file cannot be read, or a line is no label of this form.
    """
    refuse_endless(path, error=DatasetError)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}.") from error
    return [_parse(path, number, line, form) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse(path: Path, number: int, line: str, form: LabelForm) -> Label:
    fields = line.split()
    try:
        index, *values = map(float, fields)
    except ValueError:
        index, values = math.nan, []
    label = _label(index, values, form)
    if label is None:
        pose = f", or with {form.pose_columns - 4} numbers of keypoints after that box," if form.keypoints else ""
        raise DatasetError(
            f"{path}, line {number}: expected 'class cx cy w h'{pose} or 'class x1 y1 x2 y2 x3 y3 …' with coordinates "
            f"from 0 to 1, found {quoted(line, 80)}. Correct the label."
        )
    if not (index.is_integer() and 0 <= index < form.classes):
        raise DatasetError(f"{path}, line {number}: expected a class from 0 to {form.classes - 1}, found {fields[0]}.")
    return label


def _label(index: float, values: list[float], form: LabelForm) -> Label | None:
    """A row as a label, whatever its class; None where it has no meaning or lies outside the image."""
    if not all(map(math.isfinite, (index, *values))):
        return None
    if form.keypoints and len(values) == form.pose_columns:
        points = _keypoints(values[4:], form.dimensions)
        inside = _is_inside(values[:4]) and all(map(_is_fraction, (*points[::3], *points[1::3])))
        return Label(int(index), tuple(values[:4]), points) if inside else None
    if len(values) == 4:
        return Label(int(index), tuple(values)) if _is_inside(values) else None
    if len(values) < 6 or len(values) % 2 or not _is_inside(_bounds(values)):
        return None
    return Label(int(index), tuple(values), rotated=form.rotated)


def _is_fraction(value: float) -> bool:
    return -_TOLERANCE <= value <= 1 + _TOLERANCE


def _is_inside(box: Sequence[float]) -> bool:
    """Whether Ultralytics takes a box: its centre and its sides count, not whether its corners reach beyond."""
    return all(map(_is_fraction, box)) and min(box[2:]) >= 0


def _bounds(corners: Sequence[float]) -> list[float]:
    """The box cx, cy, w, h around corners."""
    (left, right), (top, bottom) = ((min(v), max(v)) for v in (corners[::2], corners[1::2]))
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def _keypoints(values: list[float], dimensions: int) -> tuple[float, ...]:
    """Place and COCO's visibility of each keypoint.

    Without visibility, one left of or above the image is not labelled and others are visible; with it, Ultralytics
    counts all as labelled that are not 0 (predicted labels have a score there).
    """
    points = [values[i : i + dimensions] for i in range(0, len(values), dimensions)]
    if dimensions == 2:
        seen = [0.0 if min(point) < 0 else 2.0 for point in points]
    else:
        seen = [point[2] if point[2] in (0, 1) else 2.0 for point in points]
    return tuple(v for point, visible in zip(points, seen, strict=True) for v in (*point[:2], visible))
