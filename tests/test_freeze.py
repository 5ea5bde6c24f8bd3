"""The freeze schedule as a pure function, and early stopping around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from ultralytics.utils.torch_utils import EarlyStopping

from kdyolo.errors import ConfigError
from kdyolo.freeze import ALL, EarlyStoppingAfterThaw, FreezeSchedule, set_frozen

EPOCHS = st.integers(1, 300)
FREEZE = st.one_of(st.just(ALL), st.integers(0, 400))


@given(FREEZE, EPOCHS)
def test_frozen_first_and_never_again(freeze, epochs):
    schedule = FreezeSchedule(freeze, epochs)
    phases = [schedule.is_frozen(epoch) for epoch in range(epochs)]
    assert phases == sorted(phases, reverse=True)
    assert sum(phases) == (epochs if freeze == ALL else min(freeze, epochs)) == schedule.frozen_epochs
    assert schedule.thaws == (phases != [phases[0]] * epochs)


@given(st.integers(0, 50), EPOCHS)
def test_a_longer_run_has_the_same_phases(freeze, epochs):
    short, long = FreezeSchedule(freeze, epochs), FreezeSchedule(freeze, epochs + 7)
    assert [short.is_frozen(e) for e in range(epochs)] == [long.is_frozen(e) for e in range(epochs)]


@pytest.mark.parametrize(("text", "expected"), [("50", 50), (50, 50), ("0", 0), ("all", ALL), ("ALL", ALL)], ids=str)
def test_parse(text, expected):
    assert FreezeSchedule.parse(text) == expected


@pytest.mark.parametrize("text", ["-1", "1.5", "half", "", True, None])
def test_parse_refuses(text):
    with pytest.raises(ConfigError, match="'all'"):
        FreezeSchedule.parse(text)


@pytest.mark.parametrize("value", [-1, 2.0, "some", None])
def test_refuses_other_values(value):
    with pytest.raises(ConfigError):
        FreezeSchedule(value, 10)


@pytest.mark.parametrize(
    ("freeze", "epochs", "expected"),
    [
        (50, 100, "epochs 1–50: backbone frozen (1.3 M of 3.2 M parameters), from 51: all"),
        (0, 3, "epochs 1–3: all 3.2 M parameters train, nothing is frozen"),
        ("all", 3, "epochs 1–3: backbone frozen (1.3 M of 3.2 M parameters); it never thaws"),
        (3, 3, "epochs 1–3: backbone frozen (1.3 M of 3.2 M parameters); it never thaws"),
        (9, 3, "it never thaws, because freezing lasts 9 and the run 3 epochs"),
    ],
)
def test_plan_in_words(freeze, epochs, expected):
    plan = FreezeSchedule(freeze, epochs).describe(1_272_656, 3_157_200)
    assert expected in plan


def test_set_frozen_stops_gradients_and_every_statistic():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.BatchNorm1d(4)).train()
    set_frozen(module, True)
    assert not any(p.requires_grad for p in module.parameters())
    assert not any(m.training for m in module.modules())
    set_frozen(module, False)
    assert all(p.requires_grad for p in module.parameters())
    assert all(m.training for m in module.modules())


def stops_after(stopper, fitness):
    """Epoch (from 1) after which the stopper ends a run with these fitness values, or None."""
    return next((epoch for epoch, value in enumerate(fitness, start=1) if stopper(epoch, value)), None)


def test_patience_counts_from_the_thaw():
    plateau = [0.5] + [0.4] * 30
    assert stops_after(EarlyStopping(3), plateau) == 4
    assert stops_after(EarlyStoppingAfterThaw(3, frozen_epochs=10), plateau) == 13


def test_an_improvement_after_the_thaw_restarts_the_count():
    fitness = [0.5] + [0.4] * 10 + [0.6] + [0.4] * 20  # best in epoch 12, frozen until 10
    assert stops_after(EarlyStoppingAfterThaw(3, frozen_epochs=10), fitness) == 15


def test_without_a_freeze_it_is_ultralytics():
    for fitness in ([0.1, 0.2, 0.3] + [0.2] * 9, [0.5] + [0.4] * 9, [0.0] * 9 + [0.1] + [0.0] * 9):
        assert stops_after(EarlyStoppingAfterThaw(4, 0), fitness) == stops_after(EarlyStopping(4), fitness)


def test_never_stops_while_everything_stays_frozen():
    assert stops_after(EarlyStoppingAfterThaw(2, frozen_epochs=20), [0.5] + [0.4] * 19) is None


def test_patience_zero_disables():
    assert stops_after(EarlyStoppingAfterThaw(0, frozen_epochs=2), [0.5] + [0.4] * 50) is None
