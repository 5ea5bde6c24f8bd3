"""The schedule with the rest of Ultralytics: an epoch before a thaw and one after, in each way that a CPU can run."""

from __future__ import annotations

import csv
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo.errors import ConfigError
from tests.builders.training import Watch


def run_across_a_thaw(train, checkpoint, **options) -> Watch:
    watch = Watch(checkpoint)
    train({"backbone": checkpoint}, {"on_train_epoch_end": watch}, freeze_epochs=1, **{"epochs": 2, **options})
    assert watch.model[0] == watch.ema[0] == []
    assert {"0.conv.weight", "0.bn.running_mean"} <= set(watch.model[-1])
    assert "0.conv.weight" in watch.ema[-1]
    assert watch.trainable == [{False}] + [{True}] * (len(watch.trainable) - 1)
    return watch


@pytest.mark.parametrize(
    "options",
    [
        {"nbs": 16},
        {"amp": False},
        {"mosaic": 1.0, "mixup": 1.0, "close_mosaic": 1},
        {"multi_scale": 0.5},
        {"optimizer": "MuSGD"},
        {"optimizer": "auto"},
        {"cache": "ram"},
        {"single_cls": True},
        {"rect": True},
        {"warmup_epochs": 3},
        {"cos_lr": False},
        {"val": False},
        {"freeze_bn": "always", "expect": "still"},
    ],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()),
)
def test_across_a_thaw(train, checkpoint, options):
    if options.pop("expect", None) == "still":
        watch = Watch(checkpoint)
        train({"backbone": checkpoint}, {"on_train_epoch_end": watch}, freeze_epochs=1, epochs=2, **options)
        assert not [name for name in watch.model[1] if "running" in name]
    else:
        run_across_a_thaw(train, checkpoint, **options)


def test_gradients_wait_for_their_step_across_a_thaw(train, checkpoint):
    """Six batches to a step, two to an epoch: the first step comes after the thaw, with two epochs of gradients."""
    steps = []

    def count(trainer):
        step = trainer.optimizer.step

        def counted(*arguments, **keywords):
            backbone = [p.grad is not None for p in unwrap_model(trainer.model).backbone.parameters()]
            steps.append((trainer.epoch, any(backbone)))
            return step(*arguments, **keywords)

        trainer.optimizer.step = counted

    train({"backbone": checkpoint}, {"on_train_start": count}, freeze_epochs=1, epochs=3, nbs=16)
    assert steps[-1][0] > 0
    assert all(has_gradients is (epoch >= 1) for epoch, has_gradients in steps)


def test_time_is_refused_with_a_freeze(train, checkpoint):
    with pytest.raises(ConfigError, match="time and freeze_epochs exclude each other"):
        train({"backbone": checkpoint}, unfreeze_stages="1:all", time=0.1)


def test_autobatch_measures_what_trains_after_the_thaw(train, checkpoint, monkeypatch):
    measured = []

    def measure(model, **keywords):
        measured.append({p.requires_grad for n, p in model.named_parameters() if n.startswith("model.0.")})
        return 4

    monkeypatch.setattr("ultralytics.engine.trainer.check_train_batch_size", measure)
    train({"backbone": checkpoint}, freeze_epochs=1, epochs=1, batch=-1)
    assert measured == [{True}]


def test_phase_and_rates_reach_loggers_and_files(train, checkpoint, tmp_path):
    """TensorBoard, W&B and the others log ``trainer.lr`` beside the losses; results.csv gets it too."""
    logged = []
    train(
        {"backbone": checkpoint},
        {"on_train_epoch_end": lambda trainer: logged.append(dict(trainer.lr))},
        freeze_epochs=1,
        epochs=2,
        backbone_lr=0.5,
        thaw_warmup=0,
    )
    rates = {f"lr/{part}/{kind}" for part in ("head", "backbone") for kind in ("weight", "bn", "bias")}
    assert all(set(row) == rates | {"freeze/frozen_parts", "freeze/trainable_parameters"} for row in logged)
    assert [row["lr/backbone/weight"] / row["lr/head/weight"] for row in logged] == pytest.approx([0, 0.5])
    assert [row["freeze/frozen_parts"] for row in logged] == [5, 0]
    with (tmp_path / "run/results.csv").open() as file:
        for row, expected in zip(csv.DictReader(file), logged, strict=True):
            assert {key: float(row[key]) for key in expected} == pytest.approx(expected, rel=1e-4)


def test_every_logger_of_ultralytics_gets_phase_and_rates(train, checkpoint, monkeypatch):
    """Ultralytics' own callbacks of each logger, with a stand-in for the service at their end."""
    services = {logger: MagicMock() for logger in ("tensorboard", "wb", "mlflow", "clearml", "comet")}
    modules = [import_module(f"ultralytics.utils.callbacks.{logger}") for logger in services]
    for module, service in zip(modules, services.values(), strict=True):
        for name in ("WRITER", "wb", "mlflow", "Task", "comet_ml"):
            monkeypatch.setattr(module, name, service, raising=False)

    def tell(event: str, trainer: Any) -> None:
        for module in modules:
            getattr(module, event)(trainer)

    events = {event: partial(tell, event) for event in ("on_train_epoch_end", "on_fit_epoch_end")}
    events["on_train_start"] = lambda trainer: setattr(trainer, "_mlflow_active", True)
    train({"backbone": checkpoint}, events, freeze_epochs=1, epochs=2)
    for logger, service in services.items():
        told = "\n".join(map(str, service.mock_calls))
        for key in (
            "lr/head/weight",
            "lr/backbone/bn",
            "freeze/frozen_parts",
            "freeze/trainable_parameters",
            "train/box",
        ):
            assert told.count(key) >= 2, f"{logger}: {key} is not logged in every epoch"


def test_compiled(train, checkpoint, tmp_path, monkeypatch):
    """torch.compile recompiles once at the thaw; the eager backend leaves out what only takes time."""
    compile_model = torch.compile
    monkeypatch.setattr("torch.compile", lambda model, **keywords: compile_model(model, backend="eager"))
    run_across_a_thaw(train, checkpoint, compile=True)
    assert Path(tmp_path / "run/weights/best.pt").is_file()
