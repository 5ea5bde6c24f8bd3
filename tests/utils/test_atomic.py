"""Atomic writes: whatever goes wrong on the way, the old file stays and nothing is left beside it."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kdyolo.utils.atomic import AtomicPath, replacing, write_atomic, write_tensors


def fail(*_args, **_keywords):
    raise OSError(28, "No space left on device")


def write_plainly(path: Path) -> None:
    write_atomic(path, b"new")


def write_shared(path: Path) -> None:
    write_atomic(path, "new", shared=True)


def write_as_path(path: Path) -> None:
    AtomicPath(path).write_bytes(b"new")


def write_by_hand(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_bytes(b"n")
        with partial.open("ab") as file:
            file.write(b"ew")


def test_tensors_are_written_whole_or_not_at_all_and_the_error_is_the_systems(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, {"format": "pt"})
    before = path.read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, old[1]))
        with pytest.raises(OSError, match="too large") as e:
            write_tensors(path, {"a": torch.ones(1 << 16)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert (e.value.errno, e.value.filename) == (errno.EFBIG, str(path))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {path.name: before}


def test_an_error_while_writing_names_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as e, replacing(tmp_path / "a.png"):
        fail()
    assert e.value.filename == str(tmp_path / "a.png")


WAYS = [write_plainly, write_shared, write_as_path, write_by_hand]


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_file_is_made_or_replaced(write, old, tmp_path):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_bytes(old)
    write(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"file.txt": b"new"}


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("function", ["replace", "write", "fsync", "interrupt"])
def test_a_fault_leaves_the_old_file_and_nothing_else(write, old, function, tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_bytes(old)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    expected: type[BaseException] = OSError
    if function == "write":
        monkeypatch.setattr(Path, "open", lambda self, mode: Full(self, mode))
        monkeypatch.setattr(Path, "write_bytes", lambda self, data: fail())
    elif function == "fsync":
        if write is not write_as_path:
            pytest.skip("does not wait for the disk")
        monkeypatch.setattr(os, "fsync", fail)
    elif function == "interrupt":
        expected = KeyboardInterrupt

        def interrupt(*_args):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupt)
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(expected):
        write(path)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


class Full:
    """A file on a full disk: it can be created, and takes the first byte only."""

    def __init__(self, path: Path, mode: str) -> None:
        self.file = open(path, mode)  # noqa: PTH123, SIM115 - Path.open is what this stands for

    def __enter__(self):
        return self

    def write(self, data):
        self.file.write(data[:1])
        fail()

    def __exit__(self, *_):
        self.file.close()


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_cleans_up(tmp_path):
    path = tmp_path / "state.pt"
    path.write_bytes(b"old")
    code = (
        "import os, sys, pathlib\nfrom kdyolo.utils.atomic import replacing\n"
        f"with replacing(pathlib.Path({str(path)!r})) as partial:\n"
        "    partial.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir() if p != path] == ["state.pt.partial"]
    write_atomic(path, b"new")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"state.pt": b"new"}


def test_names_on_the_way(tmp_path):
    with replacing(tmp_path / "best.pt", name="best.partial.pt") as partial:
        assert partial.name == "best.partial.pt"
        partial.touch()
    with (
        replacing(tmp_path / "report.html", shared=True) as one,
        replacing(tmp_path / "report.html", shared=True) as two,
    ):
        assert one != two
        assert {one.parent, two.parent} == {tmp_path}
        assert one.name.startswith(".report.html.")
        one.write_text("one")
        two.write_text("two")
    assert (tmp_path / "report.html").read_text() == "one"  # the last one to be complete


def test_the_number_of_bytes_and_the_mode(tmp_path):
    assert write_atomic(tmp_path / "a", "ä\n") == 3
    assert AtomicPath(tmp_path / "b").write_bytes(memoryview(b"12345")) == 5
    write_tensors(tmp_path / "d", {"a": torch.ones(2)})
    (tmp_path / "c").write_bytes(b"")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert modes == {(tmp_path / "c").stat().st_mode}  # as any other file of this user


def test_paths_made_from_an_atomic_one_are_atomic(tmp_path):
    assert isinstance(AtomicPath(tmp_path) / "last.pt", AtomicPath)
