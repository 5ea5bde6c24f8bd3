"""State of an interrupted run: captured, written, read and applied, without training."""

from __future__ import annotations

import random
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from ultralytics.utils.torch_utils import EarlyStopping

from kdyolo.engine.optimizer import OptimizerSteps
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.engine.resume import ResumeState, read_state, resumed_settings, seed_epoch, state_to_resume
from kdyolo.errors import ConfigError, RunError
from kdyolo.models.freeze_schedule import FreezeSchedule
from kdyolo.models.freezing import BackboneFreezer
from kdyolo.runs.contents.forms import StateForm

# Keys of resume.pt since the first version that wrote one. A run that was interrupted by an older version must go on.
KEYS = {
    "epoch",
    "yaml",
    "settings",
    "args",
    "model",
    "ema",
    "updates",
    "optimizer",
    "scaler",
    "threads",
    "best_fitness",
    "stopper",
    "last_step",
    "stop",
    "ranks",
    "images",
    "batches",
    "train_images",
    "gradients",
    "frozen_tensors",
    "mosaic_buffer",
}


class Images:
    """A data set whose last loaded images mosaic draws from."""

    def __init__(self):
        self.buffer = []

    def __len__(self):
        return 12

    def load_image(self, index):
        self.buffer.append(index)


class Loader:
    """A loader of so many batches."""

    def __init__(self, batches):
        self.batches, self.dataset = batches, Images()

    def __len__(self):
        return self.batches


class Trainer:
    """What a state is captured from and applied to, with a real model and a real optimizer."""

    def __init__(self, seed, csv, ranks=0, batches=3):
        self.world_size, self.batch_size, self.train_loader = ranks, 4, Loader(batches)
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.model.yaml = {"yaml_file": "kdyolov8n.yaml"}
        ema = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.ema = SimpleNamespace(ema=ema, updates=0)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cpu", enabled=False)
        self.stopper = EarlyStopping(5)
        self.args = SimpleNamespace(epochs=9, seed=seed, resume="last.pt")
        self.settings = TrainOptions(freeze_epochs=2)
        self.steps = OptimizerSteps()
        self.freezer = BackboneFreezer(FreezeSchedule(2, epochs=9))
        self.epoch, self.start_epoch, self.best_fitness, self.stop, self.csv = 0, 0, None, False, csv

    def train(self):
        """A step, and then a batch whose gradients wait."""
        for _ in range(2):
            self.model(torch.randn(5, 3)).square().sum().backward()
            if not self.ema.updates:
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.ema.updates += 1
        self.epoch, self.best_fitness, self.steps.last_step = 3, np.float64(0.25), 11
        self.stopper.best_fitness, self.stopper.best_epoch = np.float64(0.25), 2
        self.train_loader.dataset.buffer = [4, 1, 7]
        self.freezer.frozen_tensors = {"0.weight": torch.full((2,), 1 / 3)}


@pytest.fixture
def interrupted(tmp_path):
    trainer = Trainer(1, tmp_path / "results.csv")
    trainer.train()
    return trainer


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_captured_and_saved_is_what_another_trainer_has_after_it_is_applied(interrupted, tmp_path):
    ResumeState.capture(interrupted).save(tmp_path / "resume.pt")
    (tmp_path / "results.csv").write_text("epoch,loss\n1,3\n4,2\n5,9\n1")
    resumed = Trainer(2, tmp_path / "results.csv")
    assert not same(resumed.model.state_dict(), interrupted.model.state_dict())
    ResumeState.load(tmp_path / "resume.pt").apply(resumed)
    for what in ("model", "ema"):
        one, other = (t.model if what == "model" else t.ema.ema for t in (resumed, interrupted))
        assert same(one.state_dict(), other.state_dict()), what
    assert resumed.ema.updates == 2
    momenta = [list(t.optimizer.state_dict()["state"].values()) for t in (resumed, interrupted)]
    assert momenta[0]
    assert all(same(a, b) for a, b in zip(*momenta, strict=True))
    assert (resumed.best_fitness, resumed.stopper.best_fitness, resumed.stopper.best_epoch) == (0.25, 0.25, 2)
    assert (resumed.start_epoch, resumed.steps.last_step) == (4, 11)
    waiting = {name: p.grad for name, p in interrupted.model.named_parameters()}
    assert same(resumed.steps.gradients, waiting)
    assert same(resumed.freezer.frozen_tensors, interrupted.freezer.frozen_tensors)
    assert resumed.train_loader.dataset.buffer == [4, 1, 7]
    assert (tmp_path / "results.csv").read_text() == "epoch,loss\n1,3\n4,2\n"


def test_the_file_has_the_keys_that_it_always_had_and_opens_with_restrictions(interrupted, tmp_path):
    ResumeState.capture(interrupted).save(tmp_path / "resume.pt")
    content = torch.load(tmp_path / "resume.pt", weights_only=True)
    assert content.keys() == KEYS
    assert content["args"] == {"epochs": 9, "seed": 1}  # without resume: where the run lies may change
    assert content["settings"] == TrainOptions(freeze_epochs=2).to_dict()
    assert content["yaml"] == {"yaml_file": "kdyolov8n.yaml"}
    assert content["threads"] == torch.get_num_threads()


def written(tmp_path, interrupted, **changes):
    ResumeState.capture(interrupted).save(tmp_path / "resume.pt")
    content = {**torch.load(tmp_path / "resume.pt", weights_only=True), **changes}
    torch.save({key: value for key, value in content.items() if value is not ...}, tmp_path / "resume.pt")
    return tmp_path / "resume.pt"


def test_files_of_versions_that_kept_less_or_more_are_read(interrupted, tmp_path):
    state = ResumeState.load(written(tmp_path, interrupted, threads=..., stop=..., of_a_later_version=3))
    assert (state.threads, state.stop) == (None, False)


def resumed_on(interrupted, tmp_path, count, length=3, **changes):
    """A trainer on so many ranks that goes on with the state of another one."""
    trainer = Trainer(2, tmp_path / "results.csv", count, batches=length)
    ResumeState.load(written(tmp_path, interrupted, **changes)).apply(trainer)
    return trainer


def test_on_other_ranks_that_share_the_same_batch_steps_come_when_due(interrupted, tmp_path, caplog):
    """One batch has waited: the last step was made after the last but one of four epochs."""
    interrupted.steps.last_step = 4 * 3 - 2
    for ranks, batches, last_step in ((0, 3, 10), (1, 3, 10), (2, 3, 10), (4, 2, 4 * 2 - 2), (2, 5, 4 * 5 - 2)):
        caplog.clear()
        assert resumed_on(interrupted, tmp_path, ranks, batches).steps.last_step == last_step
        assert ("not those of an uninterrupted run" in caplog.text) is (ranks > 1)


def test_ranks_that_would_change_the_batch_are_refused_by_number(tmp_path):
    """Three ranks share a batch of four as one image each."""
    interrupted = Trainer(1, tmp_path / "results.csv", ranks=3, batches=8)
    interrupted.train()
    assert resumed_on(interrupted, tmp_path, 3, 8).start_epoch == 4
    for ranks, here in ((0, "4 .1 rank with 4 each"), (2, "4 .2 ranks with 2 each")):
        with pytest.raises(RunError, match=rf"has 3 images .3 ranks with 1 each., here it would have {here}") as error:
            resumed_on(interrupted, tmp_path, ranks, 6)
        assert "Resume it on 3 ranks" in str(error.value)


def test_a_file_that_knows_no_ranks_is_refused_where_its_last_step_would_lie_ahead(interrupted, tmp_path):
    older = {"ranks": ..., "images": ..., "batches": ...}
    assert resumed_on(interrupted, tmp_path, 2, **older).steps.last_step == 11
    with pytest.raises(RunError, match="4 epochs have 8 batches here, but the run made a step after batch 12"):
        resumed_on(interrupted, tmp_path, 1, 2, **older)


def test_waiting_gradients_know_the_scale_that_their_scaler_gave_them(interrupted, tmp_path):
    interrupted.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    resumed = resumed_on(interrupted, tmp_path, 0)
    assert resumed.steps.scale == 512
    waiting = interrupted.model[0].weight.grad.clone()
    resumed.steps.restore_gradients(resumed.model, resumed.scaler)  # off, as on a CPU
    assert torch.equal(resumed.model[0].weight.grad, waiting / 512)


def test_an_optimizer_keeps_the_kernel_that_its_device_wants(interrupted, tmp_path):
    interrupted.optimizer.param_groups[0]["fused"] = True
    assert resumed_on(interrupted, tmp_path, 0).optimizer.param_groups[0]["fused"] is None


@pytest.mark.parametrize(
    "changes",
    [
        *({"epoch": value} for value in ("x", -1, None, 10**9, 1.5)),
        *({name: 3} for name in ("yaml", "settings", "args", "model", "optimizer", "stopper", "gradients")),
        *({"mosaic_buffer": value} for value in (["a"], [-1], 3)),
        *({"threads": value} for value in (0, "2", 10**12)),
        *({"last_step": "x"}, {"best_fitness": "high"}, {"stop": "no"}, {"updates": torch.ones(1)}),
        *({"model": torch.ones(3)}, {"optimizer": torch.ones(())}, {"stopper": {"patience": "long"}}),
    ],
    ids=lambda changes: "-".join(f"{name} {value}" for name, value in changes.items())[:40],
)
def test_values_of_another_kind_are_refused(interrupted, tmp_path, changes):
    (name,) = changes
    with pytest.raises(RunError, match=rf"resume\.pt: damaged \(.*{name}") as caught:
        ResumeState.load(written(tmp_path, interrupted, **changes))
    assert "\n" not in str(caught.value)


def test_the_state_of_an_optimizer_of_other_parameters_is_refused(interrupted, tmp_path):
    state = interrupted.optimizer.state_dict()
    first = next(iter(state["state"]))
    state["state"][first] = {"momentum_buffer": torch.zeros(2, 2)}
    with pytest.raises(RunError, match=r"resume\.pt: damaged \(.*momentum_buffer of shape \(2, 2\) for a parameter of"):
        resumed_on(interrupted, tmp_path, 0, optimizer=state)


@pytest.mark.parametrize(
    "changes", [{"model": {}}, {"ema": {"a": 1}}, {"optimizer": {}}, {"optimizer": {"param_groups": [3], "state": {}}}]
)
def test_what_does_not_go_into_the_trainer_is_refused(interrupted, tmp_path, changes):
    with pytest.raises(RunError, match=r"resume\.pt: damaged .* cannot go on from here"):
        resumed_on(interrupted, tmp_path, 0, **changes)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"settings": {"freezing": 3}}, "unknown option 'freezing'"),
        ({"settings": {"backbone_lr": "fast"}}, "backbone_lr: expected a number, found 'fast'"),
        ({"args": {}}, "epochs is None"),
        ({"args": {"epochs": 9, "imgsz": "large"}}, "imgsz takes"),
        ({"args": {"epochs": 9, "evil": 1}}, "unknown setting 'evil'"),
    ],
)
def test_settings_that_no_run_has_are_refused(interrupted, tmp_path, changes, found):
    state = ResumeState.load(written(tmp_path, interrupted, **changes))
    with pytest.raises(RunError, match=rf"weights/resume\.pt: damaged \(its settings: .*{found}"):
        resumed_settings({"resume": tmp_path / "run/weights/last.pt"}, state)


def test_what_is_no_state_is_refused(interrupted, tmp_path):
    with pytest.raises(RunError, match=r"resume\.pt: damaged \(model, ema missing\)"):
        ResumeState.load(written(tmp_path, interrupted, model=..., ema=...))
    torch.save([1, 2], tmp_path / "resume.pt")
    with pytest.raises(RunError, match=r"damaged .a list instead of a run's state"):
        ResumeState.load(tmp_path / "resume.pt")
    (tmp_path / "resume.pt").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"damaged .*cannot go on from here"):
        ResumeState.load(tmp_path / "resume.pt")


def test_the_state_beside_a_checkpoint(interrupted, tmp_path):
    last = tmp_path / "last.pt"
    with pytest.raises(RunError, match="is no file"):
        read_state(last)
    last.touch()
    with pytest.raises(RunError, match="the run is finished"):
        read_state(last)
    (tmp_path / "resume.pt").touch()
    with pytest.raises(RunError, match="while its first epoch was saved"):
        read_state(last)
    ResumeState.capture(interrupted).save(tmp_path / "resume.pt")
    assert read_state(last).epoch == 3


@pytest.mark.parametrize(
    ("epoch", "stop", "epochs", "ended"),
    [(8, False, 9, True), (8, False, 10, False), (3, False, 9, False), (3, True, 9, True), (3, True, 10, False)],
)
def test_a_run_that_has_only_its_evaluation_left(interrupted, epoch, stop, epochs, ended):
    interrupted.epoch, interrupted.stop = epoch, stop
    assert ResumeState.capture(interrupted).trained_to_the_end(epochs) is ended


def test_a_resumed_run_keeps_its_settings_and_stays_where_it_is(interrupted, tmp_path):
    state = ResumeState.capture(interrupted)
    last = tmp_path / "run/weights/last.pt"
    settings, overrides = resumed_settings({"resume": last, "epochs": 12, "seed": 1, "workers": None}, state)
    assert settings == interrupted.settings
    assert overrides == {"resume": last, "epochs": 12, "save_dir": str(tmp_path / "run")}
    with pytest.raises(ConfigError) as error:
        resumed_settings({"resume": last, "epochs": 3, "seed": 2, "freeze_epochs": 4}, state)
    assert "seed, freeze_epochs cannot change" in str(error.value)
    assert "longer, not shorter" in str(error.value)


def test_every_field_has_a_kind_that_is_checked():
    assert {field.name for field in fields(ResumeState)} == set(StateForm.__struct_fields__)


def test_missing_training_images_are_refused(interrupted, tmp_path):
    with pytest.raises(RunError, match="the run has 13 training images, here there are 12"):
        resumed_on(interrupted, tmp_path, 0, train_images=13)
    assert resumed_on(interrupted, tmp_path, 0, train_images=...).start_epoch == 4


def drawn(seed, epoch, attempt):
    images = torch.utils.data.TensorDataset(torch.arange(20))
    loader = torch.utils.data.DataLoader(images, shuffle=True)
    loader.reset = lambda: None
    seed_epoch(seed, epoch, attempt, loader)
    return random.random(), np.random.random(), float(torch.rand(())), tuple(int(batch[0]) for batch in loader)


def test_an_epoch_draws_what_follows_from_seed_epoch_and_attempt_and_from_nothing_else():
    first = drawn(1, 2, 0)
    torch.rand(3)
    assert drawn(1, 2, 0) == first
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not set(zip(drawn(*other), first, strict=True)) & set(zip(first, first, strict=True)), other


def test_a_link_in_a_circle_is_refused(tmp_path):
    last = tmp_path / "weights" / "last.pt"
    last.parent.mkdir()
    last.symlink_to(last)
    with pytest.raises(RunError, match=r"last\.pt cannot be resumed"):
        state_to_resume(last)
