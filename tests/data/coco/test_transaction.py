"""Where convert_coco writes and where it refuses to, and what a failure in the middle leaves behind."""

import contextlib
import errno
import os
import shutil
import stat
from itertools import count
from pathlib import Path

import pytest

from kdyolo.data.coco.transaction import _remove
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.errors import DatasetError
from tests.builders.coco import (
    everything,
    one_box,
)
from tests.builders.commands import tree


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "val"):
        one_box(tmp_path / "root", split)
    return tmp_path / "root"


def test_again_replaces_what_is_ours_and_nothing_else(root, tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is fine as well
    convert_coco(root, out)
    first = tree(out)
    (out / "labels/train.cache").write_text("stale")
    (out / "labels/train/gone.txt").write_text("stale")
    (out / "images/train/a.npy").write_text("stale")
    (out / "mine.txt").write_text("mine")
    (out / "labels/mine").mkdir()
    (out / "labels/mine/a.txt").write_text("mine")
    convert_coco(root, out)
    assert tree(out).keys() - first.keys() == {"mine.txt", "labels/mine/a.txt"}
    assert {key: tree(out)[key] for key in first} == first


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(("failure", "seen_as"), [(FULL, DatasetError), (KeyboardInterrupt(), KeyboardInterrupt)])
@pytest.mark.parametrize("earlier", ["nothing", "empty", "conversion"])
@pytest.mark.parametrize("function", ["symlink", "open", "write", "mkdir", "rename", "replace"])
def test_failure_while_writing_leaves_everything_as_it_was(
    root, tmp_path, monkeypatch, failure, seen_as, earlier, function
):
    out = tmp_path / "parent" / "out"
    if earlier != "nothing":
        out.mkdir(parents=True)
    if earlier == "conversion":
        convert_coco(root, out)
        one_box(root, "train", ["a.jpg", "sub/b.jpg"])
    before = everything(tmp_path)
    original = getattr(os, function)
    done = False
    # Each call in turn is the one that fails, until none is left to fail. Undoing makes such calls as well.
    for fail_at in count():
        calls = count()

        def fail(*args, fail_at=fail_at, calls=calls, **keywords):
            # A disk that is full still lists folders, finds those that exist, and lets processes talk.
            harmless = {
                "open": lambda: not args[1] & os.O_CREAT,
                "mkdir": lambda: Path(args[0]).is_dir(),
                "write": lambda: not stat.S_ISREG(os.fstat(args[0]).st_mode),
            }.get(function, lambda: False)
            if not harmless() and next(calls) == fail_at:
                raise failure
            return original(*args, **keywords)

        with monkeypatch.context() as patched:
            patched.setattr(os, function, fail)
            with contextlib.suppress(seen_as):
                convert_coco(root, out)
                done = True
        if done:
            break
        assert everything(tmp_path) == before
    assert fail_at > 0


@pytest.mark.parametrize(
    ("link", "function", "advice"),
    [("copy", "copyfile", "Check free space"), ("hardlink", "link", "Use link 'symlink' or 'copy'")],
)
def test_failure_is_told_with_its_cause(root, tmp_path, monkeypatch, link, function, advice):
    full = OSError(28, "No space left on device")

    def fail(*args):
        raise full

    monkeypatch.setattr(shutil if function == "copyfile" else os, function, fail)
    with pytest.raises(DatasetError, match=f"out: cannot be written: .*No space left on device. {advice}") as caught:
        convert_coco(root, tmp_path / "out", link=link)
    assert caught.value.__cause__ is full


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_refused_and_left_alone(root, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    for out in (tmp_path / "locked", tmp_path / "locked/new"):
        with pytest.raises(DatasetError, match=r"cannot be written: .*Permission denied"):
            convert_coco(root, out)
    assert not any((tmp_path / "locked").iterdir())


def test_only_helpers_that_still_write_are_waited_for(monkeypatch, tmp_path):
    """Anything else would fail again, and is told at once."""
    tried = []

    def refuse(folder):
        tried.append(folder)
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr("kdyolo.data.coco.transaction.shutil.rmtree", refuse)
    with pytest.raises(PermissionError):
        _remove(tmp_path, attempts=3)
    assert len(tried) == 1
