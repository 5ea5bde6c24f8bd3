"""Pickles are looked through without unpickling, and what would cost time or memory is refused before it does."""

from __future__ import annotations

import io
import os
import pickle
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from kdyolo.checkpoints.checks.pickle_scan import scan_pickle, scan_pickles
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.errors import CheckpointError


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_names_and_calls_are_found() -> None:
    content = pickle.dumps([OrderedDict(a=1), Runs(), {1, 2}, "__class__"], protocol=2)
    scanned = scan_pickle(content + b"more")
    assert scanned.names == {"collections.OrderedDict", f"{os.mkdir.__module__}.mkdir", "builtins.set"}
    assert scanned.calls == scanned.names
    assert scanned.special == {"__class__"}
    assert scanned.end == len(content)


def test_a_call_of_what_is_only_computed_has_no_name() -> None:
    # getattr(OrderedDict, "fromkeys")(()), through the memo
    content = b"\x80\x02cbuiltins\ngetattr\nq\x00ccollections\nOrderedDict\nX\x08\x00\x00\x00fromkeys\x86R)R."
    assert scan_pickle(content).calls == {"builtins.getattr", "?"}


def test_the_old_format_is_five_pickles() -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2), "b": Runs()}, buffer, _use_new_zipfile_serialization=False)
    scanned = scan_pickles(buffer.getvalue())
    assert len(scanned) == 5
    assert any(f"{os.mkdir.__module__}.mkdir" in each.calls for each in scanned)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02", b"\x80\x02X\xff\xff\xff\xffa", b"\x80\x02cos\n", b"\x80\x02R.", b"\x80\x02a.", b"\x80\x02\x95"],
)
def test_what_is_no_pickle_of_torchs_is_refused(content: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        scan_pickle(content)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_is_remembered_far_away_is_refused_and_what_picklers_write_is_not(legacy: bool) -> None:
    """Python's own reader makes room for every number before it: for this one, 16 GB."""
    with pytest.raises(pickle.UnpicklingError, match=r"remembers number 2,147,483,647 in step 3, which none does"):
        scan_pickle(b"\x80\x02Nr\xff\xff\xff\x7f.")
    buffer = io.BytesIO()
    names = {f"layer{i}": torch.ones(1) for i in range(300)}  # more than a byte counts
    torch.save(names, buffer, _use_new_zipfile_serialization=not legacy)
    buffer.seek(0)
    if legacy:
        assert len(scan_pickles(buffer.getvalue())) == 5
    else:
        with zipfile.ZipFile(buffer) as archive:
            content = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
        assert b"r\x00\x01\x00\x00" in content
        assert scan_pickle(content).opcodes > 300


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(("code", "reason"), [(b"(", "nests more than"), (b"]", "more than 2,000,000 steps")])
def test_millions_of_steps_are_refused_before_they_cost_anything(
    tmp_path: Path, code: bytes, reason: str, legacy: bool
) -> None:
    pickled = b"\x80\x02" + code * 5_000_000 + b"."
    path = tmp_path / "w.pth"
    if legacy:
        path.write_bytes(pickled)
    else:
        torch.save({"stem.conv.weight": torch.ones(1)}, path)
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, pickled if name.endswith("data.pkl") else content)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(path)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(
    "deeper",
    [b"\x85", b"N\x86", b"NN\x87", b"q\x00h\x00\x86"],
    ids=["of one", "of two", "of three", "through the memo"],
)
def test_tuples_that_nest_too_deep_to_be_keys_are_refused(deeper: bytes) -> None:
    """Python hashes a key by recursion, which ends the process where a tuple is deep."""
    with pytest.raises(pickle.UnpicklingError, match="nests tuples more than 1,000 deep"):
        scan_pickle(b"\x80\x02)" + deeper * 1_100 + b".")
    assert scan_pickle(b"\x80\x02" + b"(" * 999 + b"t" * 999 + b".").opcodes == 2_000
    with pytest.raises(pickle.UnpicklingError, match="nests tuples"):
        scan_pickle(b"\x80\x02" + b"(" * 1_100 + b"t" * 1_100 + b".")
