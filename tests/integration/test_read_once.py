"""A large checkpoint is read once by each command, and what was read is what trains."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kdyolo import KDYOLO, read_checkpoint
from kdyolo.cli import main
from tests.builders.training import FAST

BALLAST = 128 << 20  # bytes beside the backbone: far more than a tiny run reads otherwise


@pytest.fixture(scope="module")
def large(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with a large adapter in it."""
    content = torch.load(checkpoint, weights_only=True)
    content["edge_adapter"] = {"weight": torch.zeros(BALLAST // 4)}
    path = tmp_path_factory.mktemp("large") / "large.pth"
    torch.save(content, path)
    return path


def bytes_read_by(action: Callable[[], object]) -> int:
    """Bytes that this process asked the system for meanwhile, whatever library did (maps are not counted)."""
    counters = Path("/proc/self/io")
    if not counters.exists():
        pytest.skip("what a process reads is counted in /proc, which is Linux's")

    def so_far() -> int:
        found = re.search(r"rchar: (\d+)", counters.read_text())
        assert found
        return int(found[1])

    before = so_far()
    action()
    return so_far() - before


@pytest.mark.parametrize("command", ["train", "train --dry-run", "doctor", "inspect"])
def test_each_command_reads_a_checkpoint_once(
    large: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    once = bytes_read_by(lambda: read_checkpoint(large))
    assert once > BALLAST
    settings = [f"{key}={value}" for key, value in {**FAST, "epochs": 1}.items()]
    arguments = {
        "train": ["--data", str(shapes), "--backbone", str(large), "--work-dir", str(tmp_path / "run"), *settings],
        "doctor": ["--data", str(shapes), "--backbone", str(large)],
        "inspect": [str(large)],
    }
    name, *option = command.split()
    assert bytes_read_by(lambda: main([name, *option, *arguments[name]])) < 1.5 * once
    assert (tmp_path / "run/weights/best.pt").exists() is (command == "train")


def test_what_trains_is_what_the_model_was_made_from(
    checkpoint: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if the file changes in between, as one does that a distillation run writes anew after each epoch."""
    mine, other = tmp_path / "mine.pth", tmp_path / "other.pth"
    mine.write_bytes(checkpoint.read_bytes())
    content = torch.load(checkpoint, weights_only=True)
    for tensor in content["backbone"].values():
        tensor.mul_(2)
    torch.save(content, other)
    expected, others = read_checkpoint(mine), read_checkpoint(other)

    def trained(work_dir: str, **keywords: object) -> tuple[str, torch.Tensor]:
        options = {**FAST, "epochs": 1, "freeze_epochs": "all", **keywords}
        model.train(data=str(shapes), work_dir=tmp_path / work_dir, **options)
        record = torch.load(tmp_path / work_dir / "weights/best.pt", weights_only=False)["model"]
        return record.yaml["kd"]["sha256"], record.state_dict()["model.0.conv.weight"].float()

    model = KDYOLO(backbone=mine)
    torch.save(content, mine)
    sha256, weight = trained("first")
    assert sha256 == expected.sha256
    assert torch.equal(weight, expected.tensors["0.conv.weight"].half().float())
    model = KDYOLO(backbone=checkpoint)
    sha256, weight = trained("second", backbone=str(other))  # asked for when training: read then
    assert sha256 == others.sha256
    assert torch.equal(weight, others.tensors["0.conv.weight"].half().float())
