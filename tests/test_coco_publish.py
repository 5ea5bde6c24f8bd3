"""Where convert_coco writes and where it refuses to, and what a failure in the middle leaves behind."""

import contextlib
import json
import shutil
from itertools import count
from pathlib import Path

import pytest
from conftest import tree

from kdyolo.coco.convert import Source, convert_coco
from kdyolo.errors import DatasetError


def make_split(root: Path, split: str, file_names=("a.jpg",), categories=((1, "cat"), (2, "dog"))) -> None:
    """A split with one box in its first image; the image files are empty, as the converter never opens them."""
    document = {
        "images": [{"id": i, "file_name": n, "width": 100, "height": 50} for i, n in enumerate(file_names)],
        "annotations": [{"id": 1, "image_id": 0, "category_id": categories[0][0], "bbox": [10, 10, 20, 20]}],
        "categories": [{"id": i, "name": name} for i, name in categories],
    }
    for folder in (root / "annotations", root / "images" / split):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    for name in file_names:
        (root / "images" / split / name).touch()


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "val"):
        make_split(tmp_path / "root", split)
    return tmp_path / "root"


def test_foreign_output_is_refused(root, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/data.yaml").write_text("path: mine\n")
    with pytest.raises(DatasetError, match=r"found data\.yaml and no YAML that kdyolo convert wrote"):
        convert_coco(root, tmp_path / "out")
    assert tree(tmp_path / "out").keys() == {"data.yaml"}
    with pytest.raises(DatasetError, match="found a file"):
        convert_coco(root, tmp_path / "out/data.yaml")


@pytest.mark.parametrize("where", [".", "images", "images/train/new", "annotations", "yolo", ".."])
def test_output_never_overlaps_the_source(root, where):
    before = tree(root)
    with pytest.raises(DatasetError, match="would overlap the source data"):
        convert_coco(root, root / where)
    source = Source(root / "annotations/instances_train.json", root / "images/train", "train")
    if where not in ("annotations", "yolo"):
        with pytest.raises(DatasetError, match="would overlap the source data"):
            convert_coco(out=root / where, sources=[source])
    assert tree(root) == before


def test_output_with_linked_folder_is_refused(root, tmp_path):
    convert_coco(root, tmp_path / "out")
    shutil.rmtree(tmp_path / "out/images")
    (tmp_path / "out/images").symlink_to(root / "images")
    with pytest.raises(DatasetError, match="expected a real folder, found a symbolic link"):
        convert_coco(root, tmp_path / "out")
    assert (root / "images/train/a.jpg").is_file()


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


def test_other_name_with_other_classes_in_one_folder_is_refused(root, tmp_path):
    convert_coco(root, tmp_path / "out", name="one")
    convert_coco(root, tmp_path / "out", name="two")  # the same classes
    for split in ("train", "val"):
        make_split(root, split, categories=[(5, "new")])
    before = tree(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"one\.yaml: this earlier conversion shares train\.txt, val\.txt"):
        convert_coco(root, tmp_path / "out", name="two")
    assert tree(tmp_path / "out") == before


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize(("failure", "seen_as"), [(FULL, DatasetError), (KeyboardInterrupt(), KeyboardInterrupt)])
@pytest.mark.parametrize("earlier", ["nothing", "empty", "conversion"])
@pytest.mark.parametrize("function", ["symlink_to", "rename", "write_bytes"])
def test_failure_while_writing_leaves_everything_as_it_was(
    root, tmp_path, monkeypatch, failure, seen_as, earlier, function
):
    out = tmp_path / "parent" / "out"
    if earlier != "nothing":
        out.mkdir(parents=True)
    if earlier == "conversion":
        convert_coco(root, out)
        make_split(root, "train", ["a.jpg", "b.jpg"])
    before, entries = tree(tmp_path), sorted(tmp_path.rglob("*"))
    original = getattr(Path, function)
    done = False
    # Each call in turn is the one that fails, until none is left to fail. Undoing renames as well.
    for fail_at in count():
        calls = count()

        def fail(path, *args, fail_at=fail_at, calls=calls):
            if next(calls) == fail_at:
                raise failure
            return original(path, *args)

        monkeypatch.setattr(Path, function, fail)
        with contextlib.suppress(seen_as):
            convert_coco(root, out)
            done = True
        if done:
            break
        assert tree(tmp_path) == before
        assert sorted(tmp_path.rglob("*")) == entries
    assert fail_at > 0


@pytest.mark.parametrize(
    ("link", "advice"), [("copy", "Check free space"), ("hardlink", "Use link 'symlink' or 'copy'")]
)
def test_failure_is_told_with_its_cause(root, tmp_path, monkeypatch, link, advice):
    def fail(*args):
        raise FULL

    monkeypatch.setattr(shutil, "copyfile", fail)
    monkeypatch.setattr(Path, "hardlink_to", fail)
    with pytest.raises(DatasetError, match=f"out: cannot be written: .*No space left on device. {advice}") as caught:
        convert_coco(root, tmp_path / "out", link=link)
    assert caught.value.__cause__ is FULL
