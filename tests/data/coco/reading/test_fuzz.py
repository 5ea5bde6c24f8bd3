"""Damaged annotation files: a data set or one clear error, never a traceback, and never anything half-written."""

import copy
import gzip
import json
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdyolo.cli import main
from kdyolo.data.coco.reading import json_chunks
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.errors import DatasetError
from tests.builders.coco import box, image, make_split, seeded, write_file
from tests.builders.commands import tree

DOCUMENT = {
    "info": {"year": 2017},
    "images": [image(i, f"{i}.jpg") for i in range(3)],
    "annotations": [
        box(i, (i, 2, 30, 20), image_id=i % 3, iscrowd=0, area=600, segmentation=[[1, 2, 30, 2, 30, 22]])
        for i in range(9)
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
}
NAMES = ["0.jpg", "1.jpg", "2.jpg"]

NUMBERS = st.sampled_from([0, -1, 1, 0.5, -0.0, 1e308, -1e308, 1e-320, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400])
STRANGE = st.one_of(
    NUMBERS,
    st.sampled_from([float("nan"), float("inf"), -float("inf"), None, True, [], {}, [[]], "", "7", "1.0"]),
    st.sampled_from(
        ["\ud800", "a\0b", "../0.jpg", "/0.jpg", "/etc/passwd.jpg", "C:\\0.jpg", "a/../../0.jpg", "0.jpg/"]
    ),
    st.sampled_from([".", "0.jpg/", "x" * 5000 + ".jpg", "x/" * 2000 + "y.jpg"]),
    st.text(max_size=5),
    st.lists(st.one_of(NUMBERS, st.floats(), st.none()), max_size=5),
    st.integers(1, 2000).map(lambda depth: json.loads("[" * min(depth, 400) + "]" * min(depth, 400))),
)


def places(value, path=()):
    """Where something stands in a document: the keys and indices that lead to it."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


PLACES = [path for path in places(DOCUMENT) if path]


@st.composite
def mutated(draw):
    """The document with some values removed, replaced, repeated, or given to other keys."""
    document = copy.deepcopy(DOCUMENT)
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(PLACES))
        holder = document
        try:
            for key in parents:
                holder = holder[key]
            action = draw(st.sampled_from(["remove", "replace", "replace", "repeat", "rename"]))
            if action == "remove":
                del holder[last]
            elif action == "replace":
                holder[last] = draw(STRANGE)
            elif action == "repeat" and isinstance(holder, list):
                holder.append(copy.deepcopy(holder[last]))
            elif action == "rename" and isinstance(holder, dict):
                holder[draw(st.text(max_size=5))] = holder.pop(last)
        except (KeyError, IndexError, TypeError):  # an earlier mutation took the place away
            continue
    return json.dumps(document).encode()


@st.composite
def damaged(draw):
    """The bytes of the file cut, overwritten or packed."""
    data = bytearray(json.dumps(DOCUMENT).encode())
    kind = draw(st.sampled_from(["cut", "overwrite", "insert", "bom", "utf-16", "gz", "deep"]))
    position = draw(st.integers(0, len(data) - 1))
    if kind == "cut":
        return bytes(data[:position])
    if kind == "bom":
        return b"\xef\xbb\xbf" + data
    if kind == "utf-16":
        return data.decode().encode("utf-16")
    if kind == "gz":
        return gzip.compress(data, mtime=0)
    noise = b"[" * 100_000 if kind == "deep" else draw(st.binary(min_size=1, max_size=4))
    data[position : position + (len(noise) if kind == "overwrite" else 0)] = noise
    return bytes(data)


OPTIONS = st.fixed_dictionaries(
    {"skip_invalid": st.sampled_from([False, True, "any"])},
    optional={"segments": st.just(True), "min_area": st.just(5.0), "include_crowd": st.just(True)},
)


@seeded(100)
@given(data=st.one_of(mutated(), damaged()), options=OPTIONS, size=st.sampled_from([200, 1 << 24]))
@example(data=b"\xef\xbb\xbf" + json.dumps(DOCUMENT).encode(), options={"skip_invalid": False}, size=1 << 24)
@example(data=json.dumps({**DOCUMENT, "images": ["\ud800"]}).encode(), options={"skip_invalid": False}, size=200)
def test_a_data_set_or_one_clear_error(tmp_path, data, options, size):
    make_split(tmp_path / "root", "val", [image()], [box()])
    write_file(tmp_path / "root", "train", data, NAMES)
    before = tree(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_chunks, "CHUNK_SIZE", size)
        message, counts = "", None
        try:
            counts = convert_coco(tmp_path / "root", tmp_path / "out", **options).splits["train"]
        except DatasetError as error:
            message = str(error)
    if counts is None:
        assert tree(tmp_path) == before
        assert not (tmp_path / "out").exists()
        assert message.startswith(str(tmp_path))
        assert "\n" not in message
        assert len(message) < 2_000
        return
    skipped = sum(counts.skipped_annotations.values())
    left_out = counts.crowds + counts.empty + counts.unselected + counts.small + skipped
    assert counts.boxes + left_out == counts.annotations
    assert options["skip_invalid"] or not (skipped or counts.skipped_images)
    lines = [line for path in (tmp_path / "out/labels/train").rglob("*.txt") for line in path.read_text().splitlines()]
    assert len(lines) == counts.boxes
    for line in lines:
        index, *values = map(float, line.split())
        assert index in (0, 1)
        assert all(0 <= value <= 1 for value in values)
    inside = (tmp_path / "root/images").resolve()
    for path in (tmp_path / "out/images").rglob("*"):
        assert path.is_dir() or path.resolve().is_relative_to(inside)
    convert_coco(tmp_path / "root", tmp_path / "out", **options)  # what is written can be written again
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (gzip.compress(b"{}", mtime=0), "found no 'images' (only nothing)"),
        (b"PK\x03\x04....", "Unpack it first, with unzip"),
        (json.dumps(DOCUMENT).encode("utf-16"), "byte 0 is not UTF-8"),
    ],
)
def test_packed_files_say_what_to_do(tmp_path, capsys, data, message):
    write_file(tmp_path / "root", "train", data, NAMES)
    with pytest.raises(SystemExit) as end:
        main(["convert", str(tmp_path / "root"), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert end.value.code == 1
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
