"""Small COCO folders for the converter's tests. The image files are empty: the converter does not open them."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, settings
from PIL import Image

from kdyolo.data.coco_to_yolo import CocoSplit, convert_coco
from kdyolo.errors import DatasetError
from tests.builders.commands import tree

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
DROP = object()  # in place of a value: the key is removed


def image(image_id=1, file_name="a.jpg", width=100, height=50):
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}


def box(annotation_id=1, bbox=(10, 10, 20, 20), image_id=1, category_id=1, **more):
    head = {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": list(bbox)}
    return {**head, "area": 100, **more}


def write_file(root: Path, split: str, content: dict | str | bytes, names=(), folder="images/{}") -> CocoSplit:
    """The annotation file of a split and empty image files of these names."""
    path, images = root / "annotations" / f"instances_{split}.json", root / folder.format(split)
    for parent in (path.parent, images):
        parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    for name in names:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).touch()
    return CocoSplit(path, images, split)


def make_split(root, split, images=None, annotations=None, categories=CATEGORIES, folder="images/{}") -> CocoSplit:
    """A valid split: by default one image, and in the first image one box."""
    images = [image()] if images is None else list(images)
    if annotations is None:
        annotations = [box(image_id=images[0]["id"], category_id=categories[0]["id"])]
    document = {"info": {}, "images": images, "annotations": list(annotations), "categories": list(categories)}
    return write_file(root, split, document, [record["file_name"] for record in images], folder)


def seeded(examples: int) -> settings:
    """Hypothesis with so many examples, the same ones each time; they share ``tmp_path``."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


def label_rows(folder: Path) -> dict[str, list[list[float]]]:
    """Name of the label → its lines, as numbers."""
    return {
        path.name: [[float(value) for value in line.split()] for line in path.read_text().splitlines()]
        for path in folder.glob("*.txt")
    }


def photo(path: Path, size=(100, 50), **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 50).convert("RGB").save(path, **options)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def one_box_each(root: Path, names: list[str]) -> Path:
    """A split 'train' with a box in each of these images; gives the folder of its images."""
    boxes = [box(i, image_id=i) for i in range(len(names))]
    return make_split(root, "train", [image(i, name) for i, name in enumerate(names)], boxes).images


def document() -> dict:
    """Two images, three annotations with ids 40, 41, 42, two categories."""
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 50} for i in (7, 8)],
        "annotations": [box(40 + i, image_id=7, iscrowd=0) for i in range(3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def write(root: Path, content: dict | str | bytes, split: str = "train2017") -> Path:
    """The annotation file of a split, and beside it more image files than the document has."""
    return write_file(root, split, content, ("7.jpg", "7.png", "8.jpg", "9.jpg")).annotations


def edited(key: str, index: int, **changes) -> dict:
    """The document with one record changed; DROP removes a key."""
    content = document()
    record = {**content[key][index], **changes}
    content[key][index] = {name: value for name, value in record.items() if value is not DROP}
    return content


def with_more(key: str, record: object) -> dict:
    content = document()
    content[key].append(record)
    return content


def refusal(root: Path, out: Path, **options) -> str:
    """The one error of a conversion, after a check that nothing was written."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(DatasetError) as caught:
        convert_coco(root, out, **options)
    assert sorted(out.parent.rglob("*")) == before
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def one_box(root: Path, split: str, file_names=("a.jpg",), categories=CATEGORIES) -> None:
    """A split with one box in its first image."""
    images = [image(i, name) for i, name in enumerate(file_names)]
    make_split(root, split, images, [box(image_id=0, category_id=categories[0]["id"])], categories)


def everything(folder: Path) -> dict[str, str]:
    """Files and links as ``tree`` gives them, and the folders too."""
    return tree(folder) | {str(path.relative_to(folder)): "folder" for path in folder.rglob("*") if path.is_dir()}


def convert_one(tmp_path, annotations, *, images=None, categories=CATEGORIES, **options):
    """Convert a single split 'train'; gives the summary and the lines of a.jpg's label."""
    make_split(tmp_path / "root", "train", images or [image()], annotations, categories)
    summary = convert_coco(tmp_path / "root", tmp_path / "out", **options)
    return summary, (tmp_path / "out/labels/train/a.txt").read_text().splitlines()


def yolo_dataset(folder, labels, names=("cat", "dog"), size=(100, 50), **content):
    """A hand-made YOLO data set with one folder of images; labels: name of the image → text."""
    for name, text in labels.items():
        picture, label = folder / "images/train" / name, (folder / "labels/train" / name).with_suffix(".txt")
        for path in (picture, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(picture)
        if text is not None:
            label.write_text(text)
    content = {"train": "images/train", "val": "images/train", "names": list(names), **content}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"
