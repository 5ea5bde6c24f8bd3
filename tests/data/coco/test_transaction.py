"""Where convert_coco writes and where it refuses to, and what a failure in the middle leaves behind."""

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from kdyolo.data.coco import split_writer
from kdyolo.data.coco.split_writer import annotations_name
from kdyolo.data.coco_to_yolo import CocoSplit, convert_coco
from kdyolo.errors import DatasetError
from tests.builders.coco import CATEGORIES, box, image, make_split
from tests.builders.commands import CHECKOUT, tree


def one_box(root: Path, split: str, file_names=("a.jpg",), categories=CATEGORIES) -> None:
    """A split with one box in its first image."""
    images = [image(i, name) for i, name in enumerate(file_names)]
    make_split(root, split, images, [box(image_id=0, category_id=categories[0]["id"])], categories)


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "val"):
        one_box(tmp_path / "root", split)
    return tmp_path / "root"


def everything(folder: Path) -> dict[str, str]:
    """Files and links as ``tree`` gives them, and the folders too."""
    return tree(folder) | {str(path.relative_to(folder)): "folder" for path in folder.rglob("*") if path.is_dir()}


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
    source = CocoSplit(root / "annotations/instances_train.json", root / "images/train", "train")
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
        one_box(root, split, categories=[{"id": 5, "name": "new"}])
    before = tree(tmp_path / "out")
    with pytest.raises(DatasetError, match=r"one\.yaml: this earlier conversion shares train\.txt, val\.txt"):
        convert_coco(root, tmp_path / "out", name="two")
    assert tree(tmp_path / "out") == before


def test_systems_without_folder_descriptors_give_the_same(root, tmp_path, monkeypatch):
    convert_coco(root, tmp_path / "out")
    first = tree(tmp_path / "out")
    monkeypatch.setattr(split_writer, "_KNOWS_DESCRIPTORS", False)
    convert_coco(root, tmp_path / "out")
    assert tree(tmp_path / "out") == first


# --- Failures in the middle -------------------------------------------------------------------------------------------

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
    def fail(*args):
        raise FULL

    monkeypatch.setattr(shutil if function == "copyfile" else os, function, fail)
    with pytest.raises(DatasetError, match=f"out: cannot be written: .*No space left on device. {advice}") as caught:
        convert_coco(root, tmp_path / "out", link=link)
    assert caught.value.__cause__ is FULL


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_refused_and_left_alone(root, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    for out in (tmp_path / "locked", tmp_path / "locked/new"):
        with pytest.raises(DatasetError, match=r"cannot be written: .*Permission denied"):
            convert_coco(root, out)
    assert not any((tmp_path / "locked").iterdir())


# Runs a conversion again and again, each time dying at once when one more system call was made than the last time, and
# then a second time to its end. Prints how often it died.
KILLED = """
import os, shutil, sys
from itertools import count
from pathlib import Path
from kdyolo.data.coco_to_yolo import convert_coco

root, out, earlier, result = map(Path, sys.argv[1:])
for die_at in count():
    shutil.rmtree(out, ignore_errors=True)
    if earlier.exists():
        convert_coco(earlier, out)
    child = os.fork()
    if child == 0:
        calls = count()
        def dying(function):
            def call(*args, **keywords):
                if next(calls) == die_at:
                    os._exit(9)
                return function(*args, **keywords)
            return call
        for name in ("symlink", "write", "mkdir", "rename", "replace", "unlink", "rmdir"):
            setattr(os, name, dying(getattr(os, name)))
        convert_coco(root, out)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        break
    convert_coco(root, out)
    shutil.copytree(out, result / str(die_at), symlinks=True)
print(die_at)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("earlier", ["nothing", "conversion"])
def test_killed_anywhere_a_second_run_completes_it(tmp_path, earlier):
    root = tmp_path / "root"
    one_box(root, "train")
    if earlier == "conversion":
        one_box(tmp_path / "earlier", "train", ["old.jpg", "sub/a.jpg"])
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, root, out, tmp_path / "earlier", tmp_path / "results"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    convert_coco(root, tmp_path / "expected")
    expected = everything(tmp_path / "expected")
    moved_yaml = (tmp_path / "expected/coco.yaml").read_text().replace(str(tmp_path / "expected"), str(out))
    results = list((tmp_path / "results").iterdir())
    assert len(results) == int(done.stdout) > 15
    for result in results:
        found = everything(result)
        assert (result / "coco.yaml").read_text() == moved_yaml
        assert {**found, "coco.yaml": expected["coco.yaml"]} == expected


# --- Two converters ---------------------------------------------------------------------------------------------------

CONVERT = "import sys; from kdyolo.data.coco_to_yolo import convert_coco; convert_coco(sys.argv[1], sys.argv[2])"


def test_converters_in_one_folder_take_turns(tmp_path):
    """Four at once, of two different sources: the folder is one of the two conversions, complete, and no mixture."""
    sources = [tmp_path / "few", tmp_path / "many"]
    for source, number in zip(sources, (300, 500), strict=True):
        for split in ("train", "val"):
            names = [f"{source.name}{i}.jpg" for i in range(number)]
            make_split(source, split, [image(i, name) for i, name in enumerate(names)], [box(image_id=0)])
    out = tmp_path / "out"
    command = (sys.executable, "-c", CONVERT)
    running = [subprocess.Popen([*command, sources[i % 2], out], cwd=CHECKOUT) for i in range(4)]
    assert [process.wait(60) for process in running] == [0] * 4
    stems = {path.stem for path in (out / "images/train").iterdir()}
    assert stems in [{f"few{i}" for i in range(300)}, {f"many{i}" for i in range(500)}]
    for split in ("train", "val"):
        assert {path.stem for path in (out / "labels" / split).iterdir()} == stems
        assert (out / f"{split}.txt").read_text().count("\n") == len(stems)
        document = json.loads((out / annotations_name(split)).read_text())
        assert stems == {record["file_name"].removesuffix(".jpg") for record in document["images"]}
    assert sorted(path.name for path in out.iterdir()) == [
        *("annotations", "coco.yaml", "images", "labels", "train.txt", "val.txt")
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_signals_while_several_processes_write(tmp_path, sign):
    """Ctrl-C leaves nothing; after ``kill -9`` a second run completes it, whatever the helpers still did."""
    names = [f"{i}.jpg" for i in range(10_000)]
    make_split(tmp_path / "root", "train", [image(i, name) for i, name in enumerate(names)], [box(image_id=0)])
    out = tmp_path / "out"
    command = (sys.executable, "-m", "kdyolo", "convert", tmp_path / "root", "--out", out)
    process = subprocess.Popen(command, cwd=CHECKOUT)
    written = out / ".kdyolo-staging/new/labels/train"
    while not written.is_dir() or next(written.iterdir(), None) is None:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(sign)
    assert process.wait(30) == (130 if sign == signal.SIGINT else -signal.SIGKILL)
    if sign == signal.SIGINT:
        assert not out.exists()
    convert_coco(tmp_path / "root", out)
    assert [len(list((out / folder / "train").iterdir())) for folder in ("images", "labels")] == [len(names)] * 2
    assert not any(path.name.startswith(".kdyolo") for path in out.iterdir())
