"""ps, logs and stop on run folders as training leaves them."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import psutil
import pytest

from kdyolo.cli import main
from kdyolo.errors import RunError
from kdyolo.runs import log_reader
from kdyolo.runs import process_control as processes
from kdyolo.runs import status as background
from kdyolo.runs.history import read_run
from kdyolo.runs.pid_file import claimed_folder, stopped_by_force
from kdyolo.runs.status import default_folders, list_runs, run_status, seconds_left, stop_runs
from tests.builders.commands import CHECKOUT
from tests.builders.run_folders import write_run


def record(folder: Path, **changes: object) -> None:
    """``pid.txt`` of this process, or of what the changes say."""
    with claimed_folder(folder):
        content = json.loads((folder / "process.json").read_text()) | changes
    (folder / "process.json").write_text(json.dumps(content))
    (folder / "pid.txt").write_text(f"{content['pid']}\n")


@pytest.fixture(autouse=True)
def _no_settings_of_ultralytics(tmp_path, monkeypatch):
    """They name a folder with the runs of other tests."""
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "config"))


@pytest.fixture
def runs(tmp_path) -> Path:
    """One run in every state, the oldest first."""
    folder = tmp_path / "runs"
    write_run(folder / "detect/finished", [0.1, 0.3, 0.2])
    interrupted = write_run(folder / "detect/interrupted", [0.1], planned=3, freeze=2)
    write_run(folder / "detect/died", [], planned=3)
    write_run(folder / "detect/stock", [0.1], planned=3, stock=True)
    write_run(folder / "detect/stock-finished", [0.1], stock=True)
    damaged = write_run(folder / "detect/damaged", [0.1])
    (damaged / "results.csv").write_text("epoch,time\n1,x\n2,3\n")
    going_on = write_run(folder / "detect/[bold] running", [0.1, 0.2], planned=10, freeze=2)
    killed = write_run(folder / "deep/er/killed", [0.1], planned=3)
    elsewhere = write_run(folder / "elsewhere", [0.1], planned=3)
    (folder / "detect/val").mkdir()
    (folder / "detect/val/predictions.json").touch()
    for run in (interrupted, going_on, killed, elsewhere):
        (run / "weights/resume.pt").write_text("state")
        (run / "weights/last.pt").touch()
    record(going_on)
    record(killed, pid=2**22 - 1, started=1.0)
    record(elsewhere, host="gpu7")
    for age, run in enumerate([elsewhere, killed, going_on]):
        times = (time.time() - age * 100,) * 2
        for name in ("results.csv", "args.yaml"):
            os.utime(run / name, times)
    return folder


def test_every_state_is_told(runs):
    found = {run.path.name: run for run in list_runs()}
    states = {name: run.state for name, run in found.items()}
    assert states == {
        "finished": "finished",
        "interrupted": "interrupted",
        "died": "died",
        "stock": "unfinished",
        "stock-finished": "finished",
        "damaged": "damaged",
        "[bold] running": "running",
        "killed": "interrupted",
        "elsewhere": "elsewhere",
    }
    assert [name for name, run in found.items() if run.stale] == ["killed"]
    assert "expected" in found["damaged"].problem
    assert found["finished"].best == 0.3
    assert (found["interrupted"].epoch, found["interrupted"].epochs) == (1, 3)
    assert found["interrupted"].phase == "backbone frozen"
    assert found["[bold] running"].phase == "all train"
    assert found["elsewhere"].summary == "on gpu7, unseen from here"
    first = list(found)
    assert first.index("elsewhere") < first.index("killed") < first.index("[bold] running")


def test_ps_prints_them_plain_and_as_json(runs, capsys):
    main(["ps"])
    shown = capsys.readouterr()
    header, *lines = shown.out.splitlines()
    assert header.split() == ["RUN", "STATUS", "PHASE", "EPOCH", "mAP50-95", "PID", "LEFT"]
    by_run = {line.split("  ")[0]: line for line in lines}
    running = [cell.strip() for cell in by_run["runs/detect/[bold] running"].split("  ") if cell]
    assert running[:-1] == ["runs/detect/[bold] running", "running", "all train", "2/10", "0.200", str(os.getpid())]
    assert running[-1].endswith(" s")
    assert "4194303 (stale)" in by_run["runs/deep/er/killed"]
    assert "interrupted (resumable)" in by_run["runs/detect/interrupted"]
    assert "died before its first epoch was saved" in by_run["runs/detect/died"]
    assert "results.csv: line 2" in shown.err
    main(["ps", "--json", "runs/detect/finished", "runs/elsewhere"])
    first, second = json.loads(capsys.readouterr().out)
    assert {first["run"], second["run"]} == {"runs/detect/finished", "runs/elsewhere"}
    finished = first if first["status"] == "finished" else second
    assert finished["mAP50-95"] == 0.3
    assert finished["pid"] is None


def test_ps_on_a_terminal_shows_names_as_they_are(runs):
    code = "import pty, sys; pty.spawn([sys.executable, '-m', 'kdyolo', 'ps', 'runs/detect'])"
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "200", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert "[bold] running" in done.stdout
    assert "interrupted (resumable)" in done.stdout


def test_ps_without_runs(tmp_path, capsys):
    main(["ps"])
    assert "no runs in runs, studies" in capsys.readouterr().out
    with pytest.raises(RunError, match="no such folder: nowhere, not-here"):
        list_runs([Path("nowhere"), Path("not-here")])


def test_runs_are_found_where_ultralytics_puts_them(tmp_path, monkeypatch):
    write_run(tmp_path / "elsewhere/runs/detect/train", [0.1])
    (tmp_path / "home/Ultralytics").mkdir(parents=True)
    settings = tmp_path / "home/Ultralytics/settings.json"
    settings.write_text(json.dumps({"runs_dir": str(tmp_path / "elsewhere/runs")}))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "home"))
    assert [run.path.name for run in list_runs()] == ["train"]
    (tmp_path / "runs").symlink_to(tmp_path / "elsewhere/runs")
    assert [run.path for run in list_runs()] == [Path("runs/detect/train")], "the same run in two ways"
    settings.write_text("{")
    assert default_folders() == [Path("runs")]


def test_time_left_goes_by_phase_and_bears_odd_clocks(tmp_path):
    run = write_run(tmp_path / "run", [0.1] * 3, planned=10, freeze=3)
    assert seconds_left(read_run(run)) == pytest.approx(70)  # thawed epochs are unknown yet: as long as the frozen ones
    assert seconds_left(read_run(run), since=4) == pytest.approx(66)
    assert seconds_left(read_run(run), since=-1e6) == pytest.approx(70)
    assert seconds_left(read_run(run), since=1e6) == pytest.approx(60)
    header, *rows = (run / "results.csv").read_text().splitlines()
    slow = [f"{e},{30 + (e - 3) * 40},0.1,0.1,1,1" for e in (4, 5)]
    (run / "results.csv").write_text("\n".join([header, *rows, *slow, ""]))
    assert seconds_left(read_run(run)) == pytest.approx(5 * 40)
    assert math.isnan(seconds_left(read_run(write_run(tmp_path / "none", [], planned=3))))
    assert seconds_left(read_run(write_run(tmp_path / "done", [0.1]))) == 0


# ---- logs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 5, 40_000, 50_000])
@pytest.mark.parametrize("end", ["\n", ""], ids=["ended", "cut off"])
def test_last_lines_of_a_long_log(tmp_path, count, end):
    lines = [f"line {i} é\r" for i in range(40_000)]
    path = tmp_path / "train.log"
    path.write_bytes(("\n".join(lines) + end).encode())
    shown = b"".join(log_reader.follow(path, count, lambda: False)).decode()
    assert shown == ("\n".join(lines[-count:]) + end if count else "")


def test_following_sees_what_is_added_replaced_and_written_last(tmp_path):
    path = tmp_path / "train.log"
    path.write_text("one\ntwo\n")
    steps = iter(
        [
            lambda: None,
            lambda: path.open("a").write("three\n"),
            lambda: (path.rename(tmp_path / "train.log.1"), path.write_text("a new file\n")),
            lambda: None,
            lambda: path.write_text("short\n"),
            lambda: None,
            lambda: path.open("a").write("the end\n"),
        ]
    )

    def going_on() -> bool:
        step = next(steps, None)
        if step:
            step()
        return step is not None

    log_reader.POLL, before = 0.001, log_reader.POLL
    try:
        shown = b"".join(islice(log_reader.follow(path, 1, going_on), 20)).decode()
    finally:
        log_reader.POLL = before
    assert shown.splitlines() == ["two", "three", "a new file", "short", "the end"]


def test_logs_of_what_has_none(runs, capsys):
    for run, words in (("nowhere", "no such run folder"), ("runs/detect/stock", "there is no train.log")):
        with pytest.raises(SystemExit):
            main(["logs", run])
        assert words in capsys.readouterr().err


def test_following_a_run_that_is_over_ends_and_ctrl_c_is_quiet(runs):
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    for name, over in (("finished", True), ("[bold] running", False)):
        (runs / "detect" / name / "train.log").write_text("last words\n")
        command = [sys.executable, "-m", "kdyolo", "logs", str(runs / "detect" / name), "-f"]
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "last words\n"
        if not over:
            process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=20)
        assert out == error.strip() == ""
        assert process.returncode == (0 if over else 130)


def test_a_reader_that_has_seen_enough_is_no_error(runs):
    (runs / "detect/finished/train.log").write_text("x" * 99 + "\n" + "y\n" * 200_000)
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = f"{sys.executable} -m kdyolo logs runs/detect/finished -n 999999 | head -n 1"
    done = subprocess.run(command, shell=True, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "x" * 99 + "\n"
    assert done.stderr == ""


# ---- stop ------------------------------------------------------------------------------------------------------------


def test_stopping_what_does_not_run(runs, capsys):
    names = ("deep/er/killed", "detect/finished", "detect/interrupted", "detect/died", "elsewhere")
    with pytest.raises(SystemExit) as exit_:
        main(["stop", *(f"runs/{name}" for name in names)])
    assert exit_.value.code == 1
    shown = capsys.readouterr()
    killed, finished, interrupted, died = shown.out.splitlines()
    assert "had been killed, its pid.txt was stale. Resume with: kdyolo train --resume runs/deep/er/killed" in killed
    assert finished == "runs/detect/finished: was not running. It is finished."
    assert interrupted.endswith("was not running. Resume with: kdyolo train --resume runs/detect/interrupted")
    assert died.endswith("start it again with --exist-ok.")
    assert "runs/elsewhere: runs on gpu7, if at all, and can be stopped only there" in shown.err
    assert not (runs / "deep/er/killed/pid.txt").exists()
    assert (runs / "elsewhere/pid.txt").exists()


def test_all_or_none_if_one_is_no_run(runs, capsys):
    with pytest.raises(SystemExit):
        main(["stop", "runs/deep/er/killed", "runs/nothing", "runs/detect/val"])
    error = capsys.readouterr().err
    assert "runs/nothing: no run folder. runs/detect/val: no run folder. Nothing was stopped." in error
    assert (runs / "deep/er/killed/pid.txt").exists()


@pytest.mark.parametrize("written_by", ["kdyolo", "a person"])
def test_a_stranger_who_has_the_number_now_is_not_harmed(runs, written_by):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run = runs / "deep/er/killed"
    try:
        record(run, pid=stranger.pid, started=1.0)
        if written_by == "a person":
            (run / "process.json").unlink()
        (result,) = stop_runs([run], timeout=0.1)
        assert ("was stale" if written_by == "kdyolo" else "left alone") in result.summary
        assert not result.failed
        assert stranger.poll() is None
        assert run_status(run).state == "interrupted"
    finally:
        stranger.kill()
        stranger.wait()


def test_another_users_process_and_one_that_cannot_die(runs, monkeypatch):
    run = runs / "detect/[bold] running"

    def refuse(self, number):
        raise psutil.AccessDenied(self.pid)

    with monkeypatch.context() as patch:
        patch.setattr(psutil.Process, "send_signal", refuse)
        (result,) = stop_runs([run], timeout=0.1)
    assert result.failed
    assert "another user's" in result.summary
    monkeypatch.setattr(processes, "LEFTOVERS", 0.1)
    monkeypatch.setattr(psutil.Process, "send_signal", lambda self, number: None)
    (result,) = stop_runs([run], timeout=0.1)
    assert result.failed
    assert "even after SIGKILL" in result.summary
    assert (run / "pid.txt").exists()


STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""


def test_a_run_that_has_to_be_killed_is_known_as_stopped_until_it_goes_on(runs, capsys):
    """Whoever waits for the process sees SIGKILL, as when the system kills one for want of memory."""
    run = runs / "detect/[bold] running"
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"deaf\n"
        record(run, pid=process.pid, started=psutil.Process(process.pid).create_time() - psutil.boot_time())
        (result,) = stop_runs([run], timeout=0.2)
        assert process.wait(10) == -9
    assert result.summary.startswith("ended by SIGKILL. Resume with")
    assert stopped_by_force(run)
    status = run_status(run)
    assert (status.state, status.summary) == ("interrupted", "interrupted (resumable), stopped by SIGKILL")
    assert status.to_dict()["stopped_by_sigkill"]
    main(["ps", "runs"])
    assert "stopped by SIGKILL" in " ".join(capsys.readouterr().out.split())
    with claimed_folder(run):
        assert not stopped_by_force(run)
    assert run_status(run).summary == "interrupted (resumable)"


def test_a_run_that_ends_by_itself_meanwhile(runs, monkeypatch):
    """Between the look at its process and the first signal."""
    run = runs / "detect/[bold] running"
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    found = psutil.Process(process.pid)
    record(run, pid=process.pid, started=found.create_time() - psutil.boot_time())

    def end(root, timeout, before_killing):
        process.kill()
        process.wait()
        return processes.end(root, timeout, before_killing)

    monkeypatch.setattr(background, "end", end)
    (result,) = stop_runs([run], timeout=5)
    assert result.summary.startswith("ended by itself. Resume with")
    assert not (run / "pid.txt").exists()


@pytest.mark.parametrize("command", ["ps", "logs", "stop"])
def test_it_is_light(runs, command):
    (runs / "detect/finished/train.log").write_text("x\n")
    code = (
        "import sys; from kdyolo.cli import cli\n"
        f"cli.main(['{command}', 'runs/detect/finished'], standalone_mode=False)\n"
        "heavy = {'torch', 'ultralytics', 'numpy', 'pandas', 'plotly'} & {m.partition('.')[0] for m in sys.modules}\n"
        "assert not heavy, heavy"
    )
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=env)
