"""convert_coco: what it writes from valid data and what Ultralytics makes of the result."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kdyolo.data.coco_to_yolo import CocoSplit, convert_coco
from kdyolo.errors import ConfigError
from tests.builders.coco import (
    box,
    convert_one,
    document,
    edited,
    image,
    make_split,
    refusal,
    write,
)
from tests.builders.commands import CHECKOUT, tree


@pytest.fixture
def root(tmp_path) -> Path:
    """A train split with one box, a val split with one background beside an image with a box."""
    make_split(tmp_path / "root", "train")
    make_split(tmp_path / "root", "val", [image(), image(2, "b.jpg")], [box(image_id=2)])
    return tmp_path / "root"


@pytest.fixture(scope="session")
def coco128(shared) -> Path:
    return shared / "coco128"


def test_coco128_labels_equal_pycocotools(coco128, tmp_path):
    from pycocotools.coco import COCO

    summary = convert_coco(coco128, tmp_path / "out")
    assert list(summary.splits) == ["train2017", "val2017"]
    for split, counts in summary.splits.items():
        coco = COCO(str(coco128 / "annotations" / f"instances_{split}.json"))
        index = {category_id: i for i, category_id in enumerate(sorted(coco.getCatIds()))}
        written = 0
        for record in coco.loadImgs(coco.getImgIds()):
            size = (record["width"], record["height"]) * 2
            expected = []
            for ann in coco.loadAnns(coco.getAnnIds(imgIds=record["id"], iscrowd=False)):
                x, y, w, h = ann["bbox"]
                centred = (x + w / 2, y + h / 2, w, h)
                expected.append([index[ann["category_id"]], *(v / s for v, s in zip(centred, size, strict=True))])
            text = (tmp_path / "out/labels" / split / record["file_name"]).with_suffix(".txt").read_text()
            lines = [[float(value) for value in line.split()] for line in text.splitlines()]
            assert sorted(lines) == [pytest.approx(row, abs=1e-6) for row in sorted(expected)]
            written += len(lines)
        assert counts.boxes == written
        assert counts.crowds == len(coco.getAnnIds(iscrowd=True)) > 0
        assert (counts.clipped, counts.empty, counts.skipped_images, counts.skipped_annotations) == (0, 0, {}, {})
    assert [counts.images for counts in summary.splits.values()] == [102, 26]
    assert [counts.backgrounds for counts in summary.splits.values()] == [2, 0]
    assert summary.names[0] == "person"
    assert (summary.category_ids[0], summary.category_ids[79]) == (1, 90)


def test_coco128_is_accepted_by_ultralytics(coco128, tmp_path):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    # A copy, so that nothing that Ultralytics does could reach the shared data.
    root = shutil.copytree(coco128, tmp_path / "root")
    before = tree(root)
    summary = convert_coco(root, tmp_path / "coco")
    data = check_det_dataset(str(summary.yaml), autodownload=False)
    assert data["nc"] == 80
    assert data["val"].endswith(f"coco{os.sep}val2017.txt")  # by which stock Ultralytics knows COCO
    for role, split in (("train", "train2017"), ("val", "val2017")):
        dataset = YOLODataset(img_path=data[role], data=data, augment=False, imgsz=64)
        counts = summary.splits[split]
        missing, found, empty, corrupt, total = read_scan(tmp_path / "coco" / "labels" / f"{split}.cache")
        assert (found, missing, empty, corrupt, total) == (counts.images, 0, counts.backgrounds, 0, counts.images)
        assert sum(len(label["cls"]) for label in dataset.labels) == counts.boxes
    assert tree(root) == before


def read_scan(cache: Path) -> tuple[int, int, int, int, int]:
    """missing, found, empty, corrupt, total, as Ultralytics counted them."""
    from ultralytics.data.utils import load_dataset_cache_file

    found, missing, empty, corrupt, total = load_dataset_cache_file(cache)["results"]
    return missing, found, empty, corrupt, total


def test_coco128_twice_gives_the_same_bytes_and_leaves_a_read_only_root_alone(coco128, tmp_path):
    root = shutil.copytree(coco128, tmp_path / "root")
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    before = tree(root)
    for folder in folders:
        folder.chmod(0o555)
    try:
        convert_coco(root, tmp_path / "out")
        first = tree(tmp_path / "out")
        convert_coco(root, tmp_path / "out")
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert tree(tmp_path / "out") == first
    assert tree(root) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "root"]


def test_yaml_lists_and_annotations(root, tmp_path):
    (root / "annotations/captions_train.json").write_text("no JSON at all")
    (root / "annotations/person_keypoints_train.json").write_text('{"annotations": 1}')
    summary = convert_coco(root, tmp_path / "out", name="mine")
    text = summary.yaml.read_text()
    assert summary.yaml == tmp_path / "out/mine.yaml"
    assert text.startswith("# Generated by kdyolo convert")
    assert yaml.safe_load(text) == {
        "path": str(tmp_path / "out"),
        "train": "train.txt",
        "val": "val.txt",
        "names": {0: "cat", 1: "dog"},
        "category_ids": {0: 1, 1: 2},
        "annotations": {"train": "annotations/instances_train.json", "val": "annotations/instances_val.json"},
    }
    assert (tmp_path / "out/train.txt").read_text() == "./images/train/a.jpg\n"
    assert (tmp_path / "out/labels/train/a.txt").read_text() == "0 0.200000 0.400000 0.200000 0.400000\n"
    assert (tmp_path / "out/labels/val/a.txt").read_bytes() == b""
    assert (tmp_path / "out/annotations/instances_train.json").samefile(root / "annotations/instances_train.json")
    assert summary.table() == str(summary)
    assert [line.split() for line in str(summary).splitlines()[1:3]] == [
        ["train", "train", "1", "0", "1", "0", "0", "0"],
        ["val", "val", "2", "1", "1", "0", "0", "0"],
    ]
    assert str(summary).splitlines()[3] == "2 classes"
    assert summary.warnings == ()


def test_sparse_unordered_zero_based_ids_become_classes_in_ascending_order(tmp_path):
    categories = [{"id": 90, "name": "z"}, {"id": 0, "name": "m"}, {"id": 12, "name": "a"}]
    annotations = [box(1, category_id=90), box(2, category_id=0), box(3, category_id=12)]
    summary, lines = convert_one(tmp_path, annotations, categories=categories)
    assert [line.split()[0] for line in lines] == ["2", "0", "1"]
    assert summary.names == {0: "m", 1: "a", 2: "z"}
    assert summary.category_ids == {0: 0, 1: 12, 2: 90}


def test_categories_are_the_union_of_the_splits(tmp_path):
    make_split(tmp_path / "root", "train", [image()], [box(category_id=7)], [{"id": 7, "name": "late"}])
    make_split(tmp_path / "root", "val", [image()], [box(category_id=3)], [{"id": 3, "name": "early"}])
    assert convert_coco(tmp_path / "root", tmp_path / "out").names == {0: "early", 1: "late"}
    assert (tmp_path / "out/labels/train/a.txt").read_text().startswith("1 ")


def test_crowds_are_left_out(tmp_path):
    crowd = box(2, iscrowd=1, segmentation={"counts": [1, 2], "size": [50, 100]})
    summary, lines = convert_one(tmp_path, [box(1, iscrowd=0, segmentation=[[1, 2, 3, 4, 5, 6]]), crowd])
    assert len(lines) == summary.splits["train"].boxes == summary.splits["train"].crowds == 1


def test_import_is_light():
    code = "import sys, kdyolo.data.coco_to_yolo; sys.exit(bool({'torch', 'ultralytics', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": None}, "found neither"),
        ({"sources": True}, "found both"),
        ({"out": None}, "expected an output folder"),
        ({"link": "reflink"}, "'symlink', 'hardlink', 'copy', found 'reflink'"),
        ({"name": "a/b"}, "name 'a/b' cannot name a file"),
    ],
)
def test_contradictory_arguments(root, tmp_path, change, message):
    arguments = {"root": root, "out": tmp_path / "out", **change}
    if "sources" in change:
        arguments["sources"] = [CocoSplit(root / "annotations/instances_train.json", root / "images/train", "train")]
    with pytest.raises(ConfigError, match=message):
        convert_coco(arguments.pop("root"), arguments.pop("out"), **arguments)


def test_classes_and_areas_select(shared, tmp_path):
    from pycocotools.coco import COCO

    result = convert_coco(shared / "coco128", tmp_path / "out", classes=["car", "person"], min_area=1000)
    assert (result.names, result.category_ids) == ({0: "person", 1: "car"}, {0: 1, 1: 3})
    for split, counts in result.splits.items():
        coco = COCO(str(shared / f"coco128/annotations/instances_{split}.json"))
        ids = coco.getAnnIds(catIds=[1, 3], areaRng=[1000, 1e12], iscrowd=False)  # of pycocotools: above, not at
        assert counts.boxes == len(ids) > 0
        assert counts.unselected == len(coco.anns) - len(coco.getAnnIds(catIds=[1, 3]))
        assert counts.boxes + counts.crowds + counts.empty + counts.unselected + counts.small == counts.annotations
        assert counts.images == len(coco.imgs)
        assert counts.backgrounds == len(coco.imgs) - len({a["image_id"] for a in coco.loadAnns(ids)})


def test_area_is_the_annotations_own_or_that_of_the_box(tmp_path):
    boxes = [
        box(1, area=99),
        box(2, area=100),
        box(3, bbox=(0, 0, 10, 10), area=None),
        box(4, bbox=(0, 0, 9, 10), area=None),
        box(5, area=1e400),
    ]
    make_split(tmp_path / "root", "train", [image()], boxes)
    counts = convert_coco(tmp_path / "root", tmp_path / "out", min_area=100).splits["train"]
    assert (counts.boxes, counts.small) == (3, 2)
    make_split(tmp_path / "root", "train", [image()], [*boxes, box(6, area="big"), box(7, area=float("nan"))])
    counts = convert_coco(tmp_path / "root", tmp_path / "out", min_area=100).splits["train"]
    assert (counts.boxes, counts.small) == (5, 2)
    assert counts.notes == ("5 annotations have no area: that of the outline or box counts",)


def test_crowds_can_be_included(shared, tmp_path):
    left_out = convert_coco(shared / "coco128", tmp_path / "without").splits
    for split, counts in convert_coco(shared / "coco128", tmp_path / "out", include_crowd=True).splits.items():
        assert counts.crowds == 0
        assert counts.boxes == left_out[split].boxes + left_out[split].crowds > left_out[split].boxes


def test_unknown_classes_and_areas_are_told_together(shared, tmp_path):
    with pytest.raises(ConfigError) as caught:
        convert_coco(shared / "coco128", tmp_path / "out", classes=["person", "carr", "x-ray"])
    assert caught.value.mistakes[0] == "no category is called 'carr'. Did you mean 'car' or 'carrot'?"
    assert caught.value.mistakes[1].startswith("no category is called 'x-ray'. There are person, ")
    for area in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=r"min.area(: expected| to be) a number"):
            convert_coco(shared / "coco128", tmp_path / "out", min_area=area)


def test_splits_must_agree_about_categories(tmp_path):
    write(tmp_path / "root", document())
    path = write(tmp_path / "root", edited("categories", 1, name="bird"), "val2017")
    message = refusal(tmp_path / "root", tmp_path / "out", skip_invalid="any")
    assert message.startswith(f"{path}: category id 2 is 'bird', but 'dog' in another split")
