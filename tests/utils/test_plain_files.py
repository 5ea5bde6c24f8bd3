"""Files read with bounds, and what is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdyolo.errors import DatasetError, RunError
from kdyolo.utils.plain_files import DEEPEST, is_deeper, is_file, is_folder, read_file, read_json, refuse_endless


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


def test_files_and_what_is_not_there(tmp_path):
    path = tmp_path / "file"
    assert read_file(path) is None
    assert read_file(path / "below") is None
    path.write_bytes(b"12345")
    assert read_file(path, most=5) == b"12345"
    assert read_file(path / "below") is None
    (tmp_path / "link").symlink_to(path)
    assert read_file(tmp_path / "link") == b"12345"
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    assert read_file(tmp_path / "dangling") is None
    with pytest.raises(DatasetError, match=r"Expected at most .* MiB, found more"):
        read_file(path, most=4, error=DatasetError)


@pytest.mark.parametrize("name", ["folder", "pipe", "/dev/zero", "loop", "x" * 5000, "a\0b"])
def test_what_is_no_file_is_refused_at_once(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RunError, match=r"expected a file, found a|cannot be read"):
        read_file(tmp_path / name)
    assert not is_file(tmp_path / name)
    assert is_folder(tmp_path / name) is (name == "folder")


def test_json(tmp_path):
    path = tmp_path / "file.json"
    assert read_json(path) is None
    path.write_text('{"a": [1, NaN]}')
    assert list(read_json(path)) == ["a"]
    path.write_text(r'{"a": "\ud83d\ude80"}')
    assert read_json(path) == {"a": "🚀"}
    path.write_text(nested(DEEPEST))
    assert read_json(path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "nul",
        "[" * 100_000,
        f'{{"a": {"9" * 5000}}}',
        nested(DEEPEST + 1),
        '{"a": "\udcff"}',
        "x" * 9999,
        r'{"a": "\ud800"}',
    ],
)
def test_damaged_json_is_one_short_line(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=r"file\.json: damaged.*Do it again\.$") as caught:
        read_json(path, advice="Do it again.", error=DatasetError)
    assert len(str(caught.value)) < len(str(Path(path))) + 400


def test_depth():
    assert not is_deeper(1, 1)
    assert not is_deeper([[1], {"a": 2}], 2)
    assert is_deeper([[1], {"a": [2]}], 2)


def test_a_text_that_fits_into_no_memory_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b"[")
    refuse_endless(path, error=DatasetError)
    os.truncate(path, 8 << 40)
    with pytest.raises(DatasetError, match=r"at most .* GB, half of this machine's memory, found 8,796 GB"):
        refuse_endless(path, error=DatasetError)
