"""Commands that meet in one folder: one round of what ``scripts/concurrency.py`` plays twenty times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.commands import CHECKOUT
from tests.system.forkserver import ForkServer


@pytest.mark.parametrize("what", ["convert", "train", "ps"])
def test_nothing_is_lost_and_the_second_is_told(python: ForkServer, tmp_path: Path, what: str) -> None:
    done = python.run(CHECKOUT / "scripts/concurrency.py", "--rounds", 1, "--what", what, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{what:<8} 1 rounds, 0 wrong" in done.stdout
