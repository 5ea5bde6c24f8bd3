"""What stands at the end of a training: the next commands, and a sentence where it has learned next to nothing."""

from __future__ import annotations

import pytest

from kdyolo.cli.parsing.next_steps import after_training


@pytest.mark.parametrize(
    ("best", "epochs", "words"),
    [
        (0.0, 1, "mAP50-95 is 0.000 after 1 epoch: that is usual of a random head"),
        (0.004, 10, "after 10 epochs: that is usual of a random head"),
        (0.004, 60, "after 60 epochs: look at the boxes with --dry-run"),
        (0.02, 2, ""),
        (None, 2, ""),
    ],
)
def test_a_run_that_has_learned_nothing_is_told_what_to_do(best, epochs, words):
    result = {"run": "r", "best": "r/best.pt", "data": "d.yaml", "images": None, "epochs": epochs, "mAP50-95": best}
    before, commands = after_training(result).split("\nnext:\n")
    assert words in before
    assert bool(before) is bool(words)
    assert commands.splitlines()[0] == "  kdyolo val r/best.pt d.yaml --errors"
