"""COCO's JSON files: what unpacks to far more than annotations do is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from kdyolo.coco_json.files import read_bytes
from kdyolo.errors import DatasetError


def test_what_unpacks_to_far_too_much_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.json.gz").write_bytes(gzip.compress(b" " * (1 << 20)))
    assert len(read_bytes(tmp_path / "small.json.gz")) == 1 << 20
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * ((1 << 24) + 1)))
    with pytest.raises(DatasetError, match=r"bomb\.json\.gz: refused, it unpacks to more than 100 times its"):
        read_bytes(tmp_path / "bomb.json.gz")
