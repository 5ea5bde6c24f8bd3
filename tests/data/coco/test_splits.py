"""Splits of a COCO folder or of sources one by one: what is found, roles, and what is refused."""

import gzip
from pathlib import Path

import pytest
import yaml

from kdyolo.data.coco_to_yolo import CocoSplit, convert_coco
from kdyolo.errors import ConfigError, DatasetError
from tests.builders.coco import (
    box,
    convert_one,
    document,
    image,
    make_split,
    refusal,
    write,
)


def test_incomplete_folders_are_named(tmp_path):
    root, out = tmp_path / "root", tmp_path / "out"
    assert "expected the folder of a COCO data set, found nothing there" in refusal(root, out)
    (tmp_path / "a.json").write_text("{}")
    assert "found a file: name it with --annotations" in refusal(tmp_path / "a.json", out)
    root.mkdir()
    assert "expected a folder 'annotations' in it (or _annotations.coco.json in the folder" in refusal(root, out)
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/captions_val2017.json").write_text("{}")
    assert "expected a file instances_<split>.json, found captions_val2017.json" in refusal(root, out)
    path = write(root, document())
    (root / "train2017").mkdir()
    message = refusal(root, out)
    assert "could be those in" in message
    assert str(root / "images/train2017") in message
    (root / "train2017").rmdir()
    (root / "train2017").symlink_to(root / "images/train2017")  # one folder by two names is no question
    convert_coco(root, tmp_path / "linked")
    (root / "train2017").unlink()
    (root / "images").rename(root / "pictures")
    assert f"{root / 'images/train2017'} or {root / 'train2017'}, found neither" in refusal(root, out)
    with pytest.raises(DatasetError, match="expected the folder with the images of"):
        convert_coco(out=out, sources=[CocoSplit(path, root / "nowhere", "train")])
    with pytest.raises(DatasetError, match=r"nothing\.json: cannot be read: No such file"):
        convert_coco(out=out, sources=[CocoSplit(root / "nothing.json", root / "pictures", "train")])


@pytest.fixture
def root(tmp_path) -> Path:
    """A train split with one box, a val split with one background."""
    make_split(tmp_path / "root", "train", [image()], [box()])
    make_split(tmp_path / "root", "val", [image()])
    return tmp_path / "root"


@pytest.mark.parametrize("folder", ["images/{}", "{}"])
def test_both_layouts(tmp_path, folder):
    for split in ("train2017", "val2017", "test2017"):
        make_split(tmp_path / "root", split, [image()], folder=folder)
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    assert summary.roles == {"train": "train2017", "val": "val2017", "test": "test2017"}
    target = tmp_path / "root" / folder.format("val2017") / "a.jpg"
    assert (tmp_path / "out/images/val2017/a.jpg").readlink() == target


def test_sources_with_any_layout(tmp_path):
    train = make_split(tmp_path / "one", "x", [image()], folder="pictures")
    val = make_split(tmp_path / "two", "x", [image()], folder="pictures")
    sources = [CocoSplit(train.annotations, train.images, "training"), CocoSplit(val.annotations, val.images, "val-b")]
    summary = convert_coco(out=tmp_path / "out", sources=sources)
    assert summary.roles == {"train": "training", "val": "val-b"}
    assert (tmp_path / "out/images/val-b/a.jpg").readlink() == tmp_path / "two/pictures/a.jpg"
    assert (tmp_path / "out/annotations/instances_val-b.json").samefile(val.annotations)


def test_single_split_is_train_and_val_with_a_warning(tmp_path):
    summary, _ = convert_one(tmp_path, [box()])
    content = yaml.safe_load(summary.yaml.read_text())
    assert content["train"] == content["val"] == "train.txt"
    assert "warning: there is only one split, 'train'" in summary.table()
    assert "mAP will be measured on the training images" in summary.table()


@pytest.mark.parametrize("splits", [("one", "two"), ("train", "other"), ("train2014", "train2017", "val2017")])
def test_unclear_roles_are_refused(tmp_path, splits):
    for split in splits:
        make_split(tmp_path / "root", split, [image()])
    with pytest.raises(ConfigError, match="give exactly one split a name that starts with") as caught:
        convert_coco(tmp_path / "root", tmp_path / "out")
    assert all(split in str(caught.value) for split in splits)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["", "..", "a/b", "images", "x\ny"])
def test_split_must_name_a_folder(root, tmp_path, split):
    source = CocoSplit(root / "annotations/instances_train.json", root / "images/train", split)
    with pytest.raises(ConfigError, match="cannot name a folder"):
        convert_coco(out=tmp_path / "out", sources=[source])
    twice = CocoSplit(source.annotations, source.images, "train")
    with pytest.raises(ConfigError, match="'train' is used more than once"):
        convert_coco(out=tmp_path / "out", sources=[twice, twice])


def test_a_file_that_is_there_plain_and_gzipped_is_refused(tmp_path):
    make_split(tmp_path / "root", "train")
    plain = tmp_path / "root/annotations/instances_train.json"
    plain.with_name("instances_train.json.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert "the same annotations could be in" in refusal(tmp_path / "root", tmp_path / "out")
