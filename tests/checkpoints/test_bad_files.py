"""Files that are no checkpoint: each gets its own error, without running anything and with little memory."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.builders.commands import CHECKOUT, run_command

# What it is → the words that only its error has.
ERRORS = {
    "malicious pickle": r"refused, because reading it would run code for \w+\.mkdir\. .*--trust",
    "the same, before torch 1.6": r"refused, because reading it would run code for \w+\.mkdir\. .*--trust",
    "zip bomb": r"refused, its archive claims to hold more than the file's [\d,]+ bytes .*zip bomb",
    "truncated": r"damaged, truncated or not a file that torch.save wrote .*Copy or download it again",
    "text": r"not a weights file.* found a text file that starts with b'these are my",
    "folder": r"expected a weights file, found a folder",
    "0 bytes": r"the file is empty \(0 bytes\)",
    "web page": r"not a weights file\. It is a web page, so the download went wrong",
    "TorchScript": r"a TorchScript archive, which is a program\. .*save its state_dict\(\)",
    "optimizer only": r"no backbone tensor found, it holds the state of an optimizer",
}
INTERPRETER = 16 << 20  # bytes that Python itself may take


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Sizes, peak memory and errors, each taken in a process of its own that has torch imported."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from /proc, which is Linux's")
    folder = tmp_path_factory.mktemp("bad")
    script = CHECKOUT / "scripts/bad_files.py"
    command = (sys.executable, script, "--megabytes", "16", "--json")
    done = run_command(*command, cwd=folder, fresh=True, PYTHONPATH=str(CHECKOUT))
    assert not list(folder.iterdir())  # the payload did not run
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    assert found.keys() == ERRORS.keys()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ERRORS)
def test_each_gets_its_own_error(refusals: dict[str, dict[str, Any]], kind: str) -> None:
    error = refusals[kind]["error"]
    assert [k for k, words in ERRORS.items() if re.search(words, error) and words != ERRORS[kind]] == []
    assert re.search(ERRORS[kind], error)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ERRORS)
def test_none_takes_more_memory_than_three_times_its_size(refusals: dict[str, dict[str, Any]], kind: str) -> None:
    found = refusals[kind]
    assert found["bytes"] <= 3 * found["size"] + INTERPRETER


@pytest.mark.slow
def test_a_bomb_would_not_have_fitted(refusals: dict[str, dict[str, Any]]) -> None:
    """Unpacked it is 512 MB: the limit above tells a bomb that went off from one that did not."""
    assert 3 * refusals["zip bomb"]["size"] + INTERPRETER < (32 * 16 << 20) / 10
