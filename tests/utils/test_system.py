"""The machine and this process: cores, the garbage collector, the end of the parent."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kdyolo.utils import system


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_cores_that_may_be_used(monkeypatch):
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert system.usable_cores() == system.cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(100)))
    assert (system.usable_cores(), system.cores()) == (100, 8)
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert system.usable_cores() == 1


@pytest.mark.parametrize("on", [True, False])
def test_garbage_collection_is_afterwards_as_before(on):
    was_on = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        with system.pause_gc():
            assert not gc.isenabled()
        assert gc.isenabled() is on
        with pytest.raises(ZeroDivisionError), system.pause_gc():
            _ = 1 / 0
        assert gc.isenabled() is on
    finally:
        (gc.enable if was_on else gc.disable)()


@pytest.mark.parametrize(
    ("policy", "asked", "threads"),
    [("active", "3", None), ("PASSIVE", "3", 3), ("passive", "1", "all"), ("passive", "x", "all")],
)
def test_threads_to_train_with(policy, asked, threads, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert system.cpu_threads() == (system.usable_cores() if threads == "all" else threads)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_a_child_ends_with_its_parent(tmp_path):
    child = (
        "import pathlib, signal, time; from kdyolo.utils.system import die_with_parent\n"
        f"die_with_parent(signal.SIGTERM); pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)"
    )
    parent = (
        "import os, pathlib, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}]); print(child.pid, flush=True)\n"
        f"while not pathlib.Path({str(tmp_path / 'ready')!r}).exists(): time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the child outlives its parent"
        time.sleep(0.02)
