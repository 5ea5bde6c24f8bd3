"""Rows of ``results.csv`` that a resumed run drops: those it will write again, and one that was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdyolo.errors import RunError
from kdyolo.runs.results_csv import drop_rows_after


def test_rows_of_epochs_that_are_done_again_go_and_so_does_one_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("epoch,loss\n1,0.5\n\n2,0.4\n3,0.3\n4,0.")
    drop_rows_after(path, 2)
    assert path.read_text() == "epoch,loss\n1,0.5\n2,0.4\n"


@pytest.mark.parametrize("content", ["", "epoch,loss\n"])
def test_without_rows_nothing_is_dropped(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.csv"
    drop_rows_after(path, 1)
    assert not path.exists()
    path.write_text(content)
    drop_rows_after(path, 1)
    assert path.read_text() == content


@pytest.mark.parametrize(
    "row", [b"\xff\xfee\x00\n\x00", b"\x1b]52;c;ZXZpbA==\x07", b"x,1", b"nan,1", b"1e400,1", b",1"]
)
def test_rows_that_are_of_no_epoch_are_one_error(tmp_path: Path, row: bytes) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(b"epoch,loss\n1,0.5\n" + row + b"\n")
    with pytest.raises(
        RunError, match=r"results\.csv: expected rows that begin with the number of an epoch, found"
    ) as e:
        drop_rows_after(path, 1)
    assert str(e.value).isprintable()
