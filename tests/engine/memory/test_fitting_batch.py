"""The search for the batch that fits, and what ranks share of it, without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kdyolo.engine.memory.fitting_batch import batch_in_use, does_not_fit, largest_that_fits, refuse_autobatch
from kdyolo.errors import ConfigError


@pytest.mark.parametrize("room", range(12))
@pytest.mark.parametrize("most", [1, 2, 3, 8, 11])
def test_the_largest_that_fits_is_found_by_tries(most, room):
    tries: list[int] = []

    def fits(images: int) -> bool:
        tries.append(images)
        return images <= room

    assert largest_that_fits(fits, most) == min(most, room)
    assert 0 not in tries
    assert len(tries) <= 1 + most.bit_length()


@pytest.mark.parametrize(
    ("batch", "world_size", "used"), [(16, 0, 16), (16, 1, 16), (16, 4, 16), (16, 3, 15), (17, 2, 16)]
)
def test_ranks_use_what_they_can_share_evenly(batch, world_size, used):
    trainer: Any = SimpleNamespace(batch_size=batch, world_size=world_size)
    assert batch_in_use(trainer) == used


def test_the_advice_counts_all_devices():
    trainer: Any = SimpleNamespace(args=SimpleNamespace(batch=64, imgsz=640), device="cuda:0")
    assert does_not_fit(trainer, 11, 4).endswith("Use --batch 44 (11 on each of 4 devices), which does.")
    assert does_not_fit(trainer, 11, 1).endswith("Use --batch 11, which does.")
    assert "smaller --imgsz" in does_not_fit(trainer, 0, 1)


@pytest.mark.parametrize(("batch", "ranks"), [(-1, 1), (0.7, 1), (16, 4)])
def test_autobatch_is_for_a_single_device(batch, ranks):
    refuse_autobatch(batch, ranks)
    with pytest.raises(ConfigError, match=r"this run has 2\..*--batch 32"):
        refuse_autobatch(-1, 2)
