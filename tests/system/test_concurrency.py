"""Commands that meet in one folder: one round of what ``scripts/concurrency.py`` plays twenty times."""

from __future__ import annotations

import contextlib
import io

import pytest

from tests.builders.commands import script_module

KINDS = ("convert", "train", "ps")


@pytest.fixture(scope="module")
def said() -> str:
    """What the script said of one round of each kind, whose processes are forked from the server of these tests."""
    script = script_module("concurrency")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as ended:
        script.main(["--rounds", "1", "--what", *KINDS])
    return f"{output.getvalue()}\nended with {int(ended.value.code)}"


@pytest.mark.parametrize("what", KINDS)
def test_nothing_is_lost_and_the_second_is_told(said: str, what: str) -> None:
    assert f"{what:<8} 1 rounds, 0 wrong" in said, said
    assert "Traceback" not in said
    assert said.endswith("ended with 0")
