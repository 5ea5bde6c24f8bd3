"""The process of a run: recorded, recognised, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kdyolo.errors import RunError
from kdyolo.runs import process_control as processes
from kdyolo.runs.pid_file import claimed_folder, read_process, refuse_running
from kdyolo.runs.process_control import (
    Terminated,
    end,
    ended_by_signals,
    finished_first,
    launch,
    raise_if_told_to_end,
    told_to_end,
)
from tests.builders.commands import CHECKOUT

RECORDED = """
import sys, time
from pathlib import Path
from kdyolo.runs.pid_file import claimed_folder
with claimed_folder(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def started():
    """``started(code, *arguments)`` → a Python process; killed at the end of the test if it still lives."""
    running = []

    def start(code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env))
        assert running[-1].stdout.readline()
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def until(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def test_the_record_lasts_as_long_as_the_work(tmp_path):
    with claimed_folder(tmp_path):
        assert (tmp_path / "pid.txt").read_text() == f"{os.getpid()}\n"
        found = read_process(tmp_path)
        assert (found.pid, found.where, found.root().pid) == (os.getpid(), "running", os.getpid())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="inside"), claimed_folder(tmp_path):
        raise ValueError("inside")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_a_stale_record_and_the_next_replaces_it(started, tmp_path):
    process = started(RECORDED, tmp_path)
    assert read_process(tmp_path).where == "running"
    with pytest.raises(RunError, match=rf"as process {process.pid}.*kdyolo stop"), claimed_folder(tmp_path):
        pass
    process.kill()
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert read_process(tmp_path).where == "gone"  # dead, though its number is not free yet
    process.wait()
    assert read_process(tmp_path).where == "gone"
    with claimed_folder(tmp_path):
        assert read_process(tmp_path).pid == os.getpid()


def test_a_number_that_is_another_process_by_now(started, tmp_path):
    stranger = started("print(); import time; time.sleep(60)")
    with claimed_folder(tmp_path):
        record = json.loads((tmp_path / "process.json").read_text())
    (tmp_path / "pid.txt").write_text(f"{stranger.pid}\n")
    (tmp_path / "process.json").write_text(json.dumps({**record, "pid": stranger.pid, "started": 5.0}))
    found = read_process(tmp_path)
    assert (found.where, found.find(), found.root()) == ("gone", None, None)
    (tmp_path / "process.json").write_text(json.dumps(record))  # a pid.txt that somebody else wrote
    assert read_process(tmp_path) is None


def test_a_change_of_the_clock_does_not_matter(monkeypatch, tmp_path):
    with claimed_folder(tmp_path):
        now = psutil.Process().create_time()
        boot = psutil.boot_time()
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: now + 86400)
        monkeypatch.setattr(psutil, "boot_time", lambda: boot + 86400)
        assert read_process(tmp_path).where == "running"


def test_another_host(started, tmp_path):
    """Also if the same number is alive here."""
    process = started(RECORDED, tmp_path)
    record = json.loads((tmp_path / "process.json").read_text())
    (tmp_path / "process.json").write_text(json.dumps({**record, "host": "gpu7"}))
    found = read_process(tmp_path)
    assert (found.pid, found.where, found.find(), found.root()) == (process.pid, "elsewhere", None, None)
    assert refuse_running(tmp_path) == found
    assert f"on gpu7, as process {process.pid} there" in found.warning(tmp_path)
    (tmp_path / "process.json").write_text(json.dumps({**record, "host": "gpu7", "pid": os.getpid()}))
    (tmp_path / "pid.txt").write_text(f"{os.getpid()}\n")
    assert refuse_running(tmp_path).host == "gpu7"  # in containers the numbers are often the same


def test_a_damaged_record_says_so(tmp_path):
    (tmp_path / "pid.txt").write_text("1\n")
    assert read_process(tmp_path) is None
    for content in ("{", "[1]", '{"pid": 1, "launcher": null}'):
        (tmp_path / "process.json").write_text(content)
        with pytest.raises(RunError, match=r"process\.json: damaged.*remove it"):
            read_process(tmp_path)


def test_sigterm_is_an_interrupt_while_asked_for():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), ended_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def drop(number: signal.Signals) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(number)


def test_a_signal_that_is_dropped_comes_again():
    steps = []

    @ended_by_signals()
    @ended_by_signals()
    def work() -> None:
        drop(signal.SIGTERM)
        steps.append(told_to_end())
        raise_if_told_to_end()
        steps.append("more")

    @ended_by_signals()
    def nobody_looks() -> None:
        drop(signal.SIGINT)
        steps.append("done")

    with pytest.raises(Terminated):
        work()
    with pytest.raises(KeyboardInterrupt) as caught:
        nobody_looks()
    assert type(caught.value) is KeyboardInterrupt
    assert steps == [Terminated, "done"]
    assert told_to_end() is None
    raise_if_told_to_end()


def test_a_second_signal_does_not_disturb_the_cleaning_up(monkeypatch):
    cleaned = []

    @ended_by_signals()
    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned.append(True)
            monkeypatch.setattr(processes, "AGAIN", 0.0)  # so much later that it must hang
            with pytest.raises(Terminated):
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(Terminated):
        work()
    assert cleaned == [True]


def test_what_is_short_is_finished_first():
    saved = []

    @ended_by_signals()
    @finished_first()
    def save() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        saved.append(True)

    with pytest.raises(Terminated):
        save()
    assert saved == [True]


def test_the_handlers_of_others_are_left_alone():
    handlers = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        with ended_by_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("ignored", "expected"),
    [([], signal.SIGINT), (["SIGINT"], signal.SIGTERM), (["SIGINT", "SIGTERM"], signal.SIGKILL)],
    ids=["listens", "deaf to Ctrl-C", "deaf"],
)
def test_ending_goes_as_far_as_it_must_and_takes_the_children_along(started, monkeypatch, ignored, expected):
    monkeypatch.setattr(processes, "LEFTOVERS", 0.3)
    code = (
        "import signal, subprocess, sys, time\n"
        f"for name in {ignored}: signal.signal(getattr(signal, name), signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)"
    )
    process = started(code)
    root = psutil.Process(process.pid)
    until(lambda: root.children())
    (child,) = root.children()
    assert end(root, timeout=0.5 if ignored else 10) == expected
    assert not processes.alive(root)
    assert not processes.alive(child)
    assert end(root, timeout=1) is None


def test_a_launched_command_has_its_own_session_and_log(tmp_path):
    code = (
        "import os, signal, sys; from kdyolo.runs.process_control import honour_launch; honour_launch()\n"
        "print(os.getsid(0) == os.getpid(), repr(sys.stdin.read()), 'KDYOLO_PARENT' in os.environ)\n"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, os.environ['MINE'], file=sys.stderr)"
    )
    log = tmp_path / "log"
    log.write_text("before\n")
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background jobs of a script
    try:
        process = launch([sys.executable, "-c", code], log, env={"MINE": "x", "PYTHONPATH": str(CHECKOUT)})
    finally:
        signal.signal(signal.SIGINT, handler)
    assert process.wait(20) == 0
    assert log.read_text() == "before\nTrue '' False\nTrue x\n"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells processes about the end of their parents")
@pytest.mark.parametrize("bound", [True, False])
def test_a_child_can_be_bound_to_the_life_of_its_parent(started, tmp_path, bound):
    child = (
        "from kdyolo.runs.process_control import honour_launch; honour_launch()\n"
        "import os, time; print(os.getpid()); time.sleep(60)"
    )
    parent = (
        "import sys, time; from pathlib import Path; from kdyolo.runs.process_control import launch\n"
        f"launch([sys.executable, '-c', {child!r}], Path(sys.argv[1]), dies_with_parent={bound})\n"
        "print(flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    process = started(parent, log)
    until(lambda: log.read_text().endswith("\n"))
    found = psutil.Process(int(log.read_text()))
    try:
        process.kill()
        process.wait()
        if bound:
            until(lambda: not processes.alive(found))
        else:
            time.sleep(0.3)
            assert processes.alive(found)
    finally:
        found.kill()


def test_it_is_light():
    code = (
        "import sys, kdyolo.runs.pid_file\n"
        "assert not {'torch', 'ultralytics', 'numpy', 'pandas', 'rich'} & {m.partition('.')[0] for m in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)})
