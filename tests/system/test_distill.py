"""kdyolo distill as a process: one clear error, kill -9 and resume, and two ranks."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.distillation.distill import distill
from tests.builders.commands import CHECKOUT
from tests.builders.distillation import write_images
from tests.system.forkserver import HIDDEN, ForkServer

KDYOLO = ("-m", "kdyolo", "distill")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in HIDDEN} | {"PYTHONPATH": str(CHECKOUT)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(0)
    tensors = timm.create_model("resnet10t").state_dict()
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "teacher.safetensors")
    return f"resnet10t:{folder / 'teacher.safetensors'}"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("distill") / "images", 20)


def words(teacher: str, images: Path) -> list[str]:
    text = f"--images {images} --teacher {teacher} --model yolov8n --imgsz 64 --batch 8 --held-out 4 --device cpu"
    return [*text.split(), "--epochs", "6"]


def test_killed_and_resumed_it_ends_with_the_same_weights(
    teacher: str, images: Path, tmp_path: Path, python: ForkServer
) -> None:
    own = {"imgsz": 64, "batch": 8, "held_out": 4, "device": "cpu", "epochs": 6}
    whole = distill(images, teacher=teacher, model="yolov8n", work_dir=str(tmp_path / "whole"), **own)
    process = python.start(*KDYOLO, *words(teacher, images), "--work-dir", "cut", cwd=tmp_path, env=ENVIRONMENT)
    state, until = tmp_path / "cut" / "weights" / "resume.pt", time.monotonic() + 120
    while not (state.is_file() and state.stat().st_size) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert state.stat().st_size
    stopped = python.run("-m", "kdyolo", "stop", "cut", cwd=tmp_path, env=ENVIRONMENT)
    assert "kdyolo distill --resume" in stopped.stdout
    resumed = python.run(*KDYOLO, "--resume", "cut", cwd=tmp_path, env=ENVIRONMENT)
    assert resumed.returncode == 0, resumed.stderr
    first, second = (read_checkpoint(folder / "weights" / "last.pt").tensors
                     for folder in (whole.folder, tmp_path / "cut"))  # fmt: skip
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_ranks_leave_one_backbone(teacher: str, images: Path, tmp_path: Path, python: ForkServer) -> None:
    """With the variables that torchrun sets; its own agent is tested with training."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*KDYOLO, *words(teacher, images), "--work-dir", "run", "--cache", "cache"]
    ranks = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = ENVIRONMENT | {name: str(value) for name, value in place.items()}
        ranks.append(python.start(*command, cwd=tmp_path, env=env))
    for number, process in enumerate(ranks):
        output, _ = process.communicate(120)
        assert process.returncode == 0, output
        assert ("kdyolo probe run/backbone.safetensors" in output) is (number == 0)
        assert "Warning" not in output
    assert read_checkpoint(tmp_path / "run" / "backbone.safetensors").teacher == "resnet10t"
    assert len((tmp_path / "run" / "results.csv").read_text().splitlines()) == 7
    assert len(list((tmp_path / "cache").glob("*/shard-*.safetensors"))) == 1


def test_mistakes_are_one_error_without_a_traceback(tmp_path: Path, python: ForkServer) -> None:
    done = python.run(*KDYOLO, "--images", "nowhere", cwd=tmp_path, env=ENVIRONMENT)
    assert done.returncode == 2
    assert "3 mistakes" in done.stderr
    assert "Traceback" not in done.stderr
