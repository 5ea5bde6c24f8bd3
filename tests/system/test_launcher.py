"""The launcher of ranks, with ranks that do nothing but what a test needs; afterwards none of them is left."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from kdyolo.engine.ranks import launcher
from kdyolo.engine.ranks.launcher import RankTraceback, launch_ranks
from kdyolo.engine.ranks.rank_process import reporting
from kdyolo.errors import ConfigError, DatasetError, RunError
from kdyolo.runs.process_control import Terminated, alive
from tests.builders.commands import CHECKOUT

# What every rank does: says that it is there, then what its own line of the test says.
RANK = """
import json, os, signal, sys, time
from pathlib import Path
from kdyolo.runs.process_control import Terminated, ended_by_signals, honour_launch
honour_launch()
rank, folder = int(os.environ["RANK"]), Path(sys.argv[1])

def fail(kind, message, at):
    report = {"kind": kind, "message": message, "traceback": f"in {kind}", "at": at, "rank": rank}
    Path(os.environ["KDYOLO_RANK_REPORTS"], f"rank{rank}.json").write_text(json.dumps(report))
    sys.exit(1)

def after_the_other():
    while not Path(os.environ["KDYOLO_RANK_REPORTS"], f"rank{1 - rank}.json").is_file():
        time.sleep(0.02)

def until_told():
    try:
        with ended_by_signals():
            (folder / f"ready{rank}").touch()
            time.sleep(60)
    except Terminated:
        note("SIGTERM"); sys.exit(143)
    except KeyboardInterrupt:
        note("SIGINT"); sys.exit(130)

def note(what):
    with (folder / "told").open("a") as file:
        file.write(f"{rank} {what}\\n")

(folder / f"{rank}.pid").write_text(str(os.getpid()))
"""


@pytest.fixture(autouse=True)
def _none_is_left(monkeypatch, tmp_path):
    """After each test every rank has ended, and none because time ran out, on however busy a machine."""
    for name in ("PATIENCE", "GRACE", "AFTERWARDS"):
        monkeypatch.setattr(launcher, name, 120.0)
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    yield
    until(lambda: left(tmp_path) == [])  # what was killed needs its turn to end


@pytest.fixture
def little_time(monkeypatch):
    """Ranks that do not end by themselves are soon made to."""
    for name in ("PATIENCE", "GRACE", "AFTERWARDS"):
        monkeypatch.setattr(launcher, name, 1.0)


def left(folder: Path) -> list[psutil.Process]:
    """Ranks that live, and whatever else a rank has noted."""
    noted = [path.read_text() for path in folder.glob("*.pid")]
    numbers = [int(text) for text in noted if text]  # a rank may be killed while it notes its own
    assert noted
    return [psutil.Process(number) for number in numbers if psutil.pid_exists(number) and alive(psutil.Process(number))]


def launched(folder: Path, *lines: str) -> None:
    """Ranks of which each does what its line says."""
    code = RANK + "".join(f"if rank == {rank}:\n    {line}\n" for rank, line in enumerate(lines))
    launch_ranks(len(lines), [sys.executable, "-c", code, str(folder)], folder)


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


@pytest.fixture
def signalled(tmp_path):
    """``signalled(number, ready)``: signals for this process as soon as so many ranks are ready."""
    threads = []

    def start(*numbers: signal.Signals, ready: int = 2) -> None:
        def send() -> None:
            until(lambda: len(list(tmp_path.glob("ready*"))) == ready)
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(0.3)

        threads.append(threading.Thread(target=send))
        threads[-1].start()

    # A signal that comes after the ranks have ended must not end the tests.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    yield start
    for thread in threads:
        thread.join()
    for number, old in before.items():
        signal.signal(number, old)


def test_ranks_that_succeed_know_their_place(tmp_path):
    shown = 'print(json.dumps(dict(os.environ)), file=open(folder / f"env{rank}", "w"))'
    launched(tmp_path, shown, shown)
    environments = [json.loads((tmp_path / f"env{rank}").read_text()) for rank in (0, 1)]
    assert [env["RANK"] + env["LOCAL_RANK"] + env["WORLD_SIZE"] for env in environments] == ["002", "112"]
    assert environments[0]["MASTER_PORT"] == environments[1]["MASTER_PORT"]


@pytest.mark.parametrize(
    ("first", "second", "kind", "words"),
    [
        ("sys.exit(3)", "time.sleep(60)", RunError, "rank 0 of 2 ended with exit code 3"),
        ("fail('DatasetError', 'no such image', 5)", "fail('DatasetError', 'none', 6)", DatasetError, "no such image"),
        ("after_the_other(); fail('RuntimeError', 'lost peer', 6)", "fail('ValueError', 'broken', 5)", RunError,
         "rank 1 of 2 ended with ValueError: broken"),
        ("after_the_other(); fail('RuntimeError', 'lost peer', 5)", "fail('ConfigError', 'wrong', 6)", ConfigError,
         "wrong"),
        ("os.kill(os.getpid(), 9)", "fail('RuntimeError', 'lost peer', 5)", RunError, "rank 0 of 2 was ended by SIGK"),
    ],
)  # fmt: skip
def test_a_failure_is_raised_once_as_what_it_is(tmp_path, first, second, kind, words):
    with pytest.raises(kind) as caught:
        launched(tmp_path, first, second)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    if "fail" in second and "9" not in first:
        assert isinstance(caught.value.__cause__, RankTraceback)


@pytest.mark.usefixtures("little_time")
@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("until_told()", "sys.exit(3)", "rank 1 of 2 ended with exit code 3"),
        ("time.sleep(60)", "os.kill(os.getpid(), 9)", "rank 1 of 2 was ended by SIGKILL"),
    ],
)
def test_a_rank_that_fails_takes_one_along_that_waits_for_it(tmp_path, first, second, words):
    with pytest.raises(RunError, match=words):
        launched(tmp_path, first, second)


@pytest.mark.usefixtures("little_time")
def test_a_run_is_finished_when_rank_0_has_finished_it(tmp_path):
    launched(tmp_path, "sys.exit(0)", "time.sleep(60)")


@pytest.mark.parametrize(("code", "kind"), [(143, Terminated), (130, KeyboardInterrupt)])
def test_the_end_of_rank_0_is_that_of_the_run(tmp_path, code, kind):
    """``kill`` of the process in pid.txt ends rank 0 alone, which the others lose."""
    with pytest.raises(kind) as caught:
        launched(tmp_path, f"sys.exit({code})", "fail('RuntimeError', 'lost peer', 5)")
    assert type(caught.value) is kind


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_signals_reach_the_ranks_and_the_first_of_them_first(tmp_path, signalled, number, kind):
    signalled(number)
    before = signal.getsignal(number)
    with pytest.raises(kind) as caught:
        launched(tmp_path, "until_told()", "until_told()")
    assert type(caught.value) is kind
    assert (tmp_path / "told").read_text() == f"0 {number.name}\n1 SIGTERM\n"
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("little_time")
def test_ranks_that_do_not_listen_are_killed_with_what_they_started(tmp_path, signalled):
    child = "import subprocess; worker = subprocess.Popen(['sleep', '60']); "
    deaf = (
        f"{child}(folder / f'worker{{rank}}.pid').write_text(str(worker.pid)); signal.signal(2, signal.SIG_IGN); "
        "signal.signal(15, signal.SIG_IGN); (folder / f'ready{rank}').touch(); time.sleep(60)"
    )
    signalled(signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        launched(tmp_path, deaf, deaf)
    assert len(list(tmp_path.glob("worker*.pid"))) == 2


def test_ranks_end_with_a_launcher_that_is_killed(python, tmp_path):
    code = (
        "import sys; from pathlib import Path; from kdyolo.engine.ranks.launcher import launch_ranks\n"
        "launch_ranks(2, [sys.executable, '-c', sys.argv[1], sys.argv[2]], Path(sys.argv[2]))"
    )
    process = python.start("-c", code, RANK + "until_told()", tmp_path, cwd=tmp_path, env=dict(os.environ))
    until(lambda: len(list(tmp_path.glob("ready*"))) == 2 or process.poll() is not None)
    process.kill()
    until(lambda: not left(tmp_path))
    assert sorted((tmp_path / "told").read_text().splitlines()) == ["0 SIGTERM", "1 SIGTERM"]


@pytest.mark.parametrize(
    ("raised", "code"), [(Terminated(), 143), (KeyboardInterrupt(), 130), (DatasetError("no such image"), 1)]
)
def test_a_rank_ends_as_its_work_and_says_why(monkeypatch, tmp_path, raised, code):
    (tmp_path / "none.pid").write_text("0")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv(launcher.REPORTS, str(tmp_path))
    with pytest.raises(SystemExit) as ended, reporting():
        raise raised
    assert ended.value.code == code
    reports = launcher._read_reports(tmp_path)
    assert [(report.kind, report.message, report.rank) for report in reports] == (
        [("DatasetError", "no such image", 1)] if code == 1 else []
    )
