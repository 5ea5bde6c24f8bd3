"""Where a conversion refuses to write."""

import shutil
from pathlib import Path

import pytest

from kdyolo.data.coco_to_yolo import CocoSplit, convert_coco
from kdyolo.errors import DatasetError
from tests.builders.coco import one_box
from tests.builders.commands import tree


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "val"):
        one_box(tmp_path / "root", split)
    return tmp_path / "root"


def test_foreign_output_is_refused(root, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/data.yaml").write_text("path: mine\n")
    with pytest.raises(DatasetError, match=r"found data\.yaml and no YAML that kdyolo convert wrote"):
        convert_coco(root, tmp_path / "out")
    assert tree(tmp_path / "out").keys() == {"data.yaml"}
    with pytest.raises(DatasetError, match="found a file"):
        convert_coco(root, tmp_path / "out/data.yaml")


@pytest.mark.parametrize("where", [".", "images", "images/train/new", "annotations", "yolo", ".."])
def test_output_never_overlaps_the_source(root, where):
    before = tree(root)
    with pytest.raises(DatasetError, match="would overlap the source data"):
        convert_coco(root, root / where)
    source = CocoSplit(root / "annotations/instances_train.json", root / "images/train", "train")
    if where not in ("annotations", "yolo"):
        with pytest.raises(DatasetError, match="would overlap the source data"):
            convert_coco(out=root / where, sources=[source])
    assert tree(root) == before


def test_output_with_linked_folder_is_refused(root, tmp_path):
    convert_coco(root, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/images")
    (tmp_path / "out/images").symlink_to(root / "images")
    with pytest.raises(DatasetError, match="expected a real folder, found a symbolic link"):
        convert_coco(root, tmp_path / "out")
    assert (root / "images/train/a.jpg").is_file()


def test_other_name_with_other_classes_in_one_folder_is_refused(root, tmp_path):
    convert_coco(root, tmp_path / "out", name="one")
    convert_coco(root, tmp_path / "out", name="two")  # the same classes
    for split in ("train", "val"):
        one_box(root, split, categories=[{"id": 5, "name": "new"}])
    before = tree(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"one\.yaml: this earlier conversion shares train\.txt, val\.txt"):
        convert_coco(root, tmp_path / "out", name="two")
    assert tree(tmp_path / "out") == before
