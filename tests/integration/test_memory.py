"""A run whose device runs out of memory: it ends with the batch that fits, and never goes on with another one."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.plotting import plot_results

from kdyolo import KDYOLO, KDTrainer
from kdyolo.engine import training
from kdyolo.engine.memory import fitting_batch
from kdyolo.engine.memory.meter import ProcessMemory
from kdyolo.engine.preflight import measure_run
from kdyolo.engine.start.plan import plan_run
from kdyolo.errors import RunError
from kdyolo.runs.history import read_run
from kdyolo.utils import distributed
from tests.builders.training import FAST


class SmallGPU(ProcessMemory):
    """The CPU, taken for a device whose memory may run out; peaks are what its steps said since the last reset."""

    may_run_out = True

    def __init__(self) -> None:
        self.resets = 0
        self.steps: list[tuple[int, bool]] = []  # images, and whether the backbone trained

    def reset(self) -> None:
        self.resets += 1


@pytest.fixture
def gpu(monkeypatch) -> SmallGPU:
    """A device that has room for three images while the backbone trains, and for any number while it is frozen."""
    gpu = SmallGPU()
    compute = DetectionModel.loss

    def loss(self, batch, preds=None):
        images, trains = len(batch["img"]), self.backbone.layers[0].conv.weight.requires_grad
        if self.training:
            gpu.steps.append((images, trains))
            if trains and images > 3:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(self, batch, preds)

    monkeypatch.setattr(DetectionModel, "loss", loss)
    monkeypatch.setattr(training, "meter_of", lambda device: gpu)
    return gpu


@pytest.fixture
def options(checkpoint, shapes, tmp_path):
    return {
        **FAST,
        "data": str(shapes),
        "backbone": str(checkpoint),
        "work_dir": str(tmp_path / "run"),
        "freeze_epochs": 1,
        "epochs": 2,
    }


def train(options) -> Path:
    KDTrainer(overrides=options).train()
    return Path(options["work_dir"])


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_batch_that_does_not_fit_after_the_thaw_ends_the_run_before_it_begins(gpu, options, tmp_path):
    with pytest.raises(RunError, match=r"batch 4 .*Use --batch 3, which does\. Nothing was trained") as error:
        train(options)
    assert "reducing" not in str(error.value).lower()
    assert {trains for _, trains in gpu.steps} == {True}
    assert [images for images, _ in gpu.steps] == [4, 2, 2, 3, 3]  # the second step of each beside the state of one
    assert not (tmp_path / "run").exists()


def test_not_even_an_image_fits(gpu, options, monkeypatch):
    monkeypatch.setattr(fitting_batch, "loss_of", lambda *_: (_ for _ in ()).throw(RuntimeError("CUDA out of memory")))
    with pytest.raises(RunError, match="Not even a single image"):
        train(options)
    with pytest.raises(RunError, match="Not even a single image"):
        measure_run(plan_run(options))


def test_another_error_of_a_measured_step_is_no_lack_of_memory(gpu, options, monkeypatch):
    monkeypatch.setattr(fitting_batch, "loss_of", lambda *_: (_ for _ in ()).throw(RuntimeError("size mismatch")))
    with pytest.raises(RuntimeError, match="size mismatch"):
        train(options)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD"])
def test_measuring_leaves_no_trace(gpu, options, optimizer):
    trainer = KDTrainer(overrides={**options, "optimizer": optimizer, "batch": 3})
    trainer.set_up()
    model = trainer.model

    def state():
        return (
            {name: tensor.clone() for name, tensor in model.state_dict().items()},
            {name: tensor.clone() for name, tensor in trainer.ema.ema.state_dict().items()},
            [(p.requires_grad, p.grad) for p in model.parameters()],
            [module.training for module in model.modules()],
            (torch.get_rng_state(), random.getstate(), str(np.random.get_state())),
            (dict(trainer.optimizer.state), [dict(g, params=0) for g in trainer.optimizer.param_groups]),
            (trainer.scheduler.state_dict(), vars(trainer.optimizer).get("_opt_called")),
        )

    try:
        before = state()
        assert fitting_batch.fitting_batch(trainer) == 3
        after = state()
    finally:
        trainer.log.close()
    assert len(gpu.steps) == 2
    for was, now in zip(before[:2], after[:2], strict=True):
        assert was.keys() == now.keys()
        assert all(torch.equal(was[name], now[name]) for name in was)
    assert torch.equal(before[4][0], after[4][0])
    assert before[4][1:] == after[4][1:]
    assert before[2:4] == after[2:4]
    assert str(before[5:]) == str(after[5:])
    assert not trainer.optimizer.state


def test_out_of_memory_in_the_first_epoch_never_halves_the_batch(gpu, options, monkeypatch, tmp_path):
    monkeypatch.setattr(fitting_batch, "require_fitting_batch", lambda trainer: None)
    with pytest.raises(RunError, match=r"out of memory on cpu in epoch 1, with batch 4\..*start again with --batch 2"):
        train({**options, "freeze_epochs": 0})
    assert {images for images, _ in gpu.steps} == {4}


def test_out_of_memory_at_a_thaw_says_how_to_go_on_and_the_resumed_run_keeps_its_batch(gpu, options, monkeypatch):
    monkeypatch.setattr(fitting_batch, "require_fitting_batch", lambda trainer: None)
    with pytest.raises(RunError, match=r"in epoch 2, with batch 4\..*train --resume .*run --device N") as error:
        train(options)
    assert "new run with --batch 2" in str(error.value)
    run = Path(options["work_dir"])
    with pytest.raises(RunError, match=r"in epoch 2, with batch 4"):
        KDYOLO(run / "weights" / "last.pt").train(resume=True)
    assert {images for images, _ in gpu.steps} == {4}
    assert [row["batch/images"] for row in rows(run)] == ["4"]


def test_every_rank_hears_of_the_one_with_the_least_room(gpu, options, monkeypatch):
    monkeypatch.setattr(distributed, "from_all_ranks", lambda value: [value, 1])
    with pytest.raises(RunError, match=r"Use --batch 1, which does"):
        train({**options, "batch": 2})


def test_a_rehearsal_for_several_devices_holds_what_they_exchange(gpu, options, monkeypatch):
    exchanged = []
    monkeypatch.setattr(fitting_batch, "gradient_buckets", lambda found: exchanged.append(len(list(found))) or [])
    measure_run(plan_run({**options, "batch": 2, "device": "cpu"}))
    assert not exchanged
    measure_run(plan_run({**options, "batch": 4, "device": "cpu,cpu"}))
    assert exchanged


def test_what_autobatch_took_is_recorded_and_what_never_trains_needs_no_memory(gpu, options, monkeypatch):
    monkeypatch.setattr(KDTrainer, "auto_batch", lambda self: 4)
    run = train({**options, "batch": -1, "epochs": 1, "freeze_epochs": "all"})
    assert not any(trains for _, trains in gpu.steps)
    assert yaml.safe_load((run / "kdyolo.yaml").read_text())["batch"] == 4
    assert [row["batch/images"] for row in rows(run)] == ["4"]
    assert read_run(run).column("batch/images") == [4]
    plot_results(run / "results.csv")
    assert (run / "results.png").stat().st_size > 1000


def test_a_run_that_an_older_version_began_goes_on_with_its_columns(interrupted_copy):
    csv_file = interrupted_copy / "results.csv"
    lines = [line.rpartition(",")[0] for line in csv_file.read_text().splitlines()]
    assert lines[0].endswith("memory/GB")
    csv_file.write_text("\n".join(lines) + "\n")
    KDYOLO(interrupted_copy / "weights" / "last.pt").train(resume=True)
    run = read_run(interrupted_copy)
    assert run.epochs == [1, 2, 3, 4]
    assert "batch/images" not in run.columns


def heard(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr("ultralytics.utils.LOGGER.info", lambda text, *_: lines.append(str(text)))
    return lines


def test_a_dry_run_measures_the_batch_that_fits(gpu, options, monkeypatch):
    lines = heard(monkeypatch)
    cost = measure_run(plan_run(options))
    assert cost.batch == 3
    assert cost.steps == 3
    text = "\n".join(lines)
    assert "batch 4 at imgsz 64 does not fit" in text
    assert "batch   3: fits once everything trains" in text
    assert {images for images, _ in gpu.steps[5:]} == {3, 2}  # after the search; an epoch of eight images ends with two
    assert gpu.resets == 1 + len(cost.phases)  # once after the search, and before each phase


def test_a_dry_run_of_several_devices_measures_the_share_of_one(options, monkeypatch):
    seen = []
    preprocess = KDTrainer.preprocess_batch
    monkeypatch.setattr(
        KDTrainer, "preprocess_batch", lambda self, batch: seen.append(len(batch["img"])) or preprocess(self, batch)
    )
    lines = heard(monkeypatch)
    cost = measure_run(plan_run({**options, "device": "cpu,cpu"}))
    assert set(seen) == {2}
    assert (cost.batch, cost.steps) == (4, 2)
    assert "batch   4, 2 on each of 2 devices" in "\n".join(lines)


def test_a_dry_run_says_what_autobatch_took(options, monkeypatch):
    monkeypatch.setattr(KDTrainer, "auto_batch", lambda self: 2)
    lines = heard(monkeypatch)
    assert measure_run(plan_run({**options, "batch": -1})).batch == 2
    assert "batch   2, which AutoBatch took for batch=-1" in "\n".join(lines)


def test_a_dry_run_measures_the_compiled_model(options, monkeypatch):
    class Compiled(torch.nn.Module):
        calls = 0

        def __init__(self, model):
            super().__init__()
            self._orig_mod = model

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self._orig_mod, name)

        def forward(self, images):
            Compiled.calls += 1
            return self._orig_mod(images)

    monkeypatch.setattr("ultralytics.engine.trainer.attempt_compile", lambda model, **_: Compiled(model))
    measure_run(plan_run({**options, "compile": True}))
    assert Compiled.calls == 6  # three steps in each of two phases
