"""SHA-256 of a file, as ``sha256sum`` has it."""

import hashlib

import pytest

from kdyolo.utils import hashing


@pytest.mark.parametrize("version", [None, (3, 10)])
@pytest.mark.parametrize("size", [0, 1, 5, 10, 11])
def test_it_is_the_digest_of_all_bytes(size, version, tmp_path, monkeypatch):
    if version:
        monkeypatch.setattr(hashing.sys, "version_info", version)
    monkeypatch.setattr(hashing, "_PIECE", 5)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(size)))
    assert hashing.sha256_of_file(path) == hashlib.sha256(bytes(range(size))).hexdigest()
