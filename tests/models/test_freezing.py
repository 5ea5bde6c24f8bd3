"""The freeze schedule as a pure function, and early stopping around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from ultralytics.utils.torch_utils import EarlyStopping

from kdyolo.engine.optimizer import EarlyStoppingAfterUnfreeze
from kdyolo.errors import ConfigError
from kdyolo.models.freeze_schedule import ALL, PARTS, FreezeSchedule
from kdyolo.models.freezing import apply_schedule

EPOCHS = st.integers(1, 300)
FREEZE = st.one_of(st.just(ALL), st.integers(0, 400))


@given(FREEZE, EPOCHS)
def test_frozen_first_and_never_again(freeze, epochs):
    schedule = FreezeSchedule(freeze, epochs)
    phases = [schedule.is_frozen(epoch) for epoch in range(epochs)]
    assert phases == sorted(phases, reverse=True)
    assert sum(phases) == (epochs if freeze == ALL else min(freeze, epochs)) == schedule.frozen_epochs
    assert bool(schedule.thaws) == (phases != [phases[0]] * epochs)


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
    plan = FreezeSchedule(freeze, epochs).describe({"p2": 272_656, "p5": 1_000_000}, 3_157_200)
    assert expected in plan


@st.composite
def schedules(draw):
    """Any valid schedule: all at once, or part by part from deep to shallow."""
    epochs = draw(st.integers(1, 60))
    options = {"backbone_lr": draw(st.floats(0, 2)), "thaw_warmup": draw(st.floats(0, 5)), "epochs": epochs}
    if draw(st.booleans()):
        return FreezeSchedule(draw(FREEZE), **options)
    numbers = sorted(draw(st.lists(st.integers(0, 80), min_size=5, max_size=5)))
    named = draw(st.integers(1, 5))  # parts that thaw at all, deepest first
    stages = [f"{n}:{part}" for n, part in zip(numbers, reversed(PARTS), strict=True)][:named]
    return FreezeSchedule(unfreeze_stages=",".join(stages), **options)


@given(schedules())
def test_parts_thaw_once_and_from_deep_to_shallow(schedule):
    before = PARTS
    for epoch in range(schedule.epochs):
        frozen = schedule.frozen_parts(epoch)
        assert frozen == PARTS[: len(frozen)]
        assert len(frozen) <= len(before)
        thawed = schedule.thaws.get(epoch, ())
        if epoch:
            assert set(before) - set(frozen) == set(thawed)
        before = frozen
    assert schedule.frozen_parts(schedule.frozen_epochs) == schedule.frozen_parts(schedule.epochs + 1000) or (
        schedule.frozen_epochs == schedule.epochs
        or any(schedule.thaw_epochs[p] >= schedule.epochs for p in schedule.frozen_parts(schedule.frozen_epochs))
    )


@given(schedules(), st.integers(0, 59), st.floats(0, 1))
def test_a_learning_rate_for_what_trains_and_none_for_what_is_frozen(schedule, epoch, within):
    progress = epoch + within
    assert schedule.lr_factor("head", progress) == 1.0
    for part in PARTS:
        factor = schedule.lr_factor(part, progress)
        assert 0 <= factor <= schedule.backbone_lr
        if part in schedule.frozen_parts(epoch):
            assert factor == 0
        elif schedule.thaw_epochs[part] == 0:
            assert factor == schedule.backbone_lr
        elif progress >= schedule.thaw_epochs[part] + schedule.thaw_warmup:
            assert factor == pytest.approx(schedule.backbone_lr) or progress == schedule.thaw_epochs[part]
        assert schedule.lr_factor(part, progress + 0.1) >= factor


def test_the_ramp_after_a_thaw():
    schedule = FreezeSchedule(2, epochs=9, backbone_lr=0.1, thaw_warmup=2)
    factors = [schedule.lr_factor("p3", progress) for progress in (0, 1.9, 2, 2.5, 3, 4, 9)]
    assert factors == pytest.approx([0, 0, 0, 0.025, 0.05, 0.1, 0.1])


def test_parts_of_one_rate_share_a_group():
    assert set(FreezeSchedule(3, epochs=9).groups().values()) == {"backbone"}
    gradual = FreezeSchedule(unfreeze_stages="1:p5,2:p4,5:all", epochs=9)
    assert gradual.groups() == {"stem": "stem-p2-p3", "p2": "stem-p2-p3", "p3": "stem-p2-p3", "p4": "p4", "p5": "p5"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unfreeze_stages": "10:p6"}, "p6"),
        ({"unfreeze_stages": "p5"}, "EPOCHS:PART"),
        ({"unfreeze_stages": ""}, "EPOCHS:PART"),
        ({"unfreeze_stages": "1:p5,2:p5"}, "twice"),
        ({"unfreeze_stages": "10:p5,5:p4"}, "deep to shallow"),
        ({"unfreeze_stages": "10:p4"}, "p4 would thaw before p5"),
        ({"unfreeze_stages": "10:all", "freeze_epochs": 3}, "exclude each other"),
        ({"backbone_lr": -1}, "backbone_lr"),
        ({"backbone_lr": float("nan")}, "backbone_lr"),
        ({"thaw_warmup": "1"}, "thaw_warmup"),
        ({"freeze_bn": "never"}, "with-backbone, always"),
    ],
    ids=str,
)
def test_mistakes_in_a_schedule(options, words):
    with pytest.raises(ConfigError, match=words):
        FreezeSchedule(epochs=20, **options)


def test_all_mistakes_of_a_schedule_at_once():
    with pytest.raises(ConfigError) as error:
        FreezeSchedule(-1, epochs=9, unfreeze_stages="x", backbone_lr=-1, thaw_warmup=-1, freeze_bn="no")
    assert len(error.value.mistakes) == 6


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (
            "10:p5,20:p4,30:all",
            "1–10: backbone frozen (1.5 M of 3.0 M parameters), from 11: p5, from 21: p4, from 31: all",
        ),
        ("0:p5,20:all", "epochs 1–20: stem-p2-p3-p4 frozen (1.0 M of 3.0 M parameters), from 21: all"),
        ("10:p5", "from 11: p5; stem, p2, p3, p4 never thaw"),
        (
            "10:p5,200:all",
            "from 11: p5; stem, p2, p3, p4 never thaw, because freezing lasts 200 and the run 100 epochs",
        ),
    ],
)
def test_gradual_plan_in_words(stages, expected):
    plan = FreezeSchedule(unfreeze_stages=stages, epochs=100).describe({"p4": 1_000_000, "p5": 500_000}, 3_000_000)
    assert expected in plan


def test_notes_in_the_plan():
    plan = FreezeSchedule(2, epochs=9, backbone_lr=0.1, thaw_warmup=3, freeze_bn="always").describe({"p5": 1}, 3)
    for words in ("0.1 × the head's", "rises over 3 epoch(s)", "statistics never move"):
        assert words in plan


def test_a_frozen_part_has_no_gradients_and_no_moving_statistics():
    deep = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(), nn.BatchNorm1d(4)).train()
    parts = {"p4": [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))], "p5": [deep]}
    schedule = FreezeSchedule(unfreeze_stages="1:p5,2:all", epochs=4)
    for epoch, expected in enumerate([{"p4", "p5"}, {"p4"}, set(), set()]):
        apply_schedule(parts, schedule, epoch)
        for part, (layer,) in parts.items():
            trains = part not in expected
            assert {p.requires_grad for p in layer.parameters()} == {trains}
            assert {m.training for m in layer.modules()} == {trains}


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
