"""A file in slices, work in several processes and its progress line: the same as at once, by one."""

import json
import os
import sys
from functools import partial

import pytest

from kdyolo.data.coco import json_chunks, split_writer
from kdyolo.data.coco.reader import _decode_head
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.errors import DatasetError
from kdyolo.utils import parallel
from kdyolo.utils.progress import Progress
from tests.builders.coco import CATEGORIES, box, image, label_rows, make_split, write_file


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


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_several_processes_give_the_same_bytes(shared, tmp_path, monkeypatch):
    from tests.builders.commands import tree

    convert_coco(shared / "coco128", tmp_path / "out")
    expected = tree(tmp_path / "out")
    monkeypatch.setattr(json_chunks, "CHUNK_SIZE", 20_000)
    monkeypatch.setattr(split_writer, "_PART", 5)
    monkeypatch.setattr(split_writer, "_WORTH_A_PROCESS", 10)
    monkeypatch.setattr(parallel, "_may_fork", lambda: True)
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    used = []
    original = parallel.multiprocessing.get_context
    monkeypatch.setattr(parallel.multiprocessing, "get_context", lambda kind: used.append(kind) or original(kind))
    convert_coco(shared / "coco128", tmp_path / "out")
    assert tree(tmp_path / "out") == expected
    assert used == ["fork"] * 4
    make_split(tmp_path / "root", "train", [image()], [box(i) for i in range(2000)] + [box(7)])  # one id twice
    with pytest.raises(DatasetError, match=r"annotation 2000 \(id 7\): duplicate annotation id"):
        convert_coco(tmp_path / "root", tmp_path / "new")


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_shares_come_back_in_order_and_failures_too(monkeypatch):
    """Each process takes run after run; what one raises ends all of it, and so does what this process raises."""
    monkeypatch.setattr(parallel, "_may_fork", lambda: True)
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    progress, here = Progress("counting", 100, "numbers"), []

    def work(run):
        if -1 in run:
            raise DatasetError("minus one")
        return os.getpid(), list(run)

    def fail():
        raise DatasetError("meanwhile")

    share = partial(parallel.parallel_map, work, at_least=1, progress=progress)
    results = share(range(100), meanwhile=lambda: here.append(os.getpid()))
    assert [number for _, run in results for number in run] == list(range(100))
    assert os.getpid() not in {process for process, _ in results}
    assert here == [os.getpid()]
    assert [run for _, run in share([], apart=True)] == [[]]
    with pytest.raises(DatasetError, match="minus one"):
        share([0, 1, 2, -1, 4, 5])
    with pytest.raises(DatasetError, match="meanwhile"):
        share(range(100), meanwhile=fail)
    assert not parallel.multiprocessing.active_children()
