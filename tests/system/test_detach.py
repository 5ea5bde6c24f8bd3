"""Runs in the background: real ones, started, followed, stopped and resumed by command."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from kdyolo.runs.detach import own_command
from kdyolo.runs.files import PROCESS_NAME
from kdyolo.runs.pid_file import read_process
from kdyolo.runs.process_control import alive
from tests.builders.commands import CHECKOUT, run_command

KDYOLO = (sys.executable, "-m", "kdyolo")
EPOCHS = 14
# A terminal of its own that is closed as soon as the command in it has ended; prints what was seen in it.
TERMINAL = """
import os, pty, sys
pid, screen = pty.fork()
if pid == 0:
    os.execvp("sh", ["sh", "-c", '"$@"; echo "exit code $?"; sleep 60', "sh", *sys.argv[1:]])
seen = b""
while b"exit code" not in seen:
    seen += os.read(screen, 1000)
os.close(screen)
print(seen.decode(), os.WTERMSIG(os.waitpid(pid, 0)[1]))
"""


def kdyolo(*arguments: object, ok: bool = True, **env: str) -> str:
    """Output of a command, stderr included."""
    done = run_command(*KDYOLO, *map(str, arguments), cwd=Path.cwd(), ok=ok, PYTHONPATH=str(CHECKOUT), **env)
    return done.stdout + done.stderr


def training(shapes: Path, checkpoint: Path, run: str, epochs: int = EPOCHS) -> list[str]:
    return (
        f"train --data {shapes} --backbone {checkpoint} --freeze 2 --epochs {epochs} --imgsz 64 --batch 4 --device cpu "
        f"--work-dir {run} plots=False nbs=12 mosaic=1.0 seed=11"
    ).split()


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.02)


def rows(run: Path) -> list[dict[str, str]]:
    path = run / "results.csv"
    if not path.is_file():
        return []
    with path.open() as file:
        return [{k: v for k, v in row.items() if k not in ("time", "memory/GB")} for row in csv.DictReader(file)]


def saved(run: Path) -> bool:
    """Whether there is something to resume."""
    state = run / "weights/resume.pt"
    return state.is_file() and state.stat().st_size > 0


def listed(*folders: object) -> dict[str, dict[str, object]]:
    return {Path(run["run"]).name: run for run in json.loads(kdyolo("ps", "--json", *folders))}


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path):
    yield
    for record in tmp_path.rglob(PROCESS_NAME):
        if root := read_process(record.parent) and read_process(record.parent).root():
            for process in [*root.children(recursive=True), root]:
                process.kill()
            until(lambda root=root: not alive(root))


@pytest.fixture(scope="module")
def uninterrupted(checkpoint, shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    command = (*KDYOLO, *training(shapes, checkpoint, "run"))
    run_command(*command, cwd=folder, PYTHONPATH=str(CHECKOUT))
    return folder / "run"


def test_a_run_outlives_its_terminal_and_every_way_to_end_it(uninterrupted, shapes, checkpoint, tmp_path):
    run, pid_file = tmp_path / "runs/own", tmp_path / "runs/own/pid.txt"
    terminal = (sys.executable, "-c", TERMINAL, *KDYOLO, *training(shapes, checkpoint, "runs/own"), "--detach")
    seen = run_command(*terminal, cwd=tmp_path, PYTHONPATH=str(CHECKOUT)).stdout
    assert seen.split()[-1] == str(int(signal.SIGHUP)), "closing the terminal ended its shell"
    pid = int(pid_file.read_text())
    for line in (f"runs/own · process {pid} · runs/own/train.log", "kdyolo logs runs/own -f", "kdyolo stop runs/own"):
        assert line in seen
    assert "exit code 0" in seen
    assert os.getsid(pid) == pid
    until(lambda: saved(run))
    assert listed()["own"].items() >= {"status": "running", "pid": pid, "epochs": EPOCHS, "stale_pid": False}.items()
    following = subprocess.Popen(
        [*KDYOLO, "logs", "runs/own", "-f"], env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, stdout=subprocess.PIPE
    )
    assert "runs/own: stopped. Resume with: kdyolo train --resume runs/own" in kdyolo("stop", "runs/own")
    assert not alive_pid(pid)
    assert b"Interrupted. Resume with" in following.communicate(timeout=20)[0]
    assert following.returncode == 0
    assert not pid_file.exists()
    done = len(rows(run))
    assert 0 < done < EPOCHS, "the run ended before it was stopped: this test needs more epochs"
    assert listed()["own"].items() >= {"status": "interrupted", "pid": None}.items()

    assert "kdyolo ps" in kdyolo("train", "--resume", "runs/own", "--detach")
    until(lambda: len(rows(run)) > done)
    subprocess.run("kill $(cat runs/own/pid.txt)", shell=True, check=True)
    until(lambda: not pid_file.exists())  # in good order
    done = len(rows(run))
    assert done < EPOCHS

    kdyolo("train", "--resume", "runs/own", "--detach")
    until(lambda: len(rows(run)) > done)
    killed = int(pid_file.read_text())
    os.kill(killed, signal.SIGKILL)
    until(lambda: not alive_pid(killed))
    assert listed()["own"].items() >= {"status": "interrupted", "pid": killed, "stale_pid": True}.items()
    assert f"{killed} (stale)" in kdyolo("ps")
    assert f"process {killed} had been killed, its pid.txt was stale. Resume with" in kdyolo("stop", "runs/own")

    kdyolo("train", "--resume", "runs/own", "--device", "cpu")
    assert listed()["own"].items() >= {"status": "finished", "epoch": EPOCHS, "pid": None}.items()
    assert rows(run) == rows(uninterrupted)
    for name in ("best", "last"):
        own, other = (torch.load(r / f"weights/{name}.pt", weights_only=False)["model"] for r in (run, uninterrupted))
        expected = other.state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in own.state_dict().items())
    log = (run / "train.log").read_text()
    assert log.count("resuming after epoch") == 3
    assert log.count("Starting training for") == 4, "every line once"
    assert "\r" not in log


def alive_pid(pid: int) -> bool:
    return psutil.pid_exists(pid) and alive(psutil.Process(pid))


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--backbone", "nope.pth"], 1, "Error: nope.pth: no such file"),
        (["--model", "kdyolov8n.yaml", "--unfreeze-stages", "1:p9"], 2, "unfreeze_stages: expected EPOCHS:PART"),
        (["--model", "kdyolov8n.yaml", "--device", "77"], 2, "GPU 77 does not exist"),
    ],
    ids=["a missing file", "a wrong option", "while setting up"],
)
def test_a_mistake_is_said_on_the_terminal_and_nothing_is_left(shapes, tmp_path, more, code, words):
    (tmp_path / "temporary").mkdir()
    command = [*KDYOLO, "train", "--data", str(shapes), *more, "--work-dir", "run", "--detach"]
    env = {"PYTHONPATH": str(CHECKOUT), "TMPDIR": str(tmp_path / "temporary")}
    done = run_command(*command, cwd=tmp_path, ok=False, **env)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "temporary").glob("kdyolo-*"))


def test_ctrl_c_on_the_terminal_that_waits_ends_what_it_waits_for(shapes, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [*KDYOLO, "train", "--data", str(shapes), "--model", "kdyolov8n.yaml", "--work-dir", "run", "--detach"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TMPDIR": str(temporary)}
    terminal = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: psutil.Process(terminal.pid).children())
    (child,) = psutil.Process(terminal.pid).children()
    time.sleep(0.5)
    terminal.send_signal(signal.SIGINT)
    assert terminal.communicate(timeout=60)[0] == b""
    assert terminal.returncode == 130
    assert not alive(child)
    assert not list(temporary.glob("kdyolo-*"))


def test_the_command_starts_itself_as_it_was_started(monkeypatch, tmp_path):
    assert own_command() == [sys.executable, "-m", "kdyolo"]
    script = tmp_path / "bin/kdyolo"
    script.parent.mkdir()
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script), "train"])
    assert own_command() == [sys.executable, str(script)]


def test_detach_is_for_one_command_of_its_own(shapes):
    train = ("train", "--data", shapes, "--model", "kdyolov8n.yaml", "--detach")
    assert "--dry-run" in kdyolo(*train, "--dry-run", ok=False)
    assert "torchrun" in kdyolo(*train, ok=False, RANK="0")


def test_a_run_that_goes_on_is_left_alone_until_two_stop_it_at_once(shapes, checkpoint, tmp_path):
    run = tmp_path / "run"
    command = training(shapes, checkpoint, "run", epochs=300)
    kdyolo(*command, "--detach")
    going_on = f"as process {(run / 'pid.txt').read_text().strip()}"
    assert going_on in kdyolo(*command, "--exist-ok", ok=False)
    until(lambda: saved(run))
    assert going_on in kdyolo("train", "--resume", "run", "--detach", ok=False)
    command = [*KDYOLO, "stop", "run"]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    stops = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [stop.communicate(timeout=60)[0] for stop in stops]
    assert [stop.returncode for stop in stops] == [0, 0]
    assert all("Resume with: kdyolo train --resume run" in text for text in said), said
    assert not list(run.glob("p*.*t*"))  # neither pid.txt nor process.json
    state = torch.load(run / "weights/resume.pt", weights_only=True)
    assert state["epoch"] + 1 >= len(rows(run)) - 1


def test_all_processes_of_a_run_on_several_devices_are_stopped(shapes, checkpoint, tmp_path):
    run = tmp_path / "run"
    command = training(shapes, checkpoint, "run", epochs=300)
    command[command.index("--device") + 1] = "cpu,cpu"
    assert "run · process" in kdyolo(*command, "--detach")
    until(lambda: saved(run), 300)
    record = read_process(run)
    launcher = record.root()
    ranks = launcher.children(recursive=True)
    assert record.pid in {rank.pid for rank in ranks}
    assert record.pid != launcher.pid
    assert len(ranks) == 2
    assert listed("run")["run"].items() >= {"status": "running", "pid": record.pid}.items()
    assert "stopped. Resume with" in kdyolo("stop", "run")
    assert not [process for process in (launcher, *ranks) if alive(process)]
    assert not (run / "pid.txt").exists()
    log = (run / "train.log").read_text()
    assert log.count("Interrupted. Resume with") == 1
    assert "Error" not in log
    (talk,) = re.findall(r"what the launcher and the other ranks print: (.*)", log)
    assert "Traceback" not in Path(talk).read_text()
    shutil.rmtree(Path(talk).parent)


# What a detached command prints, before its log is open, while it is, and after; in Python and past it.
PRINTS = """
import os, sys
from pathlib import Path
print("before anything", flush=True)
from ultralytics.utils import LOGGER
from kdyolo.runs.log_capture import RunLog
from kdyolo.runs.detach import tell_begun
log = RunLog()
LOGGER.info("a line of the logger")
log.open(Path("run/train.log"))
with log.capture():
    print("set-up")
    log.take_over()
    tell_begun(Path("run"))
    print("a bar 1%\\ra bar 2%")
    print("an error", file=sys.stderr)
    LOGGER.info("the logger again")
    os.write(2, b"past Python\\n")
LOGGER.info("the logger after the end")
print("after the end")
print(len(os.environ.get("KDYOLO_DETACHED", "")))
"""


def test_everything_that_a_detached_command_prints_is_in_its_log_once(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "talk").mkdir()
    env = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONUNBUFFERED": "1",
        "KDYOLO_DETACHED": str(tmp_path / "talk"),
    }
    with (tmp_path / "talk/output").open("wb") as output:
        subprocess.run([sys.executable, "-c", PRINTS], env=env, stdout=output, stderr=output, check=True)
    assert (tmp_path / "talk/begun").read_text() == "run"
    assert (tmp_path / "run/train.log").read_text().splitlines() == [
        "before anything",
        "a line of the logger",
        "set-up",
        "a bar 2%",
        "an error",
        "the logger again",
        "past Python",
        "the logger after the end",
        "after the end",
        "0",
    ]
