"""Learning rates, steps across a resume, and early stopping under a freeze schedule, without training."""

from __future__ import annotations

import copy
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from ultralytics.optim import MuSGD
from ultralytics.utils.torch_utils import EarlyStopping

from kdyolo.engine.optimizer import (
    EarlyStoppingAfterUnfreeze,
    OptimizerSteps,
    ScheduledRates,
    load_optimizer_state,
)
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


def accumulates(iterations, accumulate, warmup):
    """What Ultralytics' loop sets ``accumulate`` to at each iteration; None where it leaves it alone."""
    ramp = np.interp(range(min(warmup, iterations - 1) + 1), [0, warmup], [1, accumulate]) if warmup else ()
    return [*(max(1, int(value.round())) for value in ramp), *[None] * (iterations - len(ramp))]


class Loop:
    """Ultralytics' loop around a step, as far as it counts iterations; each ``run`` is a process of its own."""

    def __init__(self, iterations, accumulate, warmup):
        self.sets, self.nominal, self.made = accumulates(iterations, accumulate, warmup), accumulate, []
        self.steps = None

    def run(self, start, end, own=True):
        """Iterations from ``start`` to before ``end``; without ``own``, Ultralytics' rule alone decides."""
        last_opt_step, now = -1, self.nominal
        steps = OptimizerSteps()
        steps.begin(now)
        if self.steps is not None:
            steps.resume(self.steps.last_step, {})
        self.steps = steps
        for iteration in range(start, end):
            now = self.sets[iteration] or now
            if own:
                now = steps.before_batch(iteration, now, self.sets[iteration] is not None)
            if iteration - last_opt_step >= now:
                steps.after_step(iteration)
                self.made.append(iteration)
                last_opt_step = iteration

    def stops_at(self, *points):
        for start, end in pairwise([0, *points, len(self.sets)]):
            self.run(start, end)
        return self.made


def uninterrupted(*settings):
    loop = Loop(*settings)
    loop.run(0, len(loop.sets), own=False)
    return loop.made


@pytest.mark.parametrize("accumulate", [1, 2, 3, 4, 7, 16, 32, 64])
def test_steps_come_after_a_resume_where_ultralytics_makes_them_without(accumulate):
    for warmup in (0, 1, 3, 6, 12, 30, 100):
        settings = 140, accumulate, warmup
        expected = uninterrupted(*settings)
        assert Loop(*settings).stops_at() == expected
        for cut in range(140):
            assert Loop(*settings).stops_at(cut) == expected, (warmup, cut)


def test_of_every_ramp_a_run_that_is_resumed_three_times():
    random = np.random.default_rng(0)
    for accumulate, warmup in product(range(1, 65), range(101)):
        cuts = sorted(random.integers(0, 130, 3).tolist())
        found = Loop(130, accumulate, warmup).stops_at(*cuts)
        assert found == uninterrupted(130, accumulate, warmup), (accumulate, warmup, cuts)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    accumulate=st.integers(1, 64),
    warmup=st.integers(0, 100),
    cuts=st.lists(st.integers(0, 200), max_size=12).map(sorted),
)
def test_however_often_a_run_is_resumed(accumulate, warmup, cuts):
    assert Loop(200, accumulate, warmup).stops_at(*cuts) == uninterrupted(200, accumulate, warmup)


def test_an_epoch_that_is_repeated_steps_as_ultralytics_does():
    """After NaN it counts from −1 again, and the first batch brings a step."""
    steps = OptimizerSteps()
    steps.begin(4)
    steps.resume(10, {"weight": torch.ones(1)})
    steps.forget()
    assert steps.gradients is None
    assert steps.before_batch(8, 4, warming_up=False) == 1
    steps.after_step(8)
    assert [steps.before_batch(i, 4, warming_up=False) == 1 for i in (9, 10, 11, 12)] == [False, False, False, True]


class Scaler:
    """A gradient scaler as far as it is asked: of a GPU with fp16, or off."""

    def __init__(self, scale=None):
        self.scale = scale

    def is_enabled(self):
        return self.scale is not None

    def get_scale(self):
        return self.scale or 1.0


def waiting(weight, scale=1.0):
    """A model with a gradient for its bias, and steps that hold one for its weight."""
    model, steps = nn.Linear(1, 2), OptimizerSteps()
    model.bias.grad = torch.ones(2)
    steps.resume(3, {"weight": torch.tensor(weight).reshape(2, 1)}, scale)
    return model, steps


def test_gradients_that_waited_are_put_back_once():
    model, steps = waiting([7.0, 8.0])
    steps.restore_gradients(model, Scaler())
    assert model.weight.grad.flatten().tolist() == [7, 8]
    assert model.bias.grad is None
    assert steps.gradients is None
    model.weight.grad = None
    steps.restore_gradients(model, Scaler())
    assert model.weight.grad is None


@pytest.mark.parametrize(
    ("before", "now", "factor"), [(1.0, None, 1), (1024.0, 1024.0, 1), (1024.0, 256.0, 1 / 4), (1024.0, None, 1 / 1024)]
)
def test_gradients_get_the_scale_of_the_scaler_that_steps(before, now, factor):
    model, steps = waiting([1 / 3, -5.0], before)
    steps.restore_gradients(model, Scaler(now))
    assert torch.equal(model.weight.grad.flatten(), torch.tensor([1 / 3, -5.0]) * factor)


def test_a_real_scaler_steps_as_if_there_had_been_no_resume():
    def step(model, scaler):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler.scale(model(torch.full((1, 1), 0.7)).sum()).backward()
        scaler.step(optimizer)
        return model.weight.detach().flatten().tolist()

    scaler, resumed = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (2.0**12, 2.0**16))
    whole = nn.Linear(1, 2)
    other = copy.deepcopy(whole)
    scaler.scale(whole(torch.full((1, 1), 0.3)).square().sum()).backward()
    steps = OptimizerSteps()
    steps.resume(0, {n: p.grad.clone() for n, p in whole.named_parameters()}, scaler.get_scale())
    resumed.load_state_dict(scaler.state_dict())
    steps.restore_gradients(other, resumed)
    assert step(other, resumed) == step(whole, scaler)


def test_gradients_that_overflowed_are_kept_for_a_scaler_to_skip_and_left_out_without_one(caplog):
    for now, kept in ((64.0, True), (None, False)):
        model, steps = waiting([float("inf"), 1.0], 64.0)
        steps.restore_gradients(model, Scaler(now))
        assert (model.weight.grad is not None) is kept
        assert steps.gradients is None
    model, steps = waiting([float("nan"), 1.0])  # never scaled: the run goes on as it would have
    steps.restore_gradients(model, Scaler())
    assert bool(model.weight.grad.isnan().any())


def test_gradients_move_to_the_device_and_dtype_of_their_parameter():
    for place in ({"device": "meta"}, {"dtype": torch.float64}):
        model, steps = waiting([7.0, 8.0])
        model.to(**place)
        steps.restore_gradients(model, Scaler())
        assert (model.weight.grad.device, model.weight.grad.dtype) == (model.weight.device, model.weight.dtype)


def stepped(flags, scaler=None, state=None, model=None):
    """A step of AdamW with these flags, on a state if there is one; the optimizer and its model."""
    model = model or nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, **flags)
    if state is not None:
        load_optimizer_state(optimizer, state)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    scaler.scale(model(torch.arange(3.0)).square().sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    optimizer.zero_grad()
    return optimizer, model


@pytest.mark.parametrize("flags", [({}, {"fused": True}), ({"fused": True}, {}), ({"foreach": True}, {"fused": True})])
def test_an_optimizer_computes_as_the_new_device_wants_and_not_as_the_old(flags):
    """A fused AdamW under a scaler fails if its groups say that it is not; CPUs have one, too."""
    torch.manual_seed(0)
    old, new = flags
    first, model = stepped(old)
    twin, states = copy.deepcopy(model), [copy.deepcopy(first.state_dict()) for _ in range(2)]
    resumed, _ = stepped(new, torch.amp.GradScaler("cpu"), states[0], model)
    fresh = torch.optim.AdamW(model.parameters(), **new)
    for flag in ("fused", "foreach", "capturable"):
        assert [group[flag] for group in resumed.param_groups] == [group[flag] for group in fresh.param_groups]
    assert [group["lr"] for group in resumed.param_groups] == [0.1]
    assert {float(s["step"]) for s in resumed.state.values()} == {2.0}
    stepped(old, state=states[1], model=twin)
    assert torch.allclose(model.weight, twin.weight, atol=1e-6)


def test_the_step_count_of_an_optimizer_lies_where_its_kernel_looks_for_it():
    first, model = stepped({})
    for flags, device in (({"capturable": True}, "meta"), ({}, "cpu")):
        optimizer = torch.optim.AdamW(model.to("meta").parameters(), **flags)
        load_optimizer_state(optimizer, first.state_dict())
        assert {s["step"].device.type for s in optimizer.state.values()} == {device}
        assert {s["exp_avg"].device.type for s in optimizer.state.values()} == {"meta"}


def test_flags_that_an_optimizer_does_not_have_are_not_given_to_it():
    weights = [nn.Parameter(torch.ones(2, 2))]
    optimizer = MuSGD(weights, lr=0.1, momentum=0.9)
    load_optimizer_state(optimizer, copy.deepcopy(optimizer.state_dict()))
    assert not {"fused", "foreach", "capturable"} & optimizer.param_groups[0].keys()


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
