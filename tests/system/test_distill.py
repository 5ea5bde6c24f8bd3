"""kdyolo distill as a process: one clear error, kill -9 and resume, and two ranks."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdyolo.checkpoints.reader import read_checkpoint
from tests.builders.distillation import write_images
from tests.system.forkserver import ForkServer
from tests.system.test_distributed import run_ranks

KDYOLO = ("-m", "kdyolo")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("distill")
    torch.manual_seed(0)
    tensors = timm.create_model("resnet10t").state_dict()
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "teacher.safetensors")
    images = write_images(folder / "images", 20)
    text = f"--images {images} --teacher resnet10t:{folder / 'teacher.safetensors'} --model yolov8n --imgsz 64"
    return [*text.split(), *["--batch", "8", "--held-out", "4", "--device", "cpu", "--epochs", "3"]]


def run(python: ForkServer, *arguments: str, cwd: Path) -> str:
    """Output of a command that succeeds."""
    done = python.run(*KDYOLO, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_killed_and_resumed_it_ends_with_the_same_weights(
    python: ForkServer, options: list[str], tmp_path: Path
) -> None:
    run(python, "distill", *options, "--work-dir", "whole", cwd=tmp_path)
    process = python.start(*KDYOLO, "distill", *options, "--work-dir", "cut", cwd=tmp_path)
    state, until = tmp_path / "cut" / "weights" / "resume.pt", time.monotonic() + 120
    while not state.is_file() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert state.is_file()
    assert "kdyolo distill --resume" in run(python, "stop", "cut", cwd=tmp_path)
    run(python, "distill", "--resume", "cut", cwd=tmp_path)
    first, second = (read_checkpoint(tmp_path / name / "weights" / "last.pt").tensors for name in ("whole", "cut"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_ranks_leave_one_backbone(python: ForkServer, options: list[str], tmp_path: Path) -> None:
    command = (*KDYOLO, "distill", *options, "--work-dir", "run")
    ended = run_ranks(python, *command, folders=[tmp_path, tmp_path])
    assert [rank.code for rank in ended] == [0, 0], "\n".join(rank.output[-3000:] for rank in ended)
    assert read_checkpoint(tmp_path / "run" / "backbone.safetensors").teacher == "resnet10t"
    assert len((tmp_path / "run" / "results.csv").read_text().splitlines()) == 4


def test_mistakes_are_one_error_without_a_traceback(python: ForkServer, tmp_path: Path) -> None:
    done = python.run(*KDYOLO, "distill", "--images", "nowhere", cwd=tmp_path)
    assert done.returncode == 2 or done.returncode == 1
    assert "2 mistakes" in done.stderr
    assert "Traceback" not in done.stderr
