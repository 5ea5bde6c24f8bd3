"""The one reader of dataset YAMLs: what it refuses, what it overlooks, and which annotations a split has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdyolo.data.dataset_yaml import find_annotations, from_ultralytics, load_dataset, look_at_dataset
from kdyolo.errors import DatasetError


def write(path: Path, /, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def converted(tmp_path) -> Path:
    """A YAML as kdyolo convert writes it, beside its annotation files."""
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"annotations/{split}.json").touch()
    return write(
        tmp_path / "data.yaml",
        path=str(tmp_path),
        train="train.txt",
        val=["val.txt", "more/images"],
        names={0: "cat", 1: "dog"},
        category_ids={0: 17, 1: 3},
        annotations={"train": "annotations/train.json", "val": "annotations/val.json"},
    )


@pytest.mark.parametrize("read", [load_dataset, look_at_dataset])
def test_what_a_converted_data_set_says(converted, tmp_path, read):
    dataset = read(converted)
    assert (dataset.path, dataset.root) == (converted, tmp_path)
    assert dataset.class_names == {0: "cat", 1: "dog"}
    assert dataset.category_ids == dataset.recorded_ids == {0: 17, 1: 3}
    assert dataset.places("train") == [tmp_path / "train.txt"]
    assert dataset.places("val") == [tmp_path / "val.txt", tmp_path / "more/images"]
    assert dataset.places("test") == []
    assert dataset.annotations("val") == tmp_path / "annotations/val.json"
    assert dataset.annotations("test") is None


def test_names_may_be_a_list_and_ids_may_be_absent(tmp_path):
    dataset = load_dataset(write(tmp_path / "data.yaml", names=["a", "b"], val="images"))
    assert dataset.root == tmp_path
    assert dataset.class_names == {0: "a", 1: "b"}
    assert dataset.recorded_ids is None
    assert dataset.category_ids == {0: 1, 1: 2}


def test_a_role_that_repeats_another_is_read_once(tmp_path):
    dataset = load_dataset(write(tmp_path / "data.yaml", names=["a"], train="images", val="images", test="others"))
    assert dataset.roles(None) == {"train": [tmp_path / "images"], "test": [tmp_path / "others"]}
    assert dataset.roles("val") == {"val": [tmp_path / "images"]}
    with pytest.raises(DatasetError, match="expected a key 'x', found train, val, test"):
        dataset.roles("x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected keys such as"),
        ("a: [", "not a YAML file"),
        ("train: images/train", "expected under 'names' a name for each class"),
        ("names: {0: a, 2: b}\ntrain: images/train", "expected under 'names' a name for each class"),
        ("names: [a]", "expected at least one of the keys train, val, test"),
        ("names: [a]\ntrain: 5", "expected under 'train' a path or a list of paths, found 5"),
        ("names: [a]\npath: /no/where\ntrain: x", "'path' leads nowhere: there is no /no/where"),
        ("names: [a]\ntrain: images/train\ncategory_ids: {0: 1, 1: 2}", "expected a category id of its own"),
        ("names: [a, b]\ntrain: images/train\ncategory_ids: {0: 1, 1: 1}", "expected a category id of its own"),
    ],
)
def test_what_cannot_be_worked_with_is_refused(tmp_path, content, message):
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(DatasetError) as caught:
        load_dataset(tmp_path / "data.yaml")
    assert message in str(caught.value)


def test_looking_overlooks_what_is_missing_or_malformed(tmp_path):
    content = {"path": "/no/where", "names": {0: "a", 2: "b"}, "category_ids": [1], "train": 5, "annotations": "none"}
    dataset = look_at_dataset(write(tmp_path / "data.yaml", **content, val="val.txt"))
    assert dataset.root == Path("/no/where")
    assert (dataset.class_names, dataset.recorded_ids) == ({}, None)
    assert (dataset.places("train"), dataset.places("val")) == ([], [Path("/no/where/val.txt")])
    assert dataset.annotations("val") is None
    for text in ("a: [", "[1]"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(DatasetError):
            look_at_dataset(tmp_path / "data.yaml")
    with pytest.raises(DatasetError, match="cannot be read"):
        look_at_dataset(tmp_path / "missing.yaml")


def test_classes_without_names_are_called_as_ultralytics_calls_them(tmp_path):
    assert look_at_dataset(write(tmp_path / "data.yaml", nc=2)).class_names == {0: "class_0", 1: "class_1"}


def test_a_relative_folder_starts_where_training_does_and_for_looking_beside_the_yaml(tmp_path, monkeypatch):
    path = write(tmp_path / "there/data.yaml", path="d", names=["a"], train="x")
    here, beside = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(DatasetError, match=f"there is no {here / 'd'}"):
        load_dataset(path)
    assert look_at_dataset(path).root == here / "d"
    (beside / "d").mkdir()
    assert load_dataset(path).root == look_at_dataset(path).root == beside / "d"
    (here / "d").mkdir()  # Ultralytics takes this one
    assert load_dataset(path).root == here / "d"
    assert look_at_dataset(path).root == beside / "d"


def test_ids_hold_in_the_file_that_the_split_was_converted_from(converted, tmp_path):
    dataset, own = load_dataset(converted), tmp_path / "annotations/val.json"
    (tmp_path / "link.json").symlink_to(own)
    assert dataset.ids_in(own, "val") == [17, 3]
    assert dataset.ids_in(Path(os.path.relpath(own)), "val") == [17, 3]
    assert dataset.ids_in(tmp_path / "link.json", "val") == [17, 3]
    assert dataset.ids_in(own, "train") is None
    assert dataset.ids_in(own, "test") is None
    plain = load_dataset(write(tmp_path / "plain.yaml", names=["a"], val="x", annotations={"val": str(own)}))
    assert plain.ids_in(own, "val") is None  # a hand-made YAML names the file, and no ids


def test_the_recorded_file(tmp_path):
    data: dict[str, Any] = {"path": tmp_path, "annotations": {"val": "annotations/any.json"}, "val": "x/val.txt"}
    with pytest.raises(DatasetError, match="names this annotation file"):
        find_annotations(from_ultralytics(data), "val")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/any.json").touch()
    assert find_annotations(from_ultralytics(data), "val") == tmp_path / "annotations/any.json"
    assert find_annotations(from_ultralytics(data), "test") is None


def test_coco_as_ultralytics_downloads_it(tmp_path):
    data = {"path": tmp_path, "val": f"{tmp_path}/coco/val2017.txt"}
    assert find_annotations(from_ultralytics(data), "val") is None
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").touch()
    assert find_annotations(from_ultralytics(data), "val") == tmp_path / "annotations/instances_val2017.json"
    assert find_annotations(from_ultralytics({**data, "val": f"{tmp_path}/val.txt"}), "val") is None
    assert find_annotations(from_ultralytics({**data, "val": [data["val"], "more"]}), "val") is None
