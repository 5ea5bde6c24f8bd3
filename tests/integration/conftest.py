"""Trainings that many tests look at: each is made once on a worker, and copied by what changes it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from kdyolo import KDYOLO
from tests.builders.training import FAST, Watch


@dataclass
class FinishedRun:
    """A run that has ended: frozen for two epochs of four, every epoch's checkpoint kept.

    Attributes:
        folder: The run folder, which tests leave alone.
        backbone: The distilled checkpoint that went in; it names its teacher.
        watch: What was seen after each epoch.
        model: The model that trained.
        image: A seeded image [1, 3, 64, 64].
        output: What the EMA made of it, in the precision that is saved, before the checkpoint became a stock one.
    """

    folder: Path
    backbone: Path
    watch: Watch
    model: KDYOLO
    image: torch.Tensor
    output: torch.Tensor


@pytest.fixture(scope="session")
def finished_run(checkpoint: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run of four epochs, the first two of them frozen; then the backbone trains at half the rate."""
    folder = tmp_path_factory.mktemp("finished")
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["teacher"] = "dinov3_vitb16"
    backbone = folder / checkpoint.name
    torch.save(content, backbone)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    outputs = []

    def remember(trainer: Any) -> None:
        ema = trainer.ema.ema
        half = {k: v.half().float() if v.is_floating_point() else v for k, v in ema.state_dict().items()}
        twin = type(ema)(ema.yaml, nc=3, verbose=False)
        twin.load_state_dict(half)
        with torch.no_grad():
            outputs.append(twin.eval()(image)[0])

    watch = Watch(backbone)
    model = KDYOLO(backbone=backbone)
    model.add_callback("on_train_epoch_end", watch)
    model.add_callback("on_model_save", remember)
    options = {"freeze_epochs": 2, "thaw_warmup": 0, "backbone_lr": 0.5, "lr0": 0.001, "save_period": 1, "seed": 7}
    model.train(**{**FAST, "data": str(shapes), "work_dir": folder / "run", "epochs": 4, **options})
    return FinishedRun(folder / "run", backbone, watch, model, image, outputs[-1])


@pytest.fixture
def run_copy(finished_run: FinishedRun, tmp_path: Path) -> Path:
    """The finished run in a place of its own, ``tmp_path/run``."""
    return Path(shutil.copytree(finished_run.folder, tmp_path / "run"))


@pytest.fixture(scope="session")
def interrupted_run(checkpoint: Path, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that Ctrl-C ended in its third epoch of four, thawed in the second: last.pt, epoch0.pt, epoch1.pt."""
    run = tmp_path_factory.mktemp("interrupted") / "run"

    def stop(trainer: Any) -> None:
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    model = KDYOLO(backbone=checkpoint)
    model.add_callback("on_train_batch_start", stop)
    options = {**FAST, "epochs": 4, "freeze_epochs": 1, "save_period": 1}
    with pytest.raises(KeyboardInterrupt):
        model.train(**{**options, "data": str(shapes), "work_dir": run})
    return run


@pytest.fixture
def interrupted_copy(interrupted_run: Path, tmp_path: Path) -> Path:
    """The interrupted run in a place of its own, ``tmp_path/run``."""
    return Path(shutil.copytree(interrupted_run, tmp_path / "run"))
