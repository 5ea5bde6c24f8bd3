"""COCO folders as people's tools write them: the same two images, two boxes and classes, each time otherwise.

Every entry changes a regular document, and may move its images; what comes out of a conversion must not change.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.builders.coco import photo

Document = dict[str, Any]
Change = Callable[[Document, Path], object]
NAN, INF = float("nan"), float("inf")
SQUARE = [[10, 10, 30, 10, 30, 40, 10, 40]]
MASK = {"size": [80, 100], "counts": [810, *([30, 50] * 19), 30, 8000 - 810 - 19 * 80 - 30]}  # 20 columns of 30 pixels
LABELS = {"a": "0 0.200000 0.312500 0.200000 0.375000\n", "b": "1 0.550000 0.437500 0.300000 0.375000\n"}


def regular() -> Document:
    """Two images of 100 × 80 pixels, a cat in the first and a dog in the second."""
    return {
        "images": [{"id": i, "file_name": f"{n}.jpg", "width": 100, "height": 80} for i, n in ((1, "a"), (2, "b"))],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], "area": 600, "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [40, 20, 30, 30], "area": 900, "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def write_tool_files(folder: Path, change: Change, name: str = "ann.json") -> tuple[Path, Path]:
    """The annotation file and the image folder of a changed document."""
    images, document = folder / "img", regular()
    for record in document["images"]:
        photo(images / record["file_name"], (100, 80))
    change(document, images)
    path = folder / name
    text = json.dumps(document).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
    return path, images


def _set(kind: str, index: int, **values: Any) -> Change:
    return lambda document, _: document[kind][index].update(values)


def _drop(kind: str, *keys: str) -> Change:
    return lambda document, _: [record.pop(key, None) for record in document[kind] for key in keys]


def _each(kind: str, key: str, spell: Callable[[Any], Any]) -> Change:
    return lambda document, _: [record.update({key: spell(record[key])}) for record in document[kind]]


def _named(written: str) -> Change:
    """The first image under another name than that of its file."""
    return _set("images", 0, file_name=written)


def _in_folder(place: str, written: str) -> Change:
    def change(document: Document, images: Path) -> None:
        (images / place).parent.mkdir(parents=True, exist_ok=True)
        (images / "a.jpg").rename(images / place)
        document["images"][0]["file_name"] = written

    return change


def _two_of_a_name(document: Document, images: Path) -> None:
    """A file of the same base name in each of two folders, of which the path names one."""
    photo(images / "val/a.jpg", (30, 30))
    _in_folder("train/a.jpg", "D:\\data\\train\\a.jpg")(document, images)


def _all(*changes: Change) -> Change:
    def change(document: Document, images: Path) -> None:
        for one in changes:
            one(document, images)

    return change


def _texts(document: Document, _: Path) -> None:
    for record in (*document["images"], *document["annotations"], *document["categories"]):
        record.update({key: str(value) for key, value in record.items() if key == "id" or key.endswith("_id")})


def _names_as_ids(document: Document, _: Path) -> None:
    for kind, names in (("image", ("frame a", "frame b")), ("category", ("Cat", "Dog"))):
        for record in document["images" if kind == "image" else "categories"]:
            record["id"] = names[record["id"] - 1]
        for record in document["annotations"]:
            record[f"{kind}_id"] = names[record[f"{kind}_id"] - 1]


def _row(**row: Any) -> Change:
    """One more row of categories in front, as Roboflow writes it."""

    def change(document: Document, _: Path) -> None:
        for record in document["categories"]:
            record["supercategory"] = row["name"] if row["name"] != "dog" else "animal"
        document["categories"].insert(0, {"supercategory": "none", **row})

    return change


# What a tool writes → the change, and what a note says of it (nothing where nobody needs to know).
TOOLS: dict[str, tuple[Change, str]] = {
    "nothing odd": (lambda *_: None, ""),
    "iscrowd 0.0": (_set("annotations", 1, iscrowd=0.0), "1 annotation has no iscrowd of 0 or 1"),
    "iscrowd null": (_each("annotations", "iscrowd", lambda _: None), "2 annotations have no iscrowd of 0 or 1"),
    "iscrowd as a text": (_each("annotations", "iscrowd", str), "2 annotations have no iscrowd of 0 or 1"),
    "iscrowd false": (_each("annotations", "iscrowd", bool), ""),
    "no iscrowd": (_drop("annotations", "iscrowd"), ""),
    "no annotation ids": (_drop("annotations", "id"), "2 annotations are numbered anew"),
    "repeated annotation ids": (_each("annotations", "id", lambda _: 5), "2 annotations are numbered anew"),
    "annotation ids from 0 in every image": (_each("annotations", "id", lambda _: 0), "numbered anew"),
    "annotation ids of letters": (_each("annotations", "id", lambda i: f"ann-{i}"), "numbered anew"),
    "an annotation id null": (_set("annotations", 0, id=None), "numbered anew"),
    "an annotation id as a text": (_set("annotations", 0, id="1"), "1 annotation id is in another spelling"),
    "all ids as texts": (_texts, "2 image ids are in another spelling"),
    "names as ids": (_names_as_ids, "2 category ids are texts: numbered in the order of the file"),
    "category_id as a text": (
        _each("annotations", "category_id", str),
        "2 annotations have the category_id in another",
    ),
    "category_id as a float": (_each("annotations", "category_id", float), "the category_id in another spelling"),
    "image_id as a float": (_each("annotations", "image_id", float), "the image_id in another spelling"),
    "image ids as floats": (_each("images", "id", float), "2 image ids are in another spelling of a whole number"),
    "width as a float": (_set("images", 0, width=100.0), "1 image has a size in another spelling"),
    "sizes as texts": (
        _all(_each("images", "width", str), _each("images", "height", str)),
        "a size in another spelling",
    ),
    "area as a text": (_set("annotations", 0, area="600"), "1 annotation has the area as a text"),
    "area null": (_each("annotations", "area", lambda _: None), "2 annotations have no area"),
    "area NaN": (_set("annotations", 0, area=NAN), "1 annotation has no area"),
    "no area": (_drop("annotations", "area"), "2 annotations have no area"),
    "a box of texts": (_each("annotations", "bbox", lambda b: [*map(str, b)]), "2 annotations have a bbox of texts"),
    "NaN in an outline": (_set("annotations", 0, segmentation=[[NAN] * 6]), "1 record has NaN or Infinity in fields"),
    "Infinity in a score": (_set("annotations", 0, score=INF), "1 record has NaN or Infinity in fields"),
    "NaN beside an image": (_set("images", 1, date_captured=NAN), "1 record has NaN or Infinity in fields"),
    "no box but a polygon": (_set("annotations", 0, bbox=None, segmentation=SQUARE), "1 annotation has no bbox"),
    "an empty box and a polygon": (_set("annotations", 0, bbox=[], segmentation=SQUARE), "1 annotation has no bbox"),
    "no box but a mask": (_set("annotations", 0, bbox=None, segmentation=MASK), "1 annotation has no bbox"),
    "width 0": (_set("images", 0, width=0), "1 image has no width and height: read from the file"),
    "height null": (_set("images", 0, height=None), "1 image has no width and height: read from the file"),
    "no sizes": (_drop("images", "width", "height"), "2 images have no width and height: read from the file"),
    "width NaN": (_set("images", 0, width=NAN), "1 image has no width and height: read from the file"),
    "an image twice": (lambda d, _: d["images"].append(dict(d["images"][0])), "1 image record stands there twice"),
    "a category twice": (lambda d, _: d["categories"].append(dict(d["categories"][1])), "category record stands there"),
    "LVIS": (
        lambda d, _: [
            record.update(coco_url=f"http://images.cocodataset.org/train2017/{record.pop('file_name')}")
            for record in d["images"]
        ],
        "2 images have no file_name: that in the URL or path counts",
    ),
    "Objects365": (_named("images/v1/patch8/a.jpg"), "1 image is found below the image folder"),
    "Windows separators": (_in_folder("train/a.jpg", "train\\a.jpg"), "1 image is found below the image folder"),
    "Windows, from a drive": (_named("C:\\Users\\me\\img\\a.jpg"), "1 image is found below the image folder"),
    "Windows, beside the file": (_named("..\\img\\a.jpg"), "1 image is found below the image folder"),
    "another machine's path": (_named("/home/me/data/a.jpg"), "1 image is found below the image folder"),
    "a path upwards": (_named("../../elsewhere/a.jpg"), "1 image is found below the image folder"),
    "URL escapes": (_in_folder("my shop/ä 1.jpg", "my%20shop/%C3%A4%201.jpg"), "1 image is found below"),
    "a URL": (_named("https://storage.org/bucket/a.jpg?X-Key=1"), "1 image is found below the image folder"),
    "Label Studio, uploaded": (_named("/data/upload/3/a.jpg"), "1 image is found below the image folder"),
    "Label Studio, local files": (
        _named("/data/local-files/?d=set%5Ca.jpg"),
        "1 image is found below the image folder",
    ),
    "another case of the suffix": (_in_folder("a.JPG", "a.jpg"), "1 image is found below the image folder"),
    "a file in a folder that is not named": (_in_folder("day 1/a.jpg", "a.jpg"), "1 image is found below"),
    "blanks around a name": (_named(" a.jpg "), "1 image is found below the image folder"),
    "two files of a base name": (_two_of_a_name, "1 image is found below the image folder"),
    "a supercategory's row": (_row(id=0, name="animals"), ""),
    "a supercategory's row with the name of a class": (_row(id=0, name="cat"), ""),
    "a row with the name of a class": (_row(id=0, name="dog"), ""),
}
