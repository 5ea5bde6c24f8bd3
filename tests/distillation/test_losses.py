"""Losses by hand, and that a cell without weight changes none of them."""

from __future__ import annotations

import pytest
import torch

from kdyolo.distillation.losses import LOSSES, cosine_loss, mse_loss, pkd_loss, relation_loss
from kdyolo.distillation.options import LOSS_NAMES

ONES = torch.ones(1, 1, 1, 2)


def test_the_options_name_every_loss() -> None:
    assert tuple(LOSSES) == LOSS_NAMES


def test_cosine_by_hand() -> None:
    predicted = torch.tensor([[[[1.0, 1.0]], [[0.0, 0.0]]]])
    target = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    # The first cell agrees; the second is at a right angle: 0.9 · 1 + 0.1 · mean(0.5, 0.5).
    assert float(cosine_loss(predicted, target, ONES)) == pytest.approx(0.95 / 2)


def test_mse_by_hand() -> None:
    assert float(mse_loss(torch.zeros(1, 2, 1, 2), torch.full((1, 2, 1, 2), 3.0), ONES)) == pytest.approx(9)


def test_pkd_is_one_minus_the_correlation() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    expected = 1 - float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
    assert float(pkd_loss(a * 5 + 2, b, torch.ones(2, 1, 4, 4))) == pytest.approx(expected, abs=1e-4)


def test_relations_do_not_change_when_all_cells_are_rotated_alike() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 4)
    turned = torch.einsum("ij,bjhw->bihw", torch.linalg.qr(torch.randn(3, 3))[0], features)
    assert float(relation_loss(features, turned, torch.ones(2, 1, 4, 4))) == pytest.approx(0, abs=1e-6)
    assert float(relation_loss(features, torch.randn(2, 3, 4, 4), torch.ones(2, 1, 4, 4))) > 0.01


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_a_cell_of_padding_counts_nowhere(name: str) -> None:
    torch.manual_seed(0)
    predicted, target, weight = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    weight[:, :, 0] = 0
    before = LOSSES[name](predicted, target, weight)
    predicted[:, :, 0], target[:, :, 0] = 50, -9
    torch.testing.assert_close(LOSSES[name](predicted, target, weight), before)
