"""Which JSON a data set has, which image of it a file is, and which category a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdyolo.errors import DatasetError
from kdyolo.metrics.coco_files import GroundTruth
from kdyolo.metrics.reference import build_reference, find_annotations, image_ids
from tests.builders.coco_results import random_ground_truth, write_json


def truth_of(*names: str) -> GroundTruth:
    return GroundTruth(Path("ann.json"), dict(enumerate(names, 10)), {1: "one"}, [])


@pytest.mark.parametrize(
    ("names", "folder"),
    [
        (["1.jpg", "2.jpg"], "/data/images/val"),
        (["a/1.jpg", "b/1.jpg", "1.jpg"], "/data/images/val"),
        (["a/1.jpg", "a/2.jpg"], "/data/images/val"),  # all files in one folder, which belongs to the names
        (["a/1.jpg", "1.jpg"], "/data/images/a"),  # a split of the name of a folder in it
        (["./val2017/1.jpg", "val2017//2.jpg"], "/data/images"),
        (["Ünïcode 名.JPG", "x.y.jpg"], "/da ta/images/val"),
        (["0001.jpg", "1.jpg"], "/data/images/val"),  # one number, two images
    ],
)
def test_images_by_file_name(names, folder):
    files = [str(Path(folder, name)) for name in names]
    assert image_ids(truth_of(*names), files) == dict(zip(files, range(10, 10 + len(names)), strict=True))


def test_absolute_names_count_from_their_common_folder():
    truth = truth_of("/mnt/photos/a/1.jpg", "/mnt/photos/b/1.jpg")
    files = ["/data/images/val/a/1.jpg", "/data/images/val/b/1.jpg"]
    assert image_ids(truth, files) == {files[0]: 10, files[1]: 11}


parts = st.text("ab1", min_size=1, max_size=2)
paths = st.lists(parts, min_size=1, max_size=3).map(lambda p: "/".join(p) + ".jpg")


@given(st.lists(paths, min_size=1, max_size=8, unique=True))
def test_no_two_files_are_one_image(names):
    files = [f"/x/images/a/{name}" for name in names]
    found = image_ids(truth_of(*names), files)
    assert sorted(found.values()) == list(range(10, 10 + len(names)))


def test_images_must_be_the_same():
    with pytest.raises(DatasetError, match=r"1 of 2 images of the data set are not in it, e\.g\. /d/2\.jpg"):
        image_ids(truth_of("1.jpg"), ["/d/1.jpg", "/d/2.jpg"])
    with pytest.raises(DatasetError, match=r"1 of its 2 images are not in the data set, e\.g\. 2\.jpg \(id 11\)"):
        image_ids(truth_of("1.jpg", "2.jpg"), ["/d/1.jpg"])
    with pytest.raises(DatasetError, match="2 of 2 images"):
        image_ids(truth_of("1.jpg", "2.jpg"), ["/d/1.png", "/d/2.png"])


def test_the_recorded_file(tmp_path):
    data: dict[str, Any] = {"path": tmp_path, "annotations": {"val": "annotations/any.json"}, "val": "x/val.txt"}
    with pytest.raises(DatasetError, match="names this annotation file"):
        find_annotations(data, "val")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/any.json").touch()
    assert find_annotations(data, "val") == tmp_path / "annotations/any.json"
    assert find_annotations(data, "test") is None


def test_coco_as_ultralytics_downloads_it(tmp_path):
    data = {"path": tmp_path, "val": f"{tmp_path}/coco/val2017.txt"}
    assert find_annotations(data, "val") is None
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").touch()
    assert find_annotations(data, "val") == tmp_path / "annotations/instances_val2017.json"
    assert find_annotations({**data, "val": f"{tmp_path}/val.txt"}, "val") is None
    assert find_annotations({**data, "val": [data["val"]]}, "val") is None


@pytest.fixture
def converted(tmp_path):
    content = random_ground_truth(images=3)
    path = write_json(tmp_path / "ann.json", content)
    categories = sorted(content["categories"], key=lambda c: c["id"])
    data = {
        "path": tmp_path,
        "annotations": {"val": "ann.json"},
        "category_ids": {i: c["id"] for i, c in enumerate(categories)},
        "names": {i: c["name"] for i, c in enumerate(categories)},
    }
    return data, path, [f"/d/{image['file_name']}" for image in content["images"]]


def test_categories_by_id_for_the_data_sets_own_file_and_by_name_for_another(converted, tmp_path):
    data, path, files = converted
    ids = list(data["category_ids"].values())
    assert (
        build_reference({**data, "names": dict.fromkeys(range(5), "renamed")}, "val", path, files).category_ids == ids
    )
    other = tmp_path / "other.json"
    other.write_bytes(path.read_bytes())
    backwards = dict(enumerate(reversed(data["names"].values())))
    assert build_reference({**data, "names": backwards}, "val", other, files).category_ids == ids[::-1]
    with pytest.raises(DatasetError, match=r"1 of 5 classes of the data set are no categories .* 'dragon'"):
        build_reference({**data, "names": {**data["names"], 2: "dragon"}}, "val", other, files)


def test_only_the_classes_of_the_data_set_count(converted):
    data, path, files = converted
    part = {0: data["category_ids"][3]}
    reference = build_reference({**data, "category_ids": part}, "val", path, files)
    assert list(reference.truth.categories) == [part[0]]
    with pytest.raises(DatasetError, match="none with id 1234"):
        build_reference({**data, "category_ids": {0: 1234}}, "val", path, files)
