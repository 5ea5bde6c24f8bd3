"""Learning rates, steps across a resume, and early stopping under a freeze schedule, without training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from ultralytics.utils.torch_utils import EarlyStopping

from kdyolo.engine.optimizer import EarlyStoppingAfterUnfreeze, ScheduledRates, StepOffset
from kdyolo.models.freeze_schedule import FreezeSchedule

SCHEDULE = FreezeSchedule(unfreeze_stages="1:p5,2:all", epochs=6, backbone_lr=0.5, thaw_warmup=1)


@pytest.fixture
def parts():
    """Part of a tiny backbone → its layers."""
    return {"stem": [nn.Linear(2, 2)], "p4": [nn.Linear(2, 2)], "p5": [nn.Linear(2, 2)]}


@pytest.fixture
def optimizer(parts):
    """An optimizer in Ultralytics' manner: a group of weights, one of biases, head and backbone in both."""
    modules = [nn.Linear(2, 2), *(layer for layers in parts.values() for layer in layers)]
    weights = {"params": [m.weight for m in modules], "param_group": "weight", "lr": 0.1}
    return torch.optim.SGD([weights, {"params": [m.bias for m in modules], "param_group": "bias", "lr": 0.2}], lr=1.0)


def rates_of(optimizer):
    return {f"{g['part']}/{g['param_group']}": g["lr"] for g in optimizer.param_groups}


def test_each_group_has_its_parts_rate_during_a_step_and_ultralytics_rate_after_it(optimizer, parts):
    rates = ScheduledRates(SCHEDULE)
    rates.split(optimizer, parts)
    before = rates_of(optimizer)
    assert before.keys() == {
        f"{part}/{kind}" for part in ("head", "p5", "stem-p2-p3-p4") for kind in ("weight", "bias")
    }
    for progress, p5, rest in ((0.5, 0, 0), (1.5, 0.25, 0), (2.5, 0.5, 0.25), (5, 0.5, 0.5)):
        with rates.applied(optimizer, progress):
            factors = {name: rate / before[name] for name, rate in rates_of(optimizer).items()}
        assert factors["head/weight"] == factors["head/bias"] == 1
        assert factors["p5/weight"] == factors["p5/bias"] == pytest.approx(p5)
        assert factors["stem-p2-p3-p4/weight"] == pytest.approx(rest)
        assert rates_of(optimizer) == before


def test_rates_come_back_when_a_step_fails(optimizer, parts):
    rates = ScheduledRates(SCHEDULE)
    rates.split(optimizer, parts)
    before = rates_of(optimizer)

    with pytest.raises(RuntimeError), rates.applied(optimizer, 0.5):
        raise RuntimeError("out of memory")
    assert rates_of(optimizer) == before


def test_a_plain_schedule_neither_splits_groups_nor_changes_rates(optimizer, parts):
    rates = ScheduledRates(FreezeSchedule(0, epochs=3))
    rates.split(optimizer, parts)
    assert len(optimizer.param_groups) == 2
    with rates.applied(optimizer, 0.5):
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


def test_loggers_get_the_rates_really_used_and_the_phase(optimizer, parts):
    rates = ScheduledRates(SCHEDULE)
    rates.split(optimizer, parts)
    optimizer.param_groups.append({**optimizer.param_groups[0], "lr": 0.3})  # MuSGD: two groups of one kind
    logged = rates.logged(optimizer, epoch=1, progress=1.5, trainable=17)
    assert logged.pop("freeze/frozen_parts") == 4
    assert logged.pop("freeze/trainable_parameters") == 17
    assert logged.pop("lr/head/weight-2") == 0.3
    expected = {"lr/head/weight": 0.1, "lr/head/bias": 0.2, "lr/p5/weight": 0.025, "lr/p5/bias": 0.05}
    assert logged == pytest.approx({**expected, "lr/stem-p2-p3-p4/weight": 0, "lr/stem-p2-p3-p4/bias": 0})


class Loop:
    """Ultralytics' loop around a step, as far as its count of iterations goes."""

    def __init__(self, accumulate, warmup=0):
        self.nominal, self.warmup, self.accumulate = accumulate, warmup, accumulate
        self.model, self.steps, self.made = nn.Linear(1, 1), StepOffset(), []

    def run(self, start, end):
        last = -1  # also in the middle of a run, in a new process
        for iteration in range(start, end):
            if self.warmup and iteration <= self.warmup:
                self.accumulate = max(1, round(1 + (self.nominal - 1) * iteration / self.warmup))
            self.accumulate = self.steps.before_batch(self.model, self.accumulate)
            if iteration - last >= self.accumulate:
                self.accumulate = self.steps.after_step(iteration, self.accumulate)
                self.made.append(iteration)
                last = iteration
        return self.made


@pytest.mark.parametrize("accumulate", [1, 3, 4, 32])
def test_steps_come_after_a_resume_where_they_would_have_come_without(accumulate):
    whole = Loop(accumulate)
    expected = whole.run(0, 100)
    for cut in range(1, 99):
        first = Loop(accumulate)
        first.run(0, cut)
        second = Loop(accumulate)
        second.steps.resume(first.steps.last_step, {})
        assert first.made + second.run(cut, 100) == expected, cut
        assert second.steps.last_step == whole.steps.last_step


def test_a_resume_in_a_warm_up_that_sets_accumulate_anew():
    expected = Loop(4, warmup=12).run(0, 40)
    for cut in (2, 5, 9, 20):
        first, second = Loop(4, warmup=12), Loop(4, warmup=12)
        first.run(0, cut)
        second.steps.resume(first.steps.last_step, {})
        assert first.made + second.run(cut, 40) == expected, cut


def test_gradients_that_waited_are_put_back_once():
    model, steps = nn.Linear(1, 2), StepOffset()
    model.bias.grad = torch.ones(2)
    steps.resume(3, {"weight": torch.full((2, 1), 7.0)})
    steps.before_batch(model, 4)
    assert torch.equal(model.weight.grad, torch.full((2, 1), 7.0))
    assert model.bias.grad is None
    assert steps.gradients is None
    model.weight.grad = None
    steps.before_batch(model, 8)
    assert model.weight.grad is None


def test_a_new_run_leaves_accumulate_alone():
    steps = StepOffset()
    assert [steps.before_batch(nn.Linear(1, 1), n) for n in (1, 2, 4)] == [1, 2, 4]
    assert steps.after_step(5, 4) == 4
    assert steps.last_step == 5


def stops_after(stopper, fitness):
    """Epoch (from 1) after which the stopper ends a run with these fitness values, or None."""
    return next((epoch for epoch, value in enumerate(fitness, start=1) if stopper(epoch, value)), None)


def test_patience_counts_from_the_thaw():
    plateau = [0.5] + [0.4] * 30
    assert stops_after(EarlyStopping(3), plateau) == 4
    assert stops_after(EarlyStoppingAfterUnfreeze(3, frozen_epochs=10), plateau) == 13


def test_an_improvement_after_the_thaw_restarts_the_count():
    fitness = [0.5] + [0.4] * 10 + [0.6] + [0.4] * 20  # best in epoch 12, frozen until 10
    assert stops_after(EarlyStoppingAfterUnfreeze(3, frozen_epochs=10), fitness) == 15


def test_without_a_freeze_it_is_ultralytics():
    for fitness in ([0.1, 0.2, 0.3] + [0.2] * 9, [0.5] + [0.4] * 9, [0.0] * 9 + [0.1] + [0.0] * 9):
        assert stops_after(EarlyStoppingAfterUnfreeze(4, 0), fitness) == stops_after(EarlyStopping(4), fitness)


def test_never_stops_while_everything_stays_frozen():
    assert stops_after(EarlyStoppingAfterUnfreeze(2, frozen_epochs=20), [0.5] + [0.4] * 19) is None


def test_patience_zero_disables():
    assert stops_after(EarlyStoppingAfterUnfreeze(0, frozen_epochs=2), [0.5] + [0.4] * 50) is None


def test_progress_of_a_resumed_run_is_taken_over():
    stock = EarlyStopping(3)
    stock.best_fitness, stock.best_epoch = 0.7, 12
    stopper = EarlyStoppingAfterUnfreeze.instead_of(stock, 10)
    assert (stopper.patience, stopper.frozen_epochs) == (3, 10)
    assert [stopper(epoch, 0.6) for epoch in (13, 14, 15)] == [False, False, True]
    assert EarlyStoppingAfterUnfreeze.instead_of(EarlyStopping(0), 1).patience == float("inf")
