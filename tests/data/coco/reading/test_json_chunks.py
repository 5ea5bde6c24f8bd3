"""A file in chunks: the same as at once, however it is laid out."""

import json
import os

import pytest

from kdyolo.data.coco.reading import json_chunks
from kdyolo.data.coco.reading.reader import _decode_head
from kdyolo.data.coco_to_yolo import convert_coco
from tests.builders.coco import (
    CATEGORIES,
    box,
    image,
    label_rows,
    write_file,
)


def read_in(size, path, monkeypatch):
    monkeypatch.setattr(json_chunks, "CHUNK_SIZE", size)
    return json_chunks.cut(path, _decode_head)


def test_slices_are_the_file(shared, tmp_path, monkeypatch):
    path = shared / "coco128/annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    for size, least in ((1 << 30, 1), (50_000, 5), (3_000, 60)):
        head, parts = read_in(size, path, monkeypatch)
        assert [len(head.images), len(head.categories)] == [102, 80]
        assert len(parts) >= least
        texts = [bytes(part.read(bytearray(part.size))) for part in parts]
        assert [record for text in texts for record in json.loads(text)] == document["annotations"]


def test_a_file_that_became_shorter_is_not_read_as_if_it_had_not(tmp_path, monkeypatch):
    """A slice is read into memory that still holds an earlier one, which must not be taken for it."""
    path = tmp_path / "instances.json"
    document = {"images": [image()], "annotations": [box(i) for i in range(100)], "categories": CATEGORIES}
    path.write_text(json.dumps(document))
    _, parts = read_in(2_000, path, monkeypatch)
    buffer = bytearray(max(part.size for part in parts))
    parts[0].read(buffer)
    os.truncate(path, parts[-1].start + 10)
    with pytest.raises(json_chunks.FastPathUnavailable):
        parts[-1].read(buffer)


AWKWARD = {
    "annotations in a string": lambda d: {"info": {"x": '"annotations": [{}], "a'}, **d},
    "annotations of the info": lambda d: {"info": {"annotations": [{"id": 1}, {"id": 2}]}, **d},
    "braces in strings": lambda d: {**d, "annotations": [{**a, "text": '}, {"id": 1}, {'} for a in d["annotations"]]},
    "records in records": lambda d: {
        **d,
        "annotations": [{**a, "parts": [{"a": 1}, {"b": 2}]} for a in d["annotations"]],
    },
    "annotations last": lambda d: {key: d[key] for key in ("images", "categories", "annotations")},
    "annotations first": lambda d: {key: d[key] for key in ("annotations", "categories", "images")},
    "lists after it": lambda d: {**d, "licenses": [{"id": 1}, {"id": 2}], "more": [{"annotations": [{}, {}]}]},
}


@pytest.mark.parametrize("case", AWKWARD)
@pytest.mark.parametrize("indent", [None, 1])
def test_any_layout_of_the_file_gives_the_same(tmp_path, monkeypatch, case, indent):
    images = [image(i, f"{i}.jpg") for i in range(20)]
    boxes = [box(i, (i % 7, i % 5, 10 + i % 11, 20), i * 7 % 20, 1 + i % 2) for i in range(300)]
    document = {"images": images, "annotations": boxes, "categories": CATEGORIES}
    names = [record["file_name"] for record in images]
    write_file(tmp_path / "plain", "train", document, names)
    convert_coco(tmp_path / "plain", tmp_path / "expected")
    write_file(tmp_path / "root", "train", json.dumps(AWKWARD[case](document), indent=indent), names)
    monkeypatch.setattr(json_chunks, "CHUNK_SIZE", 2_000)
    convert_coco(tmp_path / "root", tmp_path / "out")
    expected, found = (label_rows(tmp_path / folder / "labels/train") for folder in ("expected", "out"))
    assert found == expected
