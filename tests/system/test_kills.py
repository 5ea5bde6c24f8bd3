"""Converters and trainings that are killed, interrupted or started together: nothing is lost, nothing half done."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kdyolo.data.coco.split_writer import annotations_name
from kdyolo.data.coco_to_yolo import convert_coco
from tests.builders.coco import box, everything, image, make_split, one_box
from tests.builders.commands import CHECKOUT


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "val"):
        one_box(tmp_path / "root", split)
    return tmp_path / "root"


# Runs a conversion again and again, each time dying at once when one more system call was made than the last time, and
# then a second time to its end. Prints how often it died.
KILLED = """
import os, shutil, sys
from itertools import count
from pathlib import Path
from kdyolo.data.coco_to_yolo import convert_coco

root, out, earlier, result = map(Path, sys.argv[1:])
begins = out.with_name("begins")  # what an earlier conversion left there
if earlier.exists():
    convert_coco(earlier, out)
    out.rename(begins)
for die_at in count():
    shutil.rmtree(out, ignore_errors=True)
    if begins.exists():
        shutil.copytree(begins, out, symlinks=True)
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


def code_after(sign: int, root: Path, out: Path) -> int:
    """Exit code of a conversion that gets a signal once its processes write."""
    process = subprocess.Popen((sys.executable, "-m", "kdyolo", "convert", root, "--out", out), cwd=CHECKOUT)
    written = out / ".kdyolo-staging/new/labels/train"
    while process.poll() is None:
        with suppress(FileNotFoundError):
            if next(written.iterdir(), None):
                break
        time.sleep(0.005)
    process.send_signal(sign)
    return process.wait(30)


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_while_several_processes_write(tmp_path, sign):
    """Ctrl-C and SIGTERM leave nothing; after ``kill -9`` a second run completes it, whatever the helpers still did."""
    for count in (10_000, 40_000):  # on a busy machine the first can end before this process gets its turn
        root, out = tmp_path / f"root{count}", tmp_path / f"out{count}"
        names = [f"{i}.jpg" for i in range(count)]
        make_split(root, "train", [image(i, name) for i, name in enumerate(names)], [box(image_id=0)])
        if code := code_after(sign, root, out):
            break
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}[sign]
    if sign != signal.SIGKILL:
        assert not out.exists()
    convert_coco(root, out)
    assert [len(list((out / folder / "train").iterdir())) for folder in ("images", "labels")] == [len(names)] * 2
    assert not any(path.name.startswith(".kdyolo") for path in out.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_trainings_killed_at_random_end_as_if_nothing_had_happened(python, tmp_path):
    """A share of what ``scripts/random_kills.py`` does: in the freeze, after the thaw, at the end."""
    command = (CHECKOUT / "scripts/random_kills.py", "--kills", "3", "--seed", "867")
    done = python.run(*command, cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "3 runs, " in done.stdout
    assert "; 0 failed" in done.stdout
    killed = {row[2]: row[3:5] for line in done.stdout.splitlines() if (row := line.split())[:2] == ["in", "epoch"]}
    assert all(int(killed[epoch][0]) for epoch in "24")  # times
    assert {started_over for epoch, (_, started_over) in killed.items() if epoch != "1"} == {"·"}
