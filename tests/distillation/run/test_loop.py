"""Loop of a distillation: it does not go on from what is no number."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from kdyolo.distillation.run.loop import DistillLoop
from kdyolo.errors import RunError


@pytest.mark.parametrize(
    ("loss", "held_out", "says"),
    [
        (math.nan, {}, r"the loss is nan in epoch 3: it diverged\. .*smaller --lr \(it was 5\)"),
        (0.5, {"val/loss": 0.5, "rank/P3": math.inf}, "rank/P3 on held-out images is inf in epoch 3"),
    ],
)
def test_a_run_that_diverged_ends(loss: float, held_out: dict[str, float], says: str) -> None:
    """The last step of an epoch may spoil the weights, which its own loss does not show."""
    loop: Any = SimpleNamespace(epoch=2, options=SimpleNamespace(lr=5.0))
    DistillLoop._check_finite(loop, 0.5, {"val/loss": 0.5})
    with pytest.raises(RunError, match=says):
        DistillLoop._check_finite(loop, loss, held_out)
