"""to_coco: there and back is the identity; labels of any origin become COCO that reads back to the same labels."""

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdyolo.cli import cli
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.data.yolo_to_coco import to_coco
from kdyolo.errors import DatasetError
from tests.builders.coco import (
    box,
    image,
    make_split,
    photo,
    seeded,
    yolo_dataset,
)


def by_id(records, *keys):
    return {record["id"]: [record.get(key) for key in keys] for record in records}


IMAGE = ("file_name", "width", "height")


ANNOTATION = ("image_id", "category_id", "bbox", "area", "iscrowd", "segmentation")


@pytest.mark.parametrize("options", [{}, {"segments": True}, {"include_crowd": True}], ids=str)
def test_there_and_back_is_the_identity_on_coco128(shared, tmp_path, options):
    summary = convert_coco(shared / "coco128", tmp_path / "coco", **options)
    result = to_coco(summary.yaml, tmp_path / "instances.json")
    splits = [shared / f"coco128/annotations/instances_{split}2017.json" for split in ("train", "val")]
    sources = [json.loads(path.read_text()) for path in splits]
    found = json.loads((tmp_path / "instances.json").read_text())
    for key, fields in (("images", IMAGE), ("annotations", ANNOTATION), ("categories", ("name",))):
        expected = {k: v for source in sources for k, v in by_id(source[key], *fields).items()}
        assert by_id(found[key], *fields) == expected
    assert (result.images, result.annotations, result.restored) == (128, 939, 939)
    assert result.crowds == (0 if options.get("include_crowd") else 10)
    # pycocotools reads it, and each split on its own as well.
    from pycocotools.coco import COCO

    assert len(COCO(str(tmp_path / "instances.json")).getAnnIds()) == 939
    assert to_coco(summary.yaml, tmp_path / "val.json", split="val").images == 26


def test_labels_alone_give_the_boxes_and_ids_of_coco128_back(shared, tmp_path):
    """Without the original file: its two decimals, and image ids from the names, as Ultralytics' predictions have."""
    summary = convert_coco(shared / "coco128", tmp_path / "coco")
    shutil.rmtree(tmp_path / "coco/annotations")
    to_coco(summary.yaml, tmp_path / "val.json", split="val")
    found = json.loads((tmp_path / "val.json").read_text())
    source = json.loads((shared / "coco128/annotations/instances_val2017.json").read_text())
    assert by_id(found["images"], "width", "height") == {
        int(i["file_name"][:12]): [i["width"], i["height"]] for i in source["images"]
    }

    def boxes(document, rounded):
        name_of = {i["id"]: i["file_name"] for i in document["images"]}
        return sorted(
            (name_of[a["image_id"]], a["category_id"], [round(v, 2) if rounded else v for v in a["bbox"]])
            for a in document["annotations"]
            if not a["iscrowd"]
        )

    assert boxes(found, rounded=False) == boxes(source, rounded=True)


def test_any_yolo_data_set(tmp_path):
    labels = {"b/x.jpg": "1 0.5 0.5 0.2 0.4\n", "a.png": None, "c.JPG": "\n0 0.1 0.1 0.2 0.2 0.1 0.2\n"}
    result = to_coco(yolo_dataset(tmp_path / "d", labels), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert str(result) == f"{tmp_path / 'out.json'}: 3 images, 2 annotations"
    assert by_id(found["images"], *IMAGE) == {
        i: [name, 100, 50] for i, name in enumerate(["a.png", "b/x.jpg", "c.JPG"], start=1)
    }
    assert found["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert by_id(found["annotations"], *ANNOTATION) == {
        1: [2, 2, [40.0, 15.0, 20.0, 20.0], 400.0, 0, None],
        2: [3, 1, [10.0, 5.0, 10.0, 5.0], 25.0, 0, [[10.0, 5.0, 20.0, 10.0, 10.0, 10.0]]],
    }


def test_a_name_in_gz_is_compressed(tmp_path):
    path = yolo_dataset(tmp_path / "d", {"a.jpg": "0 0.5 0.5 0.2 0.2\n"})
    to_coco(path, tmp_path / "out.json")
    for _ in range(2):  # to the same bytes each time
        to_coco(path, tmp_path / "out.json.gz")
        compressed = (tmp_path / "out.json.gz").read_bytes()
        assert gzip.decompress(compressed) == (tmp_path / "out.json").read_bytes()
    assert compressed[4:8] == bytes(4)


def yolo_files(root: Path, files: dict[str, str | None], **content) -> Path:
    """A hand-made data set: place of an image → its label, and a YAML with this content."""
    for name, text in files.items():
        photo(root / name, (100, 80))
        label = Path("labels".join(f"/{name}".rsplit("images", 1))[1:]).with_suffix(".txt")
        if text is not None:
            (root / label).parent.mkdir(parents=True, exist_ok=True)
            (root / label).write_text(text)
    path = root / content.pop("yaml", "data.yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"names": ["cat", "dog"], **content}))
    return path


ROW = "0 0.5 0.5 0.2 0.2\n"
TREE = {"images/train/a.jpg": ROW, "images/val/b.jpg": "1 0.5 0.5 0.25 0.5\n"}
ROBOFLOW = {"train/images/a.jpg": ROW, "valid/images/b.jpg": ROW}
VARIATIONS = {
    "folders": (TREE, {"train": "images/train", "val": "images/val"}),
    "below": (TREE, {"train": "images", "val": "images"}),
    "Roboflow": (ROBOFLOW, {"train": "../train/images", "val": "../valid/images", "test": "../test/images", "nc": 2}),
    "beside": (TREE, {"train": "../images/train", "val": "../images/val", "yaml": "cfg/data.yaml"}),
    "validation": (TREE, {"train": "images/train", "validation": "images/val"}),
    "several": (TREE, {"train": ["images/train", "images/val"], "val": ["images/val"]}),
    "an empty test": (TREE, {"train": "images/train", "val": "images/val", "test": None}),
    "text keys": (TREE, {"train": "images/train", "val": "images/val", "names": {"0": "cat", "1": "dog"}}),
    "nc alone": (TREE, {"train": "images/train", "val": "images/val", "names": None, "nc": 2}),
    "a path": (TREE, {"path": "d", "train": "images/train", "val": "images/val", "yaml": "cfg/data.yaml"}),
    "hidden files": ({**TREE, "images/train/._a.jpg": None}, {"train": "images/train", "val": "images/val"}),
    "suffixes": ({**TREE, "images/train/c.PNG": ROW}, {"train": "images/train", "val": "images/val"}),
    "without labels": ({**TREE, "images/val/c.jpg": None}, {"train": "images/train", "val": "images/val"}),
    "not below images": ({"pictures/a.jpg": ROW, "images/b.jpg": ROW}, {"train": "pictures", "val": "images"}),
    "a list": (TREE, {"train": "train.txt", "val": "images/val"}),
    "a list of another suffix": (TREE, {"train": "train.lst", "val": "images/val"}),
    "one name twice": (
        {"train/images/a.jpg": ROW, "val/images/a.jpg": ROW * 2},
        {"train": "train/images", "val": "val/images"},
    ),
}


@pytest.mark.parametrize("kind", VARIATIONS)
def test_what_ultralytics_takes_is_taken(tmp_path, monkeypatch, kind):
    """The images and the number of objects that Ultralytics' own data set class finds."""
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    files, content = VARIATIONS[kind]
    path = yolo_files(tmp_path / "d", files, **content)
    for suffix in ("txt", "lst"):
        (tmp_path / f"d/train.{suffix}").write_text("./images/train/a.jpg\nd/images/val/b.jpg\n\n")
    monkeypatch.chdir(tmp_path)  # where lines without ./ start for Ultralytics
    data = check_det_dataset(str(path), autodownload=False)
    expected: dict[str, int] = {}
    for place in (data["train"], data["val"]):
        images = YOLODataset(img_path=place, data=data, task="detect", augment=False)
        expected |= {str(Path(label["im_file"]).absolute()): len(label["cls"]) for label in images.labels}
    result = to_coco(path, tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    objects = Counter(a["image_id"] for a in found["annotations"])
    assert Counter((Path(i["file_name"]).name, objects[i["id"]]) for i in found["images"]) == Counter(
        (Path(name).name, number) for name, number in expected.items()
    )
    assert len({i["file_name"] for i in found["images"]}) == len(expected) == result.images
    assert [c["name"] for c in found["categories"]] == list(data["names"].values())


def test_lines_of_a_list_that_start_nowhere_stand_beside_it(tmp_path):
    path = yolo_files(tmp_path / "d", TREE, train="train.txt", val="images/val")
    (tmp_path / "d/train.txt").write_text("images/train/a.jpg\n")
    result = to_coco(path, tmp_path / "out.json")
    assert (result.images, result.annotations) == (2, 2)


def test_an_image_in_two_splits_is_written_once(tmp_path):
    path = yolo_files(tmp_path / "d", TREE, train="images", val="images/val")
    result = to_coco(path, tmp_path / "out.json")
    assert (result.images, result.annotations) == (2, 2)
    assert result.notes == ("1 image is in several splits; each is written once.",)
    assert to_coco(path, tmp_path / "val.json", split="val").images == 1


def test_converted_splits_that_share_images_come_back_once(tmp_path):
    for split in ("train", "val"):
        make_split(tmp_path / "root", split, [image(4, f"{split}.jpg")], [box(1 + (split == "val"), image_id=4)])
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    content = yaml.safe_load(summary.yaml.read_text())
    content |= {"val": content["train"], "test": "nowhere", "annotations": {"train": content["annotations"]["train"]}}
    summary.yaml.write_text(yaml.safe_dump(content | {"train": [content["train"], content["train"]]}))
    result = to_coco(summary.yaml, tmp_path / "out.json")
    assert (result.images, result.annotations, result.restored) == (1, 1, 1)
    assert [note.split(";")[0] for note in result.notes] == [
        f"test is left out: there is no {tmp_path / 'out/nowhere'}.",
        "1 image is in several splits",
    ]


def test_a_missing_test_split_is_told_and_refused_when_asked_for(tmp_path):
    path = yolo_files(tmp_path / "d", TREE, train="images/train", val="images/val", test="images/test")
    assert to_coco(path, tmp_path / "out.json").notes == (
        f"test is left out: there is no {tmp_path / 'd/images/test'}.",
    )
    with pytest.raises(DatasetError, match="images/test: expected a folder with images"):
        to_coco(path, tmp_path / "out.json", split="test")
    path = yolo_files(tmp_path / "d", TREE, train="images/none", val="images/val")
    with pytest.raises(DatasetError, match="images/none: expected a folder with images"):
        to_coco(path, tmp_path / "out.json")


def test_file_names_that_splits_share_say_the_split(tmp_path):
    files = {"train/images/a.jpg": ROW, "val/images/a.jpg": "1 0.5 0.5 0.5 0.5\n"}
    to_coco(yolo_files(tmp_path / "d", files, train="train/images", val="val/images"), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    names = {i["id"]: i["file_name"] for i in found["images"]}
    assert {names[a["image_id"]]: a["category_id"] for a in found["annotations"]} == {
        "train/images/a.jpg": 1,
        "val/images/a.jpg": 2,
    }


def test_the_folder_stands_for_the_yaml_in_it(tmp_path):
    yolo_files(tmp_path / "d", TREE, train="images/train", val="images/val")
    assert to_coco(tmp_path / "d", tmp_path / "out.json").images == 2
    with pytest.raises(DatasetError, match="does not exist"):
        to_coco(tmp_path / "no-such-name", tmp_path / "out.json")


def test_labels_that_repeat_are_restored_as_often_as_the_original_has_them(tmp_path):
    make_split(tmp_path / "root", "train", [image(5)], [box(1, image_id=5), box(2, image_id=5)])
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    label = tmp_path / "out/labels/train/a.txt"
    label.write_text(label.read_text() + label.read_text().splitlines()[0])
    result = to_coco(summary.yaml, tmp_path / "back.json")
    assert (result.annotations, result.restored) == (2, 2)
    assert result.notes == ("1 label repeats another one of its image and is left out, as by Ultralytics.",)


def test_size_is_the_one_that_is_seen(tmp_path):
    path = yolo_dataset(tmp_path / "d", {"7.jpg": "0 0.5 0.5 0.2 0.4\n"})
    exif = Image.Exif()
    exif[274] = 6  # turned by 90°
    Image.new("RGB", (100, 50)).save(tmp_path / "d/images/train/7.jpg", exif=exif)
    to_coco(path, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["images"] == [
        {"id": 7, "file_name": "7.jpg", "width": 50, "height": 100}
    ]


def test_changed_labels_are_what_counts(tmp_path):
    boxes = [box(i, (10 * i, 10, 20.25, 20), 5, area=7.5) for i in (1, 2, 3)]
    crowd = box(9, image_id=5, iscrowd=1, segmentation={"counts": [4, 1, 4995], "size": [50, 100]})
    make_split(tmp_path / "root", "train", [image(5)], [*boxes, crowd])
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    label = tmp_path / "out/labels/train/a.txt"
    first, _, third = label.read_text().splitlines()
    label.write_text(f"1 0.5 0.5 0.1 0.1\n{third.replace('0.202500', '.2025')}\n{first}\n")
    to_coco(summary.yaml, tmp_path / "back.json")
    found = by_id(
        json.loads((tmp_path / "back.json").read_text())["annotations"], "bbox", "category_id", "area", "iscrowd"
    )
    assert found == {
        1: [[10, 10, 20.25, 20], 1, 7.5, 0],
        3: [[30, 10, 20.25, 20], 1, 7.5, 0],
        9: [[10, 10, 20, 20], 1, 100, 1],
        10: [[45, 22.5, 10, 5], 2, 50, 0],
    }


@seeded(25)
@given(st.data())
def test_labels_come_back_to_the_letter(tmp_path, data):
    """Labels → COCO → labels, for any boxes inside an image of any size, without an original file."""
    width, height = data.draw(st.integers(1, 6000)), data.draw(st.integers(1, 6000))
    boxes = [box(99, (0, 0, 0.9 * width, height), 3)]
    for _ in range(data.draw(st.integers(0, 4))):
        left, right = sorted(data.draw(st.tuples(st.floats(0, width), st.floats(0, width))))
        top, bottom = sorted(data.draw(st.tuples(st.floats(0, height), st.floats(0, height))))
        boxes.append(box(len(boxes), (left, top, right - left, bottom - top), 3))
    shutil.rmtree(tmp_path / "root", ignore_errors=True)
    make_split(tmp_path / "root", "train", [image(3, "3.jpg", width, height)], boxes)
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    content = yaml.safe_load(summary.yaml.read_text())
    del content["annotations"]
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump(content))
    from kdyolo.data import image_verification

    with pytest.MonkeyPatch.context() as patch:  # an image of 6000 px takes time to write
        patch.setattr(image_verification, "verify_image", lambda path: image_verification.ImageFacts(width, height))
        to_coco(plain, tmp_path / "back.json")
    shutil.copy(tmp_path / "back.json", tmp_path / "root/annotations/instances_train.json")
    label = tmp_path / "out/labels/train/3.txt"
    before = label.read_text()
    convert_coco(tmp_path / "root", tmp_path / "out")
    # A box of which a side is a rounding step wide can vanish, or move by one step.
    after = label.read_text()
    assert after.count("\n") == before.count("\n")
    old, new = (np.array([line.split() for line in text.splitlines()], dtype=float) for text in (before, after))
    np.testing.assert_allclose(new, old, atol=1.001e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected keys such as"),
        ("a: [", "not a YAML file"),
        ("train: images/train", "expected under 'names' a name for each class"),
        ("names: {0: a, 2: b}\ntrain: images/train", "expected under 'names' a name for each class"),
        ("names: [a]", "expected at least one of the keys train, val, test"),
        ("names: [a]\ntrain: nowhere", "nowhere: expected a folder with images or a list of them, found nothing"),
        ("names: [a]\ntrain: 5", "expected under 'train' a path or a list of paths, found 5"),
        ("names: [a]\npath: /no/where\ntrain: x", "'path' leads nowhere"),
        ("names: [a]\ntrain: images/train\ncategory_ids: {0: 1, 1: 2}", "expected a category id of its own"),
    ],
)
def test_bad_data_sets_are_named(tmp_path, content, message):
    yolo_dataset(tmp_path / "d", {"a.jpg": ""})
    (tmp_path / "d/data.yaml").write_text(content)
    with pytest.raises(DatasetError) as caught:
        to_coco(tmp_path / "d/data.yaml", tmp_path / "out.json")
    assert message in str(caught.value)
    assert not (tmp_path / "out.json").exists()


def test_splits_that_cannot_share_a_file_are_named(tmp_path):
    for split in ("train", "val"):
        make_split(tmp_path / "root", split, [image(1, f"{split}.jpg")], [box()])
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    with pytest.raises(DatasetError, match=r"share the image id 1, .* with --split"):
        to_coco(summary.yaml, tmp_path / "out.json")
    assert to_coco(summary.yaml, tmp_path / "out.json", split="val").annotations == 1
    with pytest.raises(DatasetError, match="expected a key 'test', found train, val"):
        to_coco(summary.yaml, tmp_path / "out.json", split="test")


def test_the_source_is_never_overwritten(tmp_path):
    source = make_split(tmp_path / "root", "train", [image()], [box()])
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    before = source.annotations.read_bytes()
    with pytest.raises(DatasetError, match="was converted from this very file"):
        to_coco(summary.yaml, source.annotations)
    to_coco(summary.yaml, tmp_path / "out/annotations/instances_train.json")  # a link there is replaced, not followed
    assert source.annotations.read_bytes() == before


def test_command(tmp_path):
    path = yolo_dataset(tmp_path / "d", {"a.jpg": "0 0.5 0.5 0.2 0.2\n"})
    result = CliRunner().invoke(cli, ["to-coco", str(path), "--out", "instances.json"])
    assert result.output == "instances.json: 1 image, 1 annotation\n"
    with pytest.raises(DatasetError, match="cannot be written"):
        to_coco(path, tmp_path / "missing/instances.json")


# Boxes of a.jpg and b.jpg in pixels, and the keypoints of a.jpg, computed by hand from images of 100 × 80 pixels.
CASES = {
    "names_str": ([40, 32, 20, 16], [37.5, 20, 25, 40], None),
    "roboflow": ([40, 32, 20, 16], [37.5, 20, 25, 40], None),
    "pose_12x2": ([40, 32, 20, 16], [37.5, 20, 25, 40], [45, 36.8, 2] * 12),
    "pose_4x3": ([40, 32, 20, 16], [40, 32, 20, 16], [45, 36, 2, 55, 36, 2, 55, 44, 2, 45, 44, 2]),
}


@pytest.mark.parametrize("case", CASES)
def test_data_sets_that_failed_before(shared, tmp_path, case):
    *boxes, keypoints = CASES[case]
    to_coco(shared / "cases/to-coco" / case / "data.yaml", tmp_path / "back.json")
    content = json.loads((tmp_path / "back.json").read_text())
    names = {image["id"]: Path(image["file_name"]).name for image in content["images"]}
    found = {names[record["image_id"]]: record for record in content["annotations"]}
    assert [found[name]["bbox"] for name in ("a.jpg", "b.jpg")] == [pytest.approx(box, abs=1e-3) for box in boxes]
    assert found["a.jpg"].get("keypoints") == (keypoints and pytest.approx(keypoints, abs=1e-3))
