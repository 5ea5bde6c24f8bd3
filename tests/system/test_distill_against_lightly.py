"""The comparison with LightlyTrain goes on where it was interrupted, and mixes no settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.commands import CHECKOUT, script_module


def test_finished_parts_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "scripts"))
    script = script_module("distill_against_lightly")
    measured: list[str] = []

    def measure(part: str) -> dict[str, float]:
        measured.append(part)
        return {f"{part} seconds": 2.0}

    file = tmp_path / "seed0-ours.json"
    for parts in (("distilled",), ("distilled", "probed")):
        results = script.Results(file, {"epochs": 3})
        for part in parts:
            results.once(part, lambda: measure(part))  # noqa: B023
    assert measured == ["distilled", "probed"]
    assert results.values() == {"distilled seconds": 2.0, "probed seconds": 2.0}
    with pytest.raises(SystemExit, match="take another --work"):
        script.Results(file, {"epochs": 4}).values()
