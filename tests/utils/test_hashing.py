"""SHA-256 of a file, as ``sha256sum`` has it."""

import hashlib

import pytest

from kdyolo.utils import hashing


@pytest.mark.parametrize("size", [0, 1, 5, 10, 11])
def test_it_is_the_digest_of_all_bytes(size, tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "_PIECE", 5)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(size)))
    assert hashing.sha256_of_file(path) == hashlib.sha256(bytes(range(size))).hexdigest()


def test_a_person_who_waits_sees_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("kdyolo.utils.progress.PATIENCE", 0)
    (tmp_path / "large.pt").write_bytes(b"x" * 10)
    hashing.sha256_of_file(tmp_path / "large.pt")
    assert "hashing large.pt 100%  1/1 MiB" in capsys.readouterr().err
