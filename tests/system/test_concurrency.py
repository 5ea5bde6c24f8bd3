"""Commands that meet in one folder: one round of what ``scripts/concurrency.py`` plays twenty times."""

from __future__ import annotations

import pytest

from tests.builders.commands import CHECKOUT
from tests.system.forkserver import ForkServer

KINDS = ("convert", "train", "ps")


@pytest.fixture(scope="module")
def said(python: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the script said of one round of each kind."""
    command = (CHECKOUT / "scripts/concurrency.py", "--rounds", 1, "--what", *KINDS)
    done = python.run(*command, cwd=tmp_path_factory.mktemp("concurrency"))
    return f"{done.stdout}{done.stderr}\nended with {done.returncode}"


@pytest.mark.parametrize("what", KINDS)
def test_nothing_is_lost_and_the_second_is_told(said: str, what: str) -> None:
    assert f"{what:<8} 1 rounds, 0 wrong" in said, said
    assert "Traceback" not in said
    assert said.endswith("ended with 0")
