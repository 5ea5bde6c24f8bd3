"""The corpus of checkpoints: every file by its kind and name, with how it is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile import archives, pickles, stock
from tests.hostile.case import CheckpointCase


def cases() -> Iterator[CheckpointCase]:
    """The whole corpus."""
    for stream in pickles.STREAMS:
        for holder in pickles.HOLDERS:
            yield CheckpointCase(
                "pickle",
                f"{stream} in {holder}",
                _pickle(stream, holder),
                harmless=holder == "bare, second",
                rotates=True,
            )
    for name, content in archives.ZIP_TRICKS.items():
        yield CheckpointCase("zip", name, _bytes(content), harmless=name in _NOT_READ)
    for name, content in archives.UNUSUAL.items():
        yield CheckpointCase("unusual", name, _bytes(content), harmless=True)
    for name, content in archives.ODD_CONTENT.items():
        yield CheckpointCase("content", name, _bytes(content), harmless=True)
    for name, content in archives.SAFETENSORS.items():
        yield CheckpointCase("safetensors", name, _bytes(content), "bad.safetensors", harmless=name in _SOUND_HEADERS)
    for kind in ("zip", "legacy", "safetensors"):
        for length in archives.boundaries(kind):
            yield CheckpointCase(
                "cut", f"{kind} at {length}", _bytes(archives.cut(kind, length)), "cut.pt", rotates=True
            )
    for name, edit in stock.STOCK.items():
        yield CheckpointCase("stock", name, _stock(edit), "best.pt", harmless=name not in stock.NEVER_LOADED)
    yield from _names_and_kinds()


# Tricks in what no reader looks at: a sound pickle and its tensors come out, or nothing does.
_NOT_READ = {
    "link",
    "entries without end",
    "storage on a far device",
    "tensors' pickle, then an evil archive",
    "other case",
}
_SOUND_HEADERS = {"metadata of 10 MB", "metadata with escapes", "name with escapes", "no tensors", "float8", "hole"}


def _pickle(stream: str, holder: str) -> Callable[[Path, str], object]:
    return lambda path, marker: pickles.write_pickle(path, marker, stream, holder)


def _bytes(content: archives.Content) -> Callable[[Path, str], object]:
    return lambda path, marker: path.write_bytes(content(marker))


def _stock(edit: stock.Edit) -> Callable[[Path, str], object]:
    return lambda path, marker: path.write_bytes(stock.detector(edit, marker))


def _names_and_kinds() -> Iterator[CheckpointCase]:
    """Things under a checkpoint's name that are no file, and checkpoints under the names of other things."""

    def sidecar(content: bytes | None) -> Callable[[Path, str], object]:
        def write(path: Path, marker: str) -> None:
            path.write_bytes(archives.good_archive())
            beside = path.with_name(f"{path.name}.sha256")
            beside.mkdir() if content is None else beside.write_bytes(content)

        return write

    def loop(path: Path, marker: str) -> None:
        path.symlink_to(path)

    evil = pickles.in_archive(pickles.called(pickles.MKDIR, pickles.text("MARKER")), "tensor")
    for name, content in {
        "empty": b"",
        "one byte": b"\x80",
        "zeros": bytes(4096),
        "text": b"weights\n" * 999,
        "web page": b"<!DOCTYPE html><title>\x1b]0;evil\x07</title>",
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
        "escapes": b"\x1b]52;c;ZXZpbA==\x07\x9b2J" * 9,
        "ELF": b"\x7fELF" + bytes(99),
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99),
        "gzip": b"\x1f\x8b\x08" + bytes(99),
        "ONNX": b"\x08\x07\x12\x07pytorch" + bytes(99),
    }.items():
        yield CheckpointCase("other", name, _bytes(lambda m, content=content: content))
    for suffix in (
        "onnx",
        "engine",
        "torchscript",
        "mlpackage",
        "tflite",
        "pb",
        "yaml",
        "json",
        "safetensors",
        "bin",
        "py",
    ):
        for what, made in {"pickle": evil, "zeros": bytes(999)}.items():
            yield CheckpointCase("named", f"{what}.{suffix}", _bytes(lambda m, made=made: made), f"model.{suffix}")
    yield CheckpointCase("named", "escapes in the name", _bytes(lambda m: b"x"), "\x1b]0;evil\x07\x9b2J.pt")
    yield CheckpointCase("named", "long name", _bytes(lambda m: b"x"), f"{'n' * 240}.pt")
    yield CheckpointCase("named", "missing", lambda path, marker: None)
    yield CheckpointCase("kind", "folder", lambda path, marker: path.mkdir())
    yield CheckpointCase("kind", "FIFO", lambda path, marker: os.mkfifo(path))
    yield CheckpointCase("kind", "link to itself", loop)
    yield CheckpointCase("kind", "/dev/zero", lambda path, marker: path.symlink_to("/dev/zero"))
    yield CheckpointCase("kind", "/dev/full", lambda path, marker: path.symlink_to("/dev/full"))
    yield CheckpointCase("kind", "8 TB", lambda path, marker: archives.write_huge(path))
    for name, said in {
        "nonsense": b"evil",
        "binary": b"\xff\xfe",
        "folder": None,
        "100 MB": b"0" * (100 << 20),
    }.items():
        yield CheckpointCase("sidecar", name, sidecar(said), "bad.pth")
