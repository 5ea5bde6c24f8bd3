"""Files that are no checkpoint: what each costs until it is refused, in seconds and memory, and the error it gets.

Usage:
    python scripts/bad_files.py                     # files of 64 MB where size matters
    python scripts/bad_files.py --megabytes 512 --json

Each is refused in a process of its own that has imported everything before, so that time and peak memory are those of
the refusal alone. Limits: one second, and three times the file's size (and 16 MB for Python itself). Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench_checkpoint import peak
from torch import Tensor, nn

from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.errors import CheckpointError

SECONDS, TIMES, FLOOR = 1.0, 3, 16 << 20


class Payload:
    """Unpickling it would create the folder ``ran`` here."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def weights(size: int) -> dict[str, Tensor]:
    """A convolution of so many bytes under a backbone's name."""
    return {"stem.conv.weight": torch.rand(size // 4)}


def torchscript(path: Path, size: int) -> None:
    """A traced program with weights in it."""
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(nn.Linear(size // 4, 1, bias=False)), path)


def truncated(path: Path, size: int) -> None:
    """The first half of a checkpoint."""
    torch.save(weights(2 * size), path)
    os.truncate(path, path.stat().st_size // 2)


def bomb(path: Path, size: int) -> None:
    """Thirty-two times the size in zeros, which compress to a thousandth."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with archive.open("archive/data/0", "w", force_zip64=True) as entry:
            for _ in range(32):
                entry.write(bytes(size))


def moments(size: int) -> dict[str, Any]:
    """What an Adam's ``state_dict()`` gives."""
    return {"state": {0: {"exp_avg": torch.rand(size // 8), "exp_avg_sq": torch.rand(size // 8)}}, "param_groups": []}


# What it is → how it is written, given a path and a size in bytes.
BAD_FILES: dict[str, Callable[[Path, int], Any]] = {
    "malicious pickle": lambda path, size: torch.save({**weights(size), "a": Payload()}, path),
    "the same, before torch 1.6": lambda path, size: torch.save(
        {**weights(size), "a": Payload()}, path, _use_new_zipfile_serialization=False
    ),
    "zip bomb": bomb,
    "truncated": truncated,
    "text": lambda path, size: path.write_text("these are my weights\n" * (size // 21)),
    "folder": lambda path, size: path.mkdir(),
    "0 bytes": lambda path, size: path.touch(),
    "web page": lambda path, size: path.write_text("<!DOCTYPE html>\n<title>Sign in</title>\n" * (size // 39)),
    "TorchScript": torchscript,
    "optimizer only": lambda path, size: torch.save(moments(size), path),
}


def refuse(path: Path) -> dict[str, Any]:
    """Seconds, bytes by which this process grew at most, and the error; run it in a process of its own."""
    before, start = peak(reset=True), time.perf_counter()
    try:
        read_checkpoint(path)
        error = None
    except CheckpointError as e:
        error = str(e)
    return {"seconds": time.perf_counter() - start, "bytes": peak() - before, "error": error}


def measure(folder: Path, size: int) -> dict[str, dict[str, Any]]:
    """Every bad file's figures, its size among them."""
    figures = {}
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        for kind, write in BAD_FILES.items():
            path = folder / kind.replace(" ", "_")
            write(path, size)
            bytes_on_disk = path.stat().st_size if path.is_file() else 0
            figures[kind] = {"size": bytes_on_disk, **pool.apply(refuse, (path,))}
    return figures


def main() -> None:
    """Write, refuse, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.megabytes << 20)
    if options.json:
        print(json.dumps(figures))
        return
    for kind, found in figures.items():
        allowed = TIMES * found["size"] + FLOOR
        within = found["error"] and found["seconds"] < SECONDS and found["bytes"] <= allowed
        print(
            f"{kind:<27} {found['size'] / 1e6:7.1f} MB  {found['seconds'] * 1e3:6.1f} ms  "
            f"+{found['bytes'] / 1e6:6.1f} MB  {'within' if within else 'ABOVE'}"
        )


if __name__ == "__main__":
    main()
