"""What only a GPU can show: mixed precision and NCCL across a thaw. Skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from tests.integration.test_together import run_across_a_thaw
from tests.system.test_distributed import parameters_that_differ, trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.parametrize("amp", [True, "fp16", "bf16", False])
def test_mixed_precision_across_a_thaw(train, checkpoint, amp):
    run_across_a_thaw(train, checkpoint, device="0", amp=amp)


def test_compiled_by_inductor(train, checkpoint):
    run_across_a_thaw(train, checkpoint, device="0", compile=True)


def test_autobatch(train, checkpoint):
    run_across_a_thaw(train, checkpoint, device="0", batch=0.1)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="takes two GPUs")
def test_two_gpus_are_equal_after_every_epoch_across_a_thaw(python, checkpoint, shapes, tmp_path):
    ranks = trained(python, checkpoint, shapes, tmp_path, "as it is", device="0,1")
    assert [parameters_that_differ(ranks, epoch) for epoch in range(4)] == [[]] * 4
    assert max(ranks[0]["gradients"].values()) < 1e-2
