"""Models that are not there: nobody is asked for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ultralytics.utils import downloads

from kdyolo import KDYOLO
from kdyolo.checkpoints.checks.missing_models import refuse_missing
from kdyolo.errors import CheckpointError


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked of the network, of which nothing is answered."""
    found: list[Any] = []
    monkeypatch.setattr(downloads, "get_github_assets", lambda *given: found.append(given) or ("", []))
    monkeypatch.setattr(downloads, "safe_download", lambda **given: found.append(given))
    return found


def links(folder: Path) -> list[Path]:
    """A link in a circle, and official names that lead nowhere."""
    circle, nowhere, official = folder / "circle.pt", folder / "nowhere.pt", folder / "yolov8n.pt"
    circle.symlink_to(circle)
    nowhere.symlink_to(folder / "gone.pt")
    official.symlink_to(folder / "elsewhere.pt")
    return [circle, nowhere, official]


@pytest.mark.parametrize("trust", [False, True])
def test_links_that_lead_nowhere_are_refused(tmp_path: Path, asked: list[Any], trust: bool) -> None:
    for path in links(tmp_path):
        for given in ({"model": path}, {"weights": path}):
            with pytest.raises(CheckpointError, match="leads nowhere"):
                KDYOLO(**given, trust=trust)
    assert not asked
    assert not (tmp_path / "elsewhere.pt").exists()


@pytest.mark.parametrize("trust", [False, True])
def test_a_name_that_nothing_has_is_refused(tmp_path: Path, asked: list[Any], trust: bool) -> None:
    for given in ({"model": tmp_path / "best.pt"}, {"weights": tmp_path / "best.pt"}):
        with pytest.raises(CheckpointError, match=r"best\.pt: no such file"):
            KDYOLO(**given, trust=trust)
    with pytest.raises(CheckpointError, match=r"best\.pt: no such file"):
        KDYOLO("kdyolov8n.yaml").load(str(tmp_path / "best.pt"))
    assert not asked


def test_official_names_and_addresses_are_left_to_ultralytics() -> None:
    for name in ("yolov8n.pt", "yolo11n", "yolov5s.pt", "https://example.org/best.pt"):
        refuse_missing(name)
