"""Links, lists and label files of a split on disk."""

from pathlib import Path

import pytest

from kdyolo.data.coco import split_writer
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.data.yolo_labels import label_path
from tests.builders.coco import box, image, make_split, one_box
from tests.builders.commands import tree


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "val"):
        one_box(tmp_path / "root", split)
    return tmp_path / "root"


def test_systems_without_folder_descriptors_give_the_same(root, tmp_path, monkeypatch):
    convert_coco(root, tmp_path / "out")
    first = tree(tmp_path / "out")
    monkeypatch.setattr(split_writer, "_KNOWS_DESCRIPTORS", False)
    convert_coco(root, tmp_path / "out")
    assert tree(tmp_path / "out") == first


def test_nested_and_unicode_names_in_sorted_lists(tmp_path):
    names = ["z.jpg", "sub/deep/a b.JPG", "./ünï/猫.png", "a.b.jpeg", "images/a.jpg"]
    make_split(tmp_path / "root", "train", [image(i, name) for i, name in enumerate(names)], [box(1, image_id=2)])
    convert_coco(tmp_path / "root", tmp_path / "out")
    names[2] = "ünï/猫.png"
    lines = (tmp_path / "out/train.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [f"./images/train/{name}" for name in sorted(names)]
    assert (tmp_path / "out/labels/train/ünï/猫.txt").read_text(encoding="utf-8").count("\n") == 1
    for name in names:
        assert (tmp_path / "out" / label_path("train", name)).is_file()
        assert (tmp_path / "out/images/train" / name).is_file()


@pytest.mark.parametrize("link", ["symlink", "hardlink", "copy"])
def test_links(root, tmp_path, link):
    convert_coco(root, tmp_path / "out", link=link)
    for source, target in (
        (root / "images/train/a.jpg", tmp_path / "out/images/train/a.jpg"),
        (root / "annotations/instances_train.json", tmp_path / "out/annotations/instances_train.json"),
    ):
        assert target.is_symlink() == (link == "symlink")
        assert target.samefile(source) == (link != "copy")
        assert target.read_bytes() == source.read_bytes()
    assert not (tmp_path / "out/images").is_symlink()
    assert not (tmp_path / "out/images/train").is_symlink()


def test_hard_link_to_a_linked_image_is_the_image(root, tmp_path):
    (root / "images/train/a.jpg").rename(tmp_path / "elsewhere.jpg")
    (root / "images/train/a.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    convert_coco(root, tmp_path / "out", link="hardlink")
    written = tmp_path / "out/images/train/a.jpg"
    assert written.samefile(tmp_path / "elsewhere.jpg")
    assert not written.is_symlink()
