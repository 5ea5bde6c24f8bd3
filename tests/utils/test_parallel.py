"""A file in slices, work in several processes and its progress line: the same as at once, by one."""

import os
import sys
from functools import partial

import pytest

from kdyolo.data.coco import split_writer
from kdyolo.data.coco.reading import json_chunks
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.errors import DatasetError
from kdyolo.utils import parallel
from kdyolo.utils.progress import Progress
from tests.builders.coco import box, image, make_split


@pytest.mark.system
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
    assert "numbered anew" in convert_coco(tmp_path / "root", tmp_path / "new").splits["train"].notes[0]


@pytest.mark.system
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
