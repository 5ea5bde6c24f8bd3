"""Bad COCO folders and files: one clear error for each, nothing written, or counted and left out when asked to."""

import json
from pathlib import Path

import pytest

from kdyolo.data.coco_to_yolo import convert_coco
from tests.builders.coco import (
    CATEGORIES,
    box,
    document,
    image,
    make_split,
    refusal,
    write,
)

WHOLE_FILE = {
    "empty": ("", "found an empty one"),
    "blank": (" \n\t", "found an empty one"),
    "not JSON": ("<html></html>", "not JSON: Expecting value at line 1 column 1"),
    "not UTF-8": (b'{"images": ["\xff"]}', "byte 13 is not UTF-8"),
    "truncated": (json.dumps(document(), indent=1)[:200], "truncated: the file ends too early"),
    "truncated in a string": (json.dumps(document())[:40], "truncated: the file ends too early"),
    "trailing text": (json.dumps(document()) + "}", "not JSON: Extra data at line 1"),
    "a list": ("[1]", "found a JSON list at the top level"),
    "null": ("null", "found a JSON null at the top level"),
    "nested too deep": ("[" * 100_000, "not readable as JSON"),
    "no images": ({**document(), "images": []}, "found no image in 'images'"),
    "images no list": ({**document(), "images": {}}, "found a JSON object under 'images'"),
    "no categories": ({**document(), "categories": []}, "found no category in 'categories'"),
    **{
        f"no key {key}": ({k: v for k, v in document().items() if k != key}, f"found no '{key}' (only ")
        for key in document()
    },
}


@pytest.mark.parametrize("skip_invalid", [False, True])
@pytest.mark.parametrize("case", WHOLE_FILE)
def test_whole_file_problems_are_named(tmp_path, case, skip_invalid):
    content, expected = WHOLE_FILE[case]
    path = write(tmp_path / "root", content)
    message = refusal(tmp_path / "root", tmp_path / "out", skip_invalid=skip_invalid)
    assert message.startswith(f"{path}: ")
    assert expected in message


def test_what_was_skipped_is_not_in_the_annotations_either(tmp_path):
    """Scoring wants every image of the JSON to be among those that were converted, and no other."""
    images = [
        image(1, "a.jpg"),
        image(2, "gone.jpg"),
        image(1, "b.jpg"),
        image(3, "c.jpg", width=-1),
        image(4, "d.jpg"),
    ]
    annotations = [
        box(1, image_id=99),  # no such image; its id is free for the next
        box(1, image_id=1, area=7.5, segmentation=[[1, 2, 3, 4, 5, 6]]),
        box(2, image_id=2),
        box(3, image_id=4, bbox=(1, 2, float("inf"), 3)),
        box(4, image_id=4, iscrowd=1),
        {"id": "x"},
    ]
    make_split(tmp_path / "root", "val", images, annotations)
    (tmp_path / "root/images/val/gone.jpg").unlink()
    summary = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid="any")
    written = tmp_path / "out/annotations/instances_val.json"
    assert not written.is_symlink()
    document = json.loads(written.read_text())
    assert [record["file_name"] for record in document["images"]] == ["a.jpg", "d.jpg"]
    assert document["annotations"] == [{**annotations[1], "iscrowd": 0}, annotations[4]]
    assert document["categories"] == CATEGORIES
    assert sum(summary.splits["val"].skipped_images.values()) == 3


@pytest.fixture
def root(tmp_path) -> Path:
    make_split(tmp_path / "root", "train")
    make_split(tmp_path / "root", "val")
    return tmp_path / "root"


def test_byte_order_mark_is_read(root, tmp_path):
    path = root / "annotations/instances_train.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert convert_coco(root, tmp_path / "out").splits["train"].boxes == 1
