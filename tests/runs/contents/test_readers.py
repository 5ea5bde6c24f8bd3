"""Run folders that hold anything: each is read, or is damaged with a reason, and the others are seen as ever."""

from __future__ import annotations

import json
import math
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kdyolo.cli import main
from kdyolo.errors import KDYOLOError, RunError
from kdyolo.experiments.compare import compare_runs
from kdyolo.runs.history import read_run
from kdyolo.runs.model_card import write_model_card
from kdyolo.runs.status import list_runs, run_status, stop_runs
from tests.builders.run_folders import write_run

YAML_FILES = ("args.yaml", "kdyolo.yaml")
JSON_FILES = ("process.json", "coco_metrics.json")
FILES = (*YAML_FILES, *JSON_FILES, "results.csv", "pid.txt")
PROCESS = {"pid": 5, "host": "gpu7", "started": 1.0, "launcher": None}
BOMB = "".join(f"x{i}: &x{i} [{','.join([f'*x{i - 1}' if i else '1'] * 10)}]\n" for i in range(9))


def record_of(**changes: Any) -> str:
    return yaml.safe_dump({"schedule": {"epochs": 3, "freeze_epochs": 0}, **changes})


def process_of(**changes: Any) -> str:
    return json.dumps({**PROCESS, **changes})


# File, its content, and what the reason says.
DAMAGE: dict[str, tuple[str, str | bytes, str]] = {
    "epochs without end": ("args.yaml", "epochs: .inf", "epochs"),
    "no number of epochs": ("args.yaml", "epochs: .nan", "epochs"),
    "negative epochs": ("args.yaml", "epochs: -5", "epochs"),
    "epochs for ever": ("args.yaml", "epochs: 1000000000000", "epochs"),
    "digits": ("args.yaml", f"epochs: {'9' * 5000}", "5000 digits"),
    "hexadecimal digits": ("args.yaml", f"epochs: 0x{'f' * 5000}", "5002 digits"),
    "text for hours": ("args.yaml", "epochs: 3\ntime: long", "time"),
    "aliases": ("args.yaml", f"{BOMB}epochs: 3", "*x4 makes more than"),
    "merged aliases": ("args.yaml", f"a: &a {{b: &b [1]}}\nc: &c {{<<: *a, d: *c}}\n{BOMB}", "within itself"),
    "deep settings": ("args.yaml", "a: " + "[" * 800, "within each other"),
    "deeper settings": ("args.yaml", "a: " + "[" * 80_000, "nesting depth"),
    "a tag": ("args.yaml", "epochs: !!bool 3", "none of its kind"),
    "no date": ("args.yaml", "epochs: 2001-99-99", "epochs"),
    "no UTF-8": ("args.yaml", b"epochs: \xff\xfe", "damaged"),
    "a NUL": ("args.yaml", b"epochs: 3\x00", "damaged"),
    "no names": ("args.yaml", "1: 2", "names before the colons"),
    "large settings": ("args.yaml", b"#" * (5 << 20), "4 MiB"),
    "a list": ("kdyolo.yaml", "- 1", "list"),
    "a text": ("kdyolo.yaml", "text", "str"),
    "nothing": ("kdyolo.yaml", "null", "NoneType"),
    "text for epochs": ("kdyolo.yaml", "schedule: {epochs: x}", "schedule.epochs"),
    "text for a backbone": ("kdyolo.yaml", record_of(backbone="x"), "backbone"),
    "a list of versions": ("kdyolo.yaml", record_of(versions=[1]), "versions"),
    "numbers for a model": ("kdyolo.yaml", record_of(model=[1, 2]), "model"),
    "thaws": ("kdyolo.yaml", record_of(schedule={"epochs": 3, "thaws": {"x": 1}}), "thaws"),
    "stages": ("kdyolo.yaml", record_of(schedule={"epochs": 3, "unfreeze_stages": "²:p5"}), "schedule"),
    "text for a process": ("process.json", process_of(pid="5"), "pid"),
    "no process": ("process.json", process_of(pid=-1), "pid"),
    "text for a time": ("process.json", process_of(started="yesterday"), "started"),
    "no time": ("process.json", process_of(started=math.nan), "started"),
    "no host": ("process.json", process_of(host=7), "host"),
    "half a launcher": ("process.json", process_of(launcher=[1]), "launcher"),
    "a process in depth": ("process.json", "[" * 100_000, "damaged"),
    "a process with digits": ("process.json", f'{{"pid": {"9" * 5000}}}', "damaged"),
    "nested objects": ("process.json", '{"a":' * 60 + "1" + "}" * 60, "within each other"),
    "a list for a process": ("process.json", "[]", "object"),
    "a number that is none": ("pid.txt", b"\xff\x00junk", "number of a process"),
    "a long number": ("pid.txt", "5" * 10_000, "found more"),
    "metrics in text": ("coco_metrics.json", '{"AP": "high"}', "AP"),
    "metrics in other lists": ("coco_metrics.json", '{"AP": 0.5, "per_class": {"a": 1}}', "per_class"),
    "a large cell": ("results.csv", f"epoch,x\n1,{'9' * 200_000}\n", "field larger"),
    "NULs": ("results.csv", "epoch,x\n1,\0\n", "damaged" if sys.version_info < (3, 11) else "expected numbers"),
    "no header": ("results.csv", "1,2,3\n2,3,4\n", "column 'epoch'"),
    "epochs in words": ("results.csv", "epoch,x\none,2\n", "expected numbers"),
    "endless epochs": ("results.csv", "epoch,x\ninf,2\n", "number of an epoch"),
    "a far epoch": ("results.csv", "epoch,x\n1e300,2\n", "number of an epoch"),
    "too good": ("results.csv", "epoch,metrics/mAP50-95(B)\n1,inf\n", "at most 1, found 'inf'"),
    "a long word": ("results.csv", f"epoch,x\n1,{'x' * 100_000}\n", "expected numbers"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose process is said to work on another machine, beside a good run."""
    write_run(tmp_path / "good", [0.1, 0.3, 0.2])
    return with_process(write_run(tmp_path / "bad", [0.1, 0.2], planned=3, ap=0.25, per_class={"cat": 0.25}))


def with_process(run: Path) -> Path:
    (run / "process.json").write_text(process_of())
    (run / "pid.txt").write_text("5\n")
    return run


def check_damaged(folder: Path, name: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Look at the folder with every command that reads it."""
    good, bad = sorted(list_runs([folder.parent]), key=lambda run: run.state != "finished")
    assert (good.path.name, good.state, good.best) == ("good", "finished", 0.3)
    assert (bad.path.name, bad.state) == ("bad", "damaged")
    assert f"bad/{name}: " in bad.problem
    assert reason in bad.problem
    assert len(bad.problem) < 1000
    assert "\n" not in bad.problem
    main(["ps", str(folder.parent)])
    shown = capsys.readouterr()
    assert "damaged" in shown.out
    assert "finished" in shown.out
    assert reason in shown.err
    whose_process = name in ("process.json", "pid.txt")
    commands = [["stop", str(folder)], ["logs", "-f", str(folder)]] if whose_process else []
    commands += [] if whose_process else [["card", str(folder)], ["compare", str(folder)]]
    (folder / "train.log").write_text("a line\n")
    for command in commands:
        with pytest.raises(SystemExit) as exit_:
            main(command)
        error = capsys.readouterr().err
        assert exit_.value.code
        assert reason in error
        assert error.count("\n") == 1, error


@pytest.mark.parametrize(("name", "content", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named_and_hides_nothing(folder, name, content, reason, capsys):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    check_damaged(folder, name, reason, capsys)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a loop", "a device"])
def test_what_is_no_file_is_not_waited_for(folder, name, kind, capsys):
    path = folder / name
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if kind == "a loop" else "/dev/zero")
    if name == "args.yaml":  # it is no run to those that were given it by name
        (bad,) = (run for run in list_runs([folder.parent]) if run.path.name == "bad")
        assert bad.state == "damaged"
        assert ("links" if kind == "a loop" else kind) in bad.problem
        return
    check_damaged(folder, name, "links" if kind == "a loop" else kind, capsys)


def test_stop_says_what_is_wrong_and_stops_the_others(folder, capsys):
    (folder / "process.json").write_text(process_of(pid="5"))
    with pytest.raises(SystemExit):
        main(["stop", str(folder), str(folder.parent / "good")])
    shown = capsys.readouterr()
    assert "good: was not running. It is finished." in shown.out
    assert "damaged (Expected `int`, got `str` - at `$.pid`)" in shown.err


def test_a_number_of_another_is_left_alone_as_ever(folder):
    (folder / "pid.txt").write_text("6")
    assert run_status(folder).process is None
    (folder / "process.json").unlink()
    (folder / "pid.txt").write_text("a person's note")
    assert run_status(folder).state == "died"
    (result,) = stop_runs([folder], timeout=0.1)
    assert "is not kdyolo's and was left alone" in result.summary


def test_many_rows_take_no_more_than_their_number(folder):
    rising = "".join(f"{epoch},{epoch % 7},0.1\n" for epoch in range(1, 20_000))
    falling = "".join(f"{epoch},{epoch % 7},0.1\n" for epoch in range(20_000, 2, -1))
    (folder / "results.csv").write_text(f"epoch,time,metrics/mAP50-95(B)\n{rising}{falling}")
    run = read_run(folder)
    assert run.epochs == [1, 2, 3]
    assert len(run.notes) < 25


def test_a_million_epochs_are_not_counted_one_by_one(folder):
    (folder / "args.yaml").write_text("epochs: 1000000")
    (folder / "kdyolo.yaml").unlink()
    (folder / "process.json").write_text(process_of(host=socket.gethostname(), pid=os.getpid(), started=0.0))
    assert run_status(folder).epochs == 1_000_000


# ---- anything at all -------------------------------------------------------------------------------------------------

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31, 2**63, 10**90, -1, 0, 1, 3])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["all", "1:p5,20:all", "²:p5", "x\0y", "data.yaml", "a" * 300, "\ud800", "\x1b]0;x\x07"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
KEYS = {
    "args.yaml": ("epochs", "patience", "time", "data", "split", "seed", "device", "model", "resume", "imgsz"),
    "kdyolo.yaml": (
        *("versions", "command", "git_commit", "settings", "asked", "started_from", "backbone", "schedule"),
        *("recipe", "data", "seed", "cpu_threads", "model"),
    ),
    "coco_metrics.json": ("AP", "AP50", "AR1", "images", "objects", "evaluator", "annotations", "per_class"),
    "process.json": ("pid", "host", "started", "launcher"),
}
INNER = (
    *("path", "sha256", "source", "model", "matched", "total", "values", "bn_eps", "teacher", "left_out", "kdyolo"),
    *("name", "ap", "objects", "category_id", "epochs", "freeze_epochs", "unfreeze_stages", "backbone_lr", "thaws"),
    *("freeze_bn", "thaw_warmup"),
)


def contents(name: str) -> st.SearchStrategy[Any]:
    """A mapping with the file's keys and anything behind them."""
    inner = st.dictionaries(st.sampled_from(INNER), VALUES, max_size=6)
    values = VALUES | inner | st.lists(inner, max_size=2)
    return st.dictionaries(st.sampled_from(KEYS[name]) | st.text(max_size=3), values, max_size=6) | VALUES


def as_yaml(content: Any) -> bytes:
    return yaml.dump(content, allow_unicode=False).encode("utf-8", "surrogatepass")


CELLS = st.sampled_from(
    ["", "1", "2", "3", "epoch", "time", "nan", "inf", "-inf", "1e308", "-1", "x", '"', "\0", "1_0"]
)
ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=5), max_size=5)
NUMBERS = st.lists(
    st.lists(st.sampled_from(["nan", "inf", "-inf", "1e308", "-1e308", "0.5", "7", "-1"]), min_size=5, max_size=5),
    max_size=3,
)
HEADER = "epoch,time,metrics/mAP50-95(B),metrics/mAP50(B),memory/GB,coco/AP"


def as_csv(rows: list[list[str]], header: str = "") -> bytes:
    lines = [",".join(row) for row in rows]
    if header:
        lines = [header, *(f"{epoch},{line}" for epoch, line in enumerate(lines, start=1))]
    return "".join(f"{line}\n" for line in lines).encode()


FILE_BYTES = st.one_of(
    *(st.tuples(st.just(name), contents(name).map(as_yaml)) for name in YAML_FILES),
    *(st.tuples(st.just(name), contents(name).map(lambda c: json.dumps(c).encode())) for name in JSON_FILES),
    st.tuples(st.just("results.csv"), ROWS.map(as_csv)),
    st.tuples(st.just("results.csv"), NUMBERS.map(lambda rows: as_csv(rows, HEADER))),
    st.tuples(st.sampled_from(FILES), st.binary(max_size=20)),
)


def allowed_errors(look: Callable[[], Any]) -> Any:
    """What a reader gives; None if it refuses with an error of kdyolo's."""
    try:
        return look()
    except KDYOLOError:
        return None


@given(files=st.lists(FILE_BYTES, min_size=1, max_size=2))
@settings(max_examples=100, deadline=None)
def test_anything_is_read_or_refused(files):
    with tempfile.TemporaryDirectory() as place:
        bad = with_process(write_run(Path(place, "bad"), [0.1, 0.2], planned=3, ap=0.25, per_class={"cat": 0.25}))
        for name, content in files:
            (bad / name).write_bytes(content)
        (found,) = list_runs([Path(place)])
        assert json.dumps(found.to_dict())
        try:
            run = read_run(bad)
        except RunError:
            run = None
            assert found.state == "damaged"
        if run is not None:
            assert isinstance(run.planned_epochs, int)
            allowed_errors(lambda: run.schedule.phase(1))
            comparison = allowed_errors(lambda: compare_runs(bad))
            assert comparison is None or json.dumps(comparison.to_dict())
            allowed_errors(lambda: write_model_card(bad))
