"""Reference of an evaluation: which image a file is, and which category a class."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdyolo.errors import DatasetError
from kdyolo.metrics.ground_truth import GroundTruth
from kdyolo.metrics.reference import build_reference, image_ids
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


@pytest.mark.parametrize(
    "names",
    [
        ["https://a.b/c/1.jpg?size=full", "https://a.b/d/2.jpg"],
        ["C:\\data\\val\\1.jpg", "D:\\2.jpg"],
        ["/elsewhere/x/1.JPG", "y/2.jpg"],
        ["my%20folder/1.jpg", "2.jpg"],
    ],
)
def test_names_of_other_machines_by_their_last_part(names):
    files = ["/data/images/val/1.jpg", "/data/images/val/2.jpg"]
    assert image_ids(truth_of(*names), files) == {files[0]: 10, files[1]: 11}
    with pytest.raises(DatasetError, match="images of the data set are not in it"):
        image_ids(truth_of(*names, "q/1.jpg"), [*files, "/data/images/val/z/1.jpg"])


def test_images_without_names_are_one_clear_error():
    truth = replace(truth_of("10", "1.jpg"), unnamed=frozenset({10}))
    with pytest.raises(DatasetError, match=r"1 of its 2 images have no file_name.*--annotations"):
        image_ids(truth, ["/data/10.jpg", "/data/1.jpg"])


def test_images_must_be_the_same():
    with pytest.raises(DatasetError, match=r"1 of 2 images of the data set are not in it, e\.g\. /d/2\.jpg"):
        image_ids(truth_of("1.jpg"), ["/d/1.jpg", "/d/2.jpg"])
    with pytest.raises(DatasetError, match=r"1 of its 2 images are not in the data set, e\.g\. 2\.jpg \(id 11\)"):
        image_ids(truth_of("1.jpg", "2.jpg"), ["/d/1.jpg"])
    with pytest.raises(DatasetError, match="2 of 2 images"):
        image_ids(truth_of("1.jpg", "2.jpg"), ["/d/1.png", "/d/2.png"])


@pytest.fixture
def annotated(tmp_path):
    """An annotation file, the images of a data set of its, and the categories by ascending id."""
    content = random_ground_truth(images=3)
    path = write_json(tmp_path / "ann.json", content)
    categories = {c["id"]: c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])}
    return path, [f"/d/{image['file_name']}" for image in content["images"]], categories


def test_categories_by_id_for_the_data_sets_own_file_and_by_name_for_another(annotated):
    path, files, categories = annotated
    ids, names = list(categories), list(categories.values())
    assert build_reference(path, files, ["renamed"] * 5, ids).category_ids == ids
    assert build_reference(path, files, names[::-1]).category_ids == ids[::-1]
    with pytest.raises(DatasetError, match=r"1 of 5 classes of the data set are no categories .* 'dragon'"):
        build_reference(path, files, [*names[:2], "dragon", *names[3:]])
    more = build_reference(path, files, ["dragon", *names])  # of which this file has none, and nothing else is unknown
    assert more.category_ids[1:] == ids
    assert more.truth.categories[more.category_ids[0]] == "dragon"
    own = build_reference(path, files, [*names, "dragon"], [*ids, 1234])
    assert own.truth.categories == {**categories, 1234: "dragon"}


def test_only_the_classes_of_the_data_set_count(annotated):
    path, files, categories = annotated
    part = list(categories)[3]
    assert list(build_reference(path, files, ["any"], [part]).truth.categories) == [part]
    with pytest.raises(DatasetError, match="none with id 1234"):
        build_reference(path, files, ["any"], [1234])
