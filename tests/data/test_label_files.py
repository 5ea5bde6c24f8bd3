"""Label files: what each row means, held equal to Ultralytics' own scan of the same files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from kdyolo.data.dataset_yaml import load_dataset
from kdyolo.data.label_files import label_form
from kdyolo.data.yolo_to_coco import to_coco
from kdyolo.errors import DatasetError
from tests.builders.coco import yolo_dataset

POSE3 = "0 0.5 0.5 0.2 0.4 0.45 0.44 2 0.55 0.5 1 0 0 0\n"
POSE2 = "0 0.5 0.5 0.2 0.4 0.45 0.44 0.55 0.5 -0.005 0.3\n"
PERSON = {"kpt_shape": [3, 3], "kpt_names": {0: ["a", "b", "c"]}, "skeleton": [[1, 2], [2, 3]]}


def export(folder: Path, text: str, size=(100, 50), **content: Any) -> dict[str, Any]:
    """One image with this label, written as COCO."""
    path = yolo_dataset(folder / "d", {"a.jpg": text}, size=size, **content)
    to_coco(path, folder / "out.json")
    return json.loads((folder / "out.json").read_text())


def test_keypoints_become_coco_s(tmp_path):
    found = export(tmp_path, POSE3, **PERSON)
    assert found["annotations"] == [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 1,
            "bbox": [40, 15, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "keypoints": [45, 22, 2, 55, 25, 1, 0, 0, 0],
            "num_keypoints": 2,
        }
    ]
    assert found["categories"] == [
        {"id": 1, "name": "cat", "keypoints": ["a", "b", "c"], "skeleton": [[1, 2], [2, 3]]},
        {"id": 2, "name": "dog"},
    ]


@pytest.mark.parametrize(
    ("text", "shape", "keypoints", "count"),
    [
        (POSE2, [3, 2], [45, 22, 2, 55, 25, 2, -0.5, 15, 0], 2),  # left of the image: not labelled, for Ultralytics too
        ("0 0.5 0.5 0.2 0.4\n", [3, 3], [0] * 9, 0),
        ("0 0.5 0.5 0.2 0.4 0.1 0.2 0.87\n", [1, 3], [10, 10, 2], 1),  # a score, as predicted labels have
        ("0 0.5 0.5 0.2 0.4 0.123456 0.1 2\n", [1, 3], [12.3456, 5, 2], 1),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2\n", [3, 3], [0] * 9, 0),  # a polygon among poses
    ],
)
def test_visibility_and_objects_without_a_pose(tmp_path, text, shape, keypoints, count):
    (found,) = export(tmp_path, text, kpt_shape=shape)["annotations"]
    assert (found["keypoints"], found["num_keypoints"]) == (keypoints, count)


def test_pycocotools_scores_the_poses(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rows = POSE3 + "1 0.2 0.2 0.2 0.2\n" + POSE3.replace("0 0.5 0.5", "0 0.3 0.6", 1)
    found = export(tmp_path, rows, **PERSON)
    truth = COCO(str(tmp_path / "out.json"))
    results = truth.loadRes([{**a, "score": 0.9} for a in found["annotations"] if a["num_keypoints"]])
    evaluation = COCOeval(truth, results, "keypoints")
    evaluation.params.kpt_oks_sigmas = np.full(3, 0.05)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"]
    assert precision[precision > -1].mean() == pytest.approx(1)


@pytest.mark.parametrize("task", ["obb", None])
def test_a_rotated_box_is_its_corners(tmp_path, task):
    """Four corners that go around: the same outline, box and area whether they are a polygon or a rotated box."""
    (found,) = export(tmp_path, "1 0.5 0.2 0.7 0.6 0.5 1.0 0.3 0.6\n", **({"task": task} if task else {}))[
        "annotations"
    ]
    assert found["segmentation"] == [[50, 10, 70, 30, 50, 50, 30, 30]]
    assert (found["bbox"], found["area"]) == ([30, 10, 40, 40], 800)


def test_corners_of_a_rotated_box_in_another_order(tmp_path):
    crossing = "1 0.5 0.2 0.5 1.0 0.7 0.6 0.3 0.6\n"  # as an outline it crosses itself
    (found,) = export(tmp_path / "obb", crossing, task="obb")["annotations"]
    assert (found["bbox"], found["area"]) == ([30, 10, 40, 40], pytest.approx(800))
    corners = np.reshape(found["segmentation"][0], (4, 2))
    assert {tuple(corner) for corner in corners} == {(50, 10), (70, 30), (50, 50), (30, 30)}
    (found,) = export(tmp_path / "polygon", crossing)["annotations"]
    assert found["segmentation"] == [[50, 10, 50, 50, 70, 30, 30, 30]]


def test_a_rotated_box_of_more_corners_is_the_rectangle_that_ultralytics_takes(tmp_path):
    from ultralytics.utils.ops import xyxyxyxy2xywhr

    values = [0.2, 0.3, 0.5, 0.2, 0.7, 0.5, 0.6, 0.8, 0.3, 0.9]
    (found,) = export(tmp_path, f"0 {' '.join(map(str, values))}\n", task="obb")["annotations"]
    pixels = np.reshape(values, (1, 5, 2)) * (100, 50)
    expected = xyxyxyxy2xywhr(pixels)[0]
    ours = xyxyxyxy2xywhr(np.reshape(found["segmentation"], (1, 4, 2)))[0]
    np.testing.assert_allclose(ours[:4], expected[:4], atol=0.02)
    assert found["area"] == pytest.approx(expected[2] * expected[3], rel=1e-3)


# ---- held equal to Ultralytics ---------------------------------------------------------------------------------------

ROWS = {
    "boxes": ("0 0.5 0.5 0.2 0.4\n1 0.25 0.25 0.5 0.5\n", "detect", {}),
    "empty lines": ("\n0 0.5 0.5 0.2 0.4\n   \n\n1 0.1 0.1 0.1 0.1\n\n", "detect", {}),
    "byte-order mark": ("\ufeff0 0.5 0.5 0.2 0.4\n", "detect", {}),
    "Windows lines, tabs": ("0\t0.5 0.5  0.2 0.4\r\n1.0 0.1 0.1 0.1 0.1\r\n", "detect", {}),
    "duplicates": ("0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.1 0.1\n0 .50 0.5 0.2 0.400000000001\n", "detect", {}),
    "duplicate polygons": ("0 0.1 0.1 0.2 0.1 0.2 0.2\n" * 2 + "0 0.1 0.1 0.2 0.1 0.1 0.2\n", "detect", {}),
    "beyond the image": ("0 0.95 0.5 0.2 0.4\n1 1.005 -0.005 0.1 0.1\n", "detect", {}),
    "corners beyond the image": ("0 0.3 0.1 0.6 -0.1 1.05 0.7\n1 -0.05 0.1 0.2 0.1 0.2 0.2\n", "segment", {}),
    "polygons": ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.3\n1 0.5 0.5 0.6 0.5 0.6 0.7\n", "segment", {}),
    "poses": (POSE3 + POSE3.replace("0.5", "0.4"), "pose", {"kpt_shape": [3, 3]}),
    "duplicate poses": (POSE3 * 2 + POSE3.replace("0.45", "0.46"), "pose", {"kpt_shape": [3, 3]}),
    "poses of two numbers": (POSE2, "pose", {"kpt_shape": [3, 2]}),
    "poses as boxes": (POSE3 + "1 0.1 0.1 0.1 0.1\n", "detect", {"kpt_shape": [3, 3]}),
    "rotated boxes": ("0 0.5 0.2 0.7 0.6 0.5 1.0 0.3 0.6\n", "obb", {"task": "obb"}),
    "nothing": ("", "detect", {}),
}


@pytest.mark.parametrize("kind", ROWS)
def test_labels_are_read_as_ultralytics_reads_them(tmp_path, kind):
    from ultralytics.data.utils import verify_image_label

    text, task, content = ROWS[kind]
    size = (80, 40)
    found = export(tmp_path, text, size, **content)["annotations"]
    shape = content.get("kpt_shape", (0, 0))
    files = (str(tmp_path / "d/images/train/a.jpg"), str(tmp_path / "d/labels/train/a.txt"))
    image, labels, _, segments, keypoints, *_ = verify_image_label((*files, "", task == "pose", 2, *shape, False))
    assert image is not None  # or Ultralytics would have left it out
    # Ultralytics sorts the rows where it removes duplicates; to be compared, so are all.
    boxes = np.array([[a["category_id"] - 1, *a["bbox"]] for a in found]).reshape(-1, 5)
    boxes[:, 1:3] += boxes[:, 3:] / 2
    boxes[:, 1:] /= (*size, *size)
    ours, theirs = np.lexsort(boxes.round(4).T), np.lexsort(labels.round(4).T)
    np.testing.assert_allclose(boxes[ours], labels[theirs], atol=2e-6)
    assert len(segments) == sum("segmentation" in a for a in found)
    if segments:
        outlines = [(np.reshape(a["segmentation"][0], (-1, 2)) / size).round(5).ravel().tolist() for a in found]
        assert sorted(outlines) == sorted(s.astype(float).round(5).ravel().tolist() for s in segments)
    if task == "pose":
        poses = np.array([a["keypoints"] for a in found]).reshape(len(found), -1, 3) / (*size, 1)
        np.testing.assert_allclose(poses[ours][..., :2], keypoints[theirs][..., :2], atol=2e-6)
        np.testing.assert_array_equal(poses[ours][..., 2] > 0, keypoints[theirs][..., 2] > 0)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("0 0.5 0.5 0.2\n", {}),
        ("0 0.5 0.5 0.2 0.2 0.9\n", {}),
        ("0 0.5 0.5 -0.002 0.2\n", {}),
        ("0 1.02 0.5 0.2 0.2\n", {}),
        ("0 0.1 0.1 0.2 0.1 0.2 1.2 0.3 1.3\n0 0.9 0.9 2.2 0.9 2.2 2.9\n", {}),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.3\n", {}),
        ("0 0.5 nan 0.2 0.2\n", {}),
        ("0\n", {}),
        ("0.5 0.5 0.5 0.2 0.2\n", {}),
        ("2 0.5 0.5 0.2 0.2\n", {}),
        (POSE3.replace("0.45", "1.45"), {"kpt_shape": [3, 3]}),
        (POSE3.replace("\n", " 0.5\n"), {"kpt_shape": [3, 3]}),
    ],
)
def test_what_ultralytics_drops_with_its_image_is_refused(tmp_path, text, content):
    from ultralytics.data.utils import verify_image_label

    with pytest.raises(DatasetError, match=r"a\.txt, line [12]: expected"):
        export(tmp_path, text, **content)
    files = (str(tmp_path / "d/images/train/a.jpg"), str(tmp_path / "d/labels/train/a.txt"))
    shape = content.get("kpt_shape", (0, 0))
    assert verify_image_label((*files, "", bool(content), 2, *shape, False))[0] is None


def test_what_is_read_otherwise_is_told(tmp_path):
    mixed = {"a.jpg": "0 0.5 0.5 0.2 0.4\n0 0.1 0.1 0.2 0.1 0.2 0.2\n", "b.jpg": "0 0.5 0.5 0.2 0.4\n" * 3}
    result = to_coco(yolo_dataset(tmp_path / "d", mixed), tmp_path / "out.json")
    assert result.annotations == 3
    assert str(result).splitlines()[1:] == [
        "  2 labels repeat another one of their image and are left out, as by Ultralytics.",
        "  1 image mixes boxes and polygons: each line is written as what it is; Ultralytics leaves such images out.",
    ]
    poses = yolo_dataset(tmp_path / "p", {"a.jpg": POSE3, "b.jpg": "0 0.5 0.5 0.2 0.4\n"}, kpt_shape=[3, 3])
    assert to_coco(poses, tmp_path / "out.json").notes == (
        "1 image has objects without keypoints, which Ultralytics trains on as boxes, not as poses.",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kpt_shape": [3, 4]}, "expected under 'kpt_shape' the number of keypoints and 2"),
        ({"kpt_shape": "3x3"}, "found '3x3'"),
        ({"kpt_shape": [1e9, 2]}, "expected under 'kpt_shape'"),
        ({"task": "pose"}, "expected under 'kpt_shape'"),
        ({"kpt_shape": [2, 3], "kpt_names": {0: ["a"]}}, "expected under 'kpt_names' 2 names for each class"),
        ({**PERSON, "skeleton": [[0, 1]]}, "pairs of keypoints from 1 to 3"),
    ],
)
def test_a_form_that_contradicts_itself_is_refused(tmp_path, content, message):
    with pytest.raises(DatasetError, match="Correct the YAML") as caught:
        label_form(load_dataset(yolo_dataset(tmp_path / "d", {"a.jpg": ""}, **content)))
    assert message in str(caught.value)


def test_names_of_keypoints_for_all_classes_or_by_text_keys(tmp_path):
    for names in (["x"], {0: ["x"], 1: ["x"]}, {"0": ["x"], "1": ["x"]}):
        path = yolo_dataset(tmp_path / "d", {"a.jpg": ""}, kpt_shape=[1, 3], kpt_names=names)
        form = label_form(load_dataset(path))
        assert [form.category(i) for i in (0, 1)] == [{"keypoints": ["x"], "skeleton": []}] * 2
    assert yaml.safe_load(path.read_text())["kpt_names"] == {"0": ["x"], "1": ["x"]}
