"""results.csv of a distillation: a row for each epoch, and the columns that the run began with."""

from __future__ import annotations

from pathlib import Path

from kdyolo.distillation.run.results import append_row


def test_a_run_keeps_the_columns_that_it_began_with(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    append_row(path, {"epoch": 1, "val/loss": 0.5})
    append_row(path, {"epoch": 2, "content/P3": 0.3, "val/loss": 0.25})
    assert path.read_text() == "epoch,val/loss\n1,0.5\n2,0.25\n"
