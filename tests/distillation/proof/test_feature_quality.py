"""Feature quality by hand: centred cosine, dead channels, effective rank, and that padding counts nowhere."""

from __future__ import annotations

import math

import pytest
import torch

from kdyolo.distillation.proof.feature_quality import FeatureQualityMeter, centred_cosine, effective_rank

ONES = torch.ones(4, 1, 6, 6)


def maps(seed: int, channels: int = 8) -> torch.Tensor:
    return torch.randn(4, channels, 6, 6, generator=torch.Generator().manual_seed(seed))


def measured(predicted, target, weight=ONES, features=None, batch=4, **how):
    meter = FeatureQualityMeter(len(target), **how)
    for i in range(0, len(target), batch):
        part = slice(i, i + batch)
        meter.update(predicted[part], target[part], weight[part], None if features is None else features[part])
    return meter.result()


def test_cosine_by_hand() -> None:
    predicted = torch.tensor([[3.0, 5.0], [1.0, 5.0], [2.0, 6.0], [2.0, 4.0]])  # mean 2, 5: right, left, up, down
    target = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])  # mean 0: right, left, right, left
    assert centred_cosine(predicted, target, torch.ones(4)) == pytest.approx(0.5)


def test_the_target_itself_scores_one_and_its_opposite_minus_one() -> None:
    target = maps(0) + 3
    assert measured(target * 2 + 7, target).centred_cosine == pytest.approx(1)
    assert measured(-target, target).centred_cosine == pytest.approx(-1)


@pytest.mark.parametrize("constant", [0.0, 1.0, 1e4])
def test_predicting_a_constant_scores_nothing(constant: float) -> None:
    target = maps(0) + torch.arange(8.0)[:, None, None]  # whose plain cosine to its mean is high
    mean = target.mean((0, 2, 3), keepdim=True).expand_as(target)
    assert float(torch.cosine_similarity(mean, target, dim=1).mean()) > 0.8
    assert measured(mean + constant, target).centred_cosine == 0


def test_other_images_targets_score_about_nothing() -> None:
    assert abs(measured(maps(1, 64), maps(2, 64)).centred_cosine) < 0.05


def test_without_position_only_what_images_change_counts() -> None:
    place, content = maps(0)[:1] * 3, maps(1)
    target = place + content
    of_place = measured(place.expand_as(target) + 1e-3 * maps(2), target)
    assert of_place.centred_cosine > 0.9
    assert abs(of_place.content_cosine) < 0.15  # of 144 cells with 8 channels
    assert measured(content * 2, target).content_cosine == pytest.approx(1)
    assert measured(place.expand_as(target), target).content_cosine == 0


def test_a_cell_that_one_image_has_says_nothing_without_position() -> None:
    predicted, target, weight = maps(0) + maps(1), maps(1), ONES.clone()
    weight[1:, :, 3:] = 0
    lower = measured(predicted[:, :, :3], target[:, :, :3], weight[:, :, :3])
    assert measured(predicted, target, weight).content_cosine == pytest.approx(lower.content_cosine)
    assert measured(predicted[:1], target[:1], weight[:1]).content_cosine == 0


def test_batches_make_no_difference() -> None:
    predicted, target = maps(0) + maps(1), maps(1)
    whole, single = measured(predicted, target), measured(predicted, target, batch=1)
    assert whole.centred_cosine == pytest.approx(single.centred_cosine, abs=1e-12)
    assert whole.effective_rank == pytest.approx(single.effective_rank, abs=1e-9)
    assert whole.content_cosine == pytest.approx(single.content_cosine, abs=1e-12)
    assert 0.6 < whole.centred_cosine < 0.8


def test_padding_counts_nowhere() -> None:
    predicted, target, weight = maps(0) + maps(1), maps(1), ONES.clone()
    weight[:, :, :2] = 0
    before = measured(predicted, target, weight)
    predicted[:, :, :2], target[:, :, :2] = 100, -50
    assert measured(predicted, target, weight) == before
    cut = measured(predicted[:, :, 2:], target[:, :, 2:], weight[:, :, 2:])
    assert cut.centred_cosine == pytest.approx(before.centred_cosine)


def test_few_kept_cells_tell_nearly_the_same_and_come_from_every_image() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(8, 16, 20, 20, generator=generator)
    predicted = target + torch.randn(8, 16, 20, 20, generator=generator)
    ones = torch.ones(8, 1, 20, 20)
    kept, whole = measured(predicted, target, ones, most_cells=400), measured(predicted, target, ones)
    assert kept.centred_cosine == pytest.approx(whole.centred_cosine, abs=0.02)
    assert kept.centred_cosine != whole.centred_cosine
    assert kept.effective_rank == whole.effective_rank


def test_dead_channels_are_those_of_the_students_own_map() -> None:
    features = maps(0)
    features[:, :2] = torch.tensor([0.0, 5.0])[:, None, None]
    assert measured(maps(1), maps(2), features=features).dead_channels == 0.25
    assert measured(maps(1), maps(2)).dead_channels == 0
    assert measured(torch.zeros(4, 8, 6, 6), maps(2)).dead_channels == 1


def test_rank_by_hand() -> None:
    two = torch.tensor([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])  # singular values 3 : 1
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(two + 9) == pytest.approx(math.exp(entropy))
    assert effective_rank(torch.eye(5) * 2 - 1) == pytest.approx(4)  # the mean is taken off
    assert effective_rank(torch.ones(6, 3)) == 0


def test_rank_of_the_meter_is_that_of_all_cells() -> None:
    features = torch.einsum("cd,bdhw->bchw", torch.randn(8, 3, generator=torch.Generator().manual_seed(5)), maps(3, 3))
    rows = features.permute(0, 2, 3, 1).reshape(-1, 8)
    found = measured(maps(0), maps(1), features=features).effective_rank
    assert found == pytest.approx(effective_rank(rows), rel=1e-6)
    assert found <= 3


def test_of_what_is_no_number_nothing_is_known() -> None:
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.nan], [0.0, 1.0]])))


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        FeatureQualityMeter(1).result()
