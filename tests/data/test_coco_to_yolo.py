"""convert_coco: what it writes from valid data and what Ultralytics makes of the result."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdyolo.data.coco_to_yolo import CocoSplit, convert_coco
from kdyolo.data.image_names import IMAGE_SUFFIXES
from kdyolo.data.yolo_labels import label_path
from kdyolo.errors import ConfigError
from tests.builders.coco import CATEGORIES, box, image, make_split, seeded
from tests.builders.commands import CHECKOUT, tree


@pytest.fixture
def root(tmp_path) -> Path:
    """A train split with one box, a val split with one background."""
    make_split(tmp_path / "root", "train", [image()], [box()])
    make_split(tmp_path / "root", "val", [image()])
    return tmp_path / "root"


def convert_one(tmp_path, annotations, *, images=None, categories=CATEGORIES, **options):
    """Convert a single split 'train'; gives the summary and the lines of a.jpg's label."""
    make_split(tmp_path / "root", "train", images or [image()], annotations, categories)
    summary = convert_coco(tmp_path / "root", tmp_path / "out", **options)
    return summary, (tmp_path / "out/labels/train/a.txt").read_text().splitlines()


# --- Real data --------------------------------------------------------------------------------------------------------


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


# --- What is written --------------------------------------------------------------------------------------------------


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
        ["val", "val", "1", "1", "0", "0", "0", "0"],
    ]
    assert str(summary).splitlines()[3] == "2 classes"
    assert summary.warnings == ()


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


@pytest.mark.parametrize(
    ("bbox", "line"),
    [
        ((-10, -10, 30, 30), "0 0.100000 0.200000 0.200000 0.400000"),
        ((90, 40, 30, 30), "0 0.950000 0.900000 0.100000 0.200000"),
        ((-5, -5, 200, 200), "0 0.500000 0.500000 1.000000 1.000000"),
        ((-1e308, 0, 1.7e308, 1.7e308), "0 0.500000 0.500000 1.000000 1.000000"),
    ],
)
def test_boxes_are_clipped(tmp_path, bbox, line):
    summary, lines = convert_one(tmp_path, [box(bbox=bbox)])
    assert lines == [line]
    assert (summary.splits["train"].clipped, summary.splits["train"].empty) == (1, 0)


def test_rounding_noise_at_the_border_is_not_called_clipped(tmp_path):
    left, width = 0.1, 99.9 + 3e-14
    assert left + width > 100
    summary, lines = convert_one(tmp_path, [box(bbox=(left, 0, width, 50))])
    assert lines == ["0 0.500500 0.500000 0.999000 1.000000"]
    assert summary.splits["train"].clipped == 0


@pytest.mark.parametrize(
    "bbox",
    [
        (10, 10, 0, 5),
        (10, 10, 5, 0),
        (10, 10, -5, 5),
        (100, 0, 5, 5),
        (-9, 0, 9, 9),
        (0, 0, 4e-5, 9),
        (700, 0, -650, 9),
    ],
)
def test_boxes_without_area_are_dropped(tmp_path, bbox):
    summary, lines = convert_one(tmp_path, [box(bbox=bbox)])
    counts = summary.splits["train"]
    assert lines == []
    assert (counts.boxes, counts.empty, counts.clipped, counts.backgrounds) == (0, 1, 0, 1)


def test_crowds_are_left_out(tmp_path):
    crowd = box(2, iscrowd=1, segmentation={"counts": [1, 2], "size": [50, 100]})
    summary, lines = convert_one(tmp_path, [box(1, iscrowd=0, segmentation=[[1, 2, 3, 4, 5, 6]]), crowd])
    assert len(lines) == summary.splits["train"].boxes == summary.splits["train"].crowds == 1


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


def test_names_follow_ultralytics():
    from ultralytics.data.utils import IMG_FORMATS, img2label_paths

    assert IMAGE_SUFFIXES == IMG_FORMATS
    for name in ("a.jpg", "sub/a.b.jpg", "images/a.jpg", "x/images/y/a.png"):
        assert img2label_paths([f"/out/images/train/{name}"]) == [f"/out/{label_path('train', name)}"]


def test_byte_order_mark_is_read(root, tmp_path):
    path = root / "annotations/instances_train.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert convert_coco(root, tmp_path / "out").splits["train"].boxes == 1


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


def test_import_is_light():
    code = "import sys, kdyolo.data.coco_to_yolo; sys.exit(bool({'torch', 'ultralytics', 'numpy'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=False).returncode == 0


# --- Roles and arguments ----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": None}, "found neither"),
        ({"sources": True}, "found both"),
        ({"out": None}, "expected an output folder"),
        ({"link": "reflink"}, "symlink, hardlink, copy, found 'reflink'"),
        ({"name": "a/b"}, "name 'a/b' cannot name a file"),
    ],
)
def test_contradictory_arguments(root, tmp_path, change, message):
    arguments = {"root": root, "out": tmp_path / "out", **change}
    if "sources" in change:
        arguments["sources"] = [CocoSplit(root / "annotations/instances_train.json", root / "images/train", "train")]
    with pytest.raises(ConfigError, match=message):
        convert_coco(arguments.pop("root"), arguments.pop("out"), **arguments)


@pytest.mark.parametrize("split", ["", "..", "a/b", "images", "x\ny"])
def test_split_must_name_a_folder(root, tmp_path, split):
    source = CocoSplit(root / "annotations/instances_train.json", root / "images/train", split)
    with pytest.raises(ConfigError, match="cannot name a folder"):
        convert_coco(out=tmp_path / "out", sources=[source])
    twice = CocoSplit(source.annotations, source.images, "train")
    with pytest.raises(ConfigError, match="'train' is used more than once"):
        convert_coco(out=tmp_path / "out", sources=[twice, twice])


# --- Properties -------------------------------------------------------------------------------------------------------

coordinate = st.one_of(st.floats(-300, 300), st.integers(-300, 300), st.floats(allow_nan=False, allow_infinity=False))
annotation = st.fixed_dictionaries(
    {
        "image_id": st.integers(1, 3),  # 3 is no image
        "category_id": st.integers(1, 3),  # 3 is no category
        "iscrowd": st.sampled_from([0, 0, 0, 1]),
        "bbox": st.lists(st.one_of(coordinate, coordinate, st.just(float("nan"))), min_size=3, max_size=4)
        | st.tuples(*[coordinate] * 4).map(list),
    }
)


@seeded(60)
@given(records=st.lists(annotation, max_size=8), width=st.integers(1, 200), height=st.integers(1, 200))
def test_labels_lie_in_the_image_and_nothing_is_lost(tmp_path, records, width, height):
    annotations = [{"id": i, **record} for i, record in enumerate(records)]
    images = [image(1, "a.jpg", width, height), image(2, "b.jpg", 1, 200)]
    make_split(tmp_path / "root", "train", images, annotations)
    summary = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid=True)
    counts = summary.splits["train"]
    skipped = sum(counts.skipped_annotations.values())
    assert counts.boxes + counts.crowds + counts.empty + skipped == counts.annotations == len(annotations)
    lines = [line for path in (tmp_path / "out/labels").rglob("*.txt") for line in path.read_text().splitlines()]
    assert len(lines) == counts.boxes >= counts.clipped
    for line in lines:
        index, cx, cy, w, h = (float(value) for value in line.split())
        assert index in (0, 1)
        assert all(0 <= value <= 1 for value in (cx, cy, w, h))
        assert min(w, h) > 0
        for centre, size in ((cx, w), (cy, h)):
            assert centre - size / 2 >= -1e-6
            assert centre + size / 2 <= 1 + 1e-6


@seeded(60)
@given(st.data())
def test_boxes_inside_come_back_to_a_millionth(tmp_path, data):
    width, height = data.draw(st.integers(1, 5000)), data.draw(st.integers(1, 5000))
    left, right = sorted(data.draw(st.lists(st.floats(0, width), min_size=2, max_size=2)))
    top, bottom = sorted(data.draw(st.lists(st.floats(0, height), min_size=2, max_size=2)))
    bbox = (left, top, right - left, bottom - top)
    summary, lines = convert_one(tmp_path, [box(bbox=bbox)], images=[image(width=width, height=height)])
    assert summary.splits["train"].clipped == 0
    for line in lines:
        expected = [(left + right) / 2 / width, (top + bottom) / 2 / height, bbox[2] / width, bbox[3] / height]
        assert [float(value) for value in line.split()[1:]] == pytest.approx(expected, abs=1e-6)
    assert lines or min(bbox[2] / width, bbox[3] / height) < 1e-6
