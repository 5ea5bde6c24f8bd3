"""The freeze schedule as a pure function, and applied to a backbone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from kdyolo.errors import ConfigError, RunError
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.freeze_schedule import ALL, PARTS, FreezeSchedule
from kdyolo.models.freezing import BackboneFreezer, apply_schedule, nested_layers

EPOCHS = st.integers(1, 300)
FREEZE = st.one_of(st.just(ALL), st.integers(0, 400))


@given(FREEZE, EPOCHS)
def test_frozen_first_and_never_again(freeze, epochs):
    schedule = FreezeSchedule(freeze, epochs)
    phases = [schedule.is_frozen(epoch) for epoch in range(epochs)]
    assert phases == sorted(phases, reverse=True)
    assert sum(phases) == (epochs if freeze == ALL else min(freeze, epochs)) == schedule.frozen_epochs
    assert bool(schedule.unfreezes) == (phases != [phases[0]] * epochs)


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
        thawed = schedule.unfreezes.get(epoch, ())
        if epoch:
            assert set(before) - set(frozen) == set(thawed)
        before = frozen
    assert schedule.frozen_parts(schedule.frozen_epochs) == schedule.frozen_parts(schedule.epochs + 1000) or (
        schedule.frozen_epochs == schedule.epochs
        or any(schedule.unfreeze_epochs[p] >= schedule.epochs for p in schedule.frozen_parts(schedule.frozen_epochs))
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
        elif schedule.unfreeze_epochs[part] == 0:
            assert factor == schedule.backbone_lr
        elif progress >= schedule.unfreeze_epochs[part] + schedule.thaw_warmup:
            assert factor == pytest.approx(schedule.backbone_lr) or progress == schedule.unfreeze_epochs[part]
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
    for words in ("0.1 × the head's", "rises over 3 epochs", "statistics never move"):
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


# ---- the schedule applied to a backbone ------------------------------------------------------------------------------


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return DistilledBackbone("yolov8n")


def trains(backbone):
    return {part for part, layers in backbone.parts.items() if all(p.requires_grad for p in layers[0].parameters())}


def test_a_freezer_freezes_and_unfreezes_part_by_part_and_folds_only_while_all_is_frozen(backbone):
    freezer = BackboneFreezer(FreezeSchedule(unfreeze_stages="1:p5,2:all", epochs=4))
    seen = []
    for epoch in (0, 1, 2, 0, 0):  # an epoch may come again, after NaN
        freezer.apply(backbone, epoch, fold=True)
        seen.append((trains(backbone), backbone.folded))
    everything = set(PARTS)
    assert seen == [(set(), True), ({"p5"}, False), (everything, False), (set(), True), (set(), True)]
    freezer.apply(backbone, 0, fold=False)
    assert not backbone.folded
    assert [freezer.unfrozen_in(epoch) for epoch in range(4)] == ["", "p5", "stem, p2, p3, p4", ""]
    assert BackboneFreezer(FreezeSchedule(2, epochs=4)).unfrozen_in(2) == "backbone"


def test_a_plain_schedule_leaves_a_layer_freeze_of_ultralytics_alone(backbone):
    backbone.layers[3].requires_grad_(False)
    BackboneFreezer(FreezeSchedule(0, epochs=4)).apply(backbone, 0)
    assert not any(p.requires_grad for p in backbone.layers[3].parameters())


def test_a_frozen_tensor_that_changes_in_one_bit_is_named(backbone):
    freezer = BackboneFreezer(FreezeSchedule(unfreeze_stages="1:p5,2:all", epochs=4))
    freezer.remember(backbone)
    twin = {"model": backbone, "EMA": backbone}
    freezer.check(twin, 0, "train.log")
    with torch.no_grad():
        backbone.layers[9].cv1.bn.running_var[0] = torch.nextafter(
            backbone.layers[9].cv1.bn.running_var[0], torch.zeros(())
        )
    assert freezer.changed(backbone, 0) == ["9.cv1.bn.running_var"]
    assert freezer.changed(backbone, 1) == []  # p5 trains by then
    with pytest.raises(
        RunError, match=r"in epoch 1, 1 tensors .* changed in the model, e\.g\. 9\.cv1\.bn\.running_var"
    ):
        freezer.check(twin, 0, "train.log")


def test_what_is_frozen_gets_its_own_tensors_back_and_what_trains_keeps_its_new_ones(backbone):
    freezer = BackboneFreezer(FreezeSchedule(unfreeze_stages="1:p5,2:all", epochs=4))
    freezer.remember(backbone)
    before = {name: tensor.clone() for name, tensor in backbone.layers.state_dict().items()}
    with torch.no_grad():
        for parameter in backbone.layers.parameters():
            parameter.copy_(parameter.half())  # as Ultralytics' checkpoint rounds them
    freezer.restore(backbone, 1)
    after = backbone.layers.state_dict()
    p5 = backbone.names_in(["p5"])
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert "9.cv1.conv.weight" in changed
    assert changed <= p5


def test_nothing_is_remembered_of_a_backbone_that_starts_to_train_at_once(backbone):
    freezer = BackboneFreezer(FreezeSchedule(0, epochs=4, backbone_lr=0.1))
    freezer.remember(backbone)
    assert freezer.frozen_tensors == {}
    assert freezer.changed(backbone, 0) == []


def test_parts_that_a_backbone_does_not_have_are_refused(backbone):
    shallow = DistilledBackbone("yolov8n", levels=("P2", "P3", "P4"))
    freezer = BackboneFreezer(FreezeSchedule(unfreeze_stages="1:p5,2:all", epochs=4))
    freezer.check_parts(backbone, "a.yaml")
    with pytest.raises(ConfigError, match=r"names p5, which a\.yaml does not have; its parts are stem, p2, p3, p4\."):
        freezer.check_parts(shallow, "a.yaml")


class Nested:
    """A model whose first three stock layers lie in row 0."""

    def nested_layer(self, number):
        return f"0.layers.{number}" if number < 3 else str(number - 2)


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        (4, ["0.layers.0", "0.layers.1", "0.layers.2", "1"]),
        ([2, "5.cv1"], ["0.layers.2", "3.cv1"]),
        (["dfl"], ["dfl"]),
        ([], []),
    ],
    ids=str,
)
def test_a_layer_freeze_counts_stock_layers(freeze, expected):
    assert nested_layers(Nested(), freeze) == expected
