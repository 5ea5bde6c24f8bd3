"""Damaged files of every format: a clean error or exactly the tensors that were written, never wrong ones."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.checkpoints.safe_load import TENSORS_SHA256, tensors_sha256
from kdyolo.errors import CheckpointError

QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def tensors(names: Callable[[str], str]) -> dict[str, Tensor]:
    """A few layers of a backbone."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"conv.weight": (4, 3, 3, 3), "bn.weight": (4,), "bn.running_mean": (4,), "bn.running_var": (4,)}
    return {
        names(f"{layer}.{tensor}"): torch.rand(shape, generator=generator)
        for layer in range(3)
        for tensor, shape in shapes.items()
    }


def vfmkd(name: str) -> str:
    layer, _, rest = name.partition(".")
    return f"_orig_mod.{['stem', 'stage1.0', 'stage1.1'][int(layer)]}.{rest}"


def mmyolo(name: str) -> str:
    return "backbone." + vfmkd(name).removeprefix("_orig_mod.").replace("stage1.1.", "stage1.1.blocks.0.conv1.")


def ultralytics(path: Path) -> None:
    torch.manual_seed(0)
    model = DetectionModel("yolov8n.yaml", verbose=False, nc=1)
    del model.model[3:]  # small, so that flips fall where they matter
    torch.save({"epoch": -1, "model": model.half(), "ema": None, "train_args": {}}, path)


def checked_safetensors(path: Path) -> None:
    content = tensors(str)
    save_file(content, path, metadata={TENSORS_SHA256: tensors_sha256(content), "epoch": "3"})


def with_sidecar(write: Callable[[Path], Any]) -> Callable[[Path], None]:
    def both(path: Path) -> None:
        write(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")

    return both


def old_format(path: Path) -> None:
    torch.save(tensors(vfmkd), path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "vfmkd": lambda path: torch.save({"backbone": tensors(vfmkd), "epoch": 1, "optimizer": {"lr": 0.1}}, path),
    "clean export": lambda path: torch.save({"meta": {"epoch": 1}, "state_dict": tensors(vfmkd)}, path),
    "MMYOLO": lambda path: torch.save({"meta": {"epoch": 1}, "state_dict": tensors(mmyolo)}, path),
    "Ultralytics": ultralytics,
    "LightlyTrain": lambda path: torch.save(tensors(lambda n: f"wrapped_model._backbone.{n}"), path),
    "Lightning": lambda path: torch.save({"state_dict": tensors(lambda n: f"model.student.{n}")}, path),
    "torchdistill": lambda path: torch.save({"model": tensors(lambda n: f"module.{n}"), "best_value": 0.1}, path),
    "safetensors": checked_safetensors,
    "foreign safetensors, sha256 beside": with_sidecar(lambda path: save_file(tensors(str), path)),
    "before torch 1.6, sha256 beside": with_sidecar(old_format),
}


@cache
def original(writer: str, folder: Path) -> tuple[bytes, dict[str, Tensor]]:
    path = folder / writer.replace(" ", "-")
    WRITERS[writer](path)
    return path.read_bytes(), read_checkpoint(path).tensors


@pytest.mark.parametrize("writer", WRITERS)
@QUICK
@given(data=st.data())
def test_a_damaged_file_is_refused_or_gives_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, writer: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    content, expected = original(writer, folder)
    damaged = bytearray(content)
    if data.draw(st.booleans(), "cut"):
        damaged = damaged[: data.draw(st.integers(0, len(damaged) - 1), "length")]
    else:
        for _ in range(data.draw(st.integers(1, 3), "flips")):
            damaged[data.draw(st.integers(0, len(damaged) - 1), "place")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path = folder / writer.replace(" ", "-")  # where its sha256 lies, if it has one
    path.write_bytes(damaged)
    try:
        found = read_checkpoint(path)
    except CheckpointError:
        return
    assert found.verified
    assert found.tensors.keys() == expected.keys()
    assert all(torch.equal(found.tensors[name], expected[name]) for name in expected)


def test_a_file_without_checksums_says_so(tmp_path: Path) -> None:
    save_file(tensors(str), tmp_path / "plain")
    assert not read_checkpoint(tmp_path / "plain").verified
    old_format(tmp_path / "old")
    assert not read_checkpoint(tmp_path / "old").verified
    WRITERS["vfmkd"](tmp_path / "new")
    assert read_checkpoint(tmp_path / "new").verified


def test_another_file_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    WRITERS["before torch 1.6, sha256 beside"](tmp_path / "old")
    torch.save(tensors(str), tmp_path / "old")
    with pytest.raises(CheckpointError, match=r"damaged or exchanged.*old\.sha256"):
        read_checkpoint(tmp_path / "old")


# ---- files that are made to hurt -------------------------------------------------------------------------------------


def repacked(path: Path, compression: int, extra: dict[str, bytes] | None = None, keep: bool = True) -> None:
    """A torch archive written anew by another tool."""
    torch.save(tensors(vfmkd), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()} if keep else {}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (entries | (extra or {})).items():
            archive.writestr(name, content)


def bomb(path: Path) -> None:
    repacked(path, zipfile.ZIP_DEFLATED, {"archive/data/99": bytes(200_000_000)})


def many_entries(path: Path) -> None:
    torch.save(tensors(vfmkd), path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for i in range(40_000):
            archive.writestr(f"archive/data/{i:050d}", b"")


def nested(path: Path) -> None:
    inner: Any = torch.ones(1)
    for _ in range(40):
        inner = [inner] * 10  # 10⁴⁰ tensors in a few hundred bytes
    torch.save({**tensors(vfmkd), "a": inner}, path)


def endless(path: Path) -> None:
    """A dictionary that holds itself."""
    inner: dict[str, Any] = {}
    inner["a"] = inner
    torch.save({**tensors(vfmkd), "more": inner}, path)


def repeated(path: Path) -> None:
    torch.save({**tensors(vfmkd), "stage2.0.conv.weight": torch.ones(1).expand(100_000, 100_000)}, path)


class Allocate:
    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (4_000_000_000,)


class Payload:
    """Unpickling it creates the folder ``ran``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


HURTING: dict[str, tuple[Callable[[Path], Any], str]] = {
    "zip bomb": (bomb, "may be a zip bomb"),
    "compressed": (lambda path: repacked(path, zipfile.ZIP_DEFLATED), "may be a zip bomb"),
    "many entries": (many_entries, "far more entries"),
    "nested": (nested, "nested without end"),
    "endless": (endless, "nested without end"),
    "repeated values": (repeated, "more values than the file's"),
    "allocation": (lambda path: torch.save({**tensors(vfmkd), "a": Allocate()}, path), "refused.*bytearray"),
    "TorchScript": (lambda path: torch.jit.save(torch.jit.script(nn.ReLU()), path), "TorchScript archive"),
    "optimizer only": (
        lambda path: torch.save({"optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}, "param_groups": []}}, path),
        "holds the state of an optimizer",
    ),
    "optimizer state dict": (
        lambda path: torch.save({"state": {0: {"exp_avg": torch.ones(9)}}, "param_groups": [{"lr": 0.1}]}, path),
        "holds the state of an optimizer",
    ),
    "negative variance": (
        lambda path: torch.save({**tensors(str), "1.bn.running_var": torch.full((4,), -1.0)}, path),
        "negative, which no variance is",
    ),
}


@pytest.mark.parametrize("kind", HURTING)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_file_made_to_hurt_is_refused_at_once_and_cheaply(tmp_path: Path, kind: str) -> None:
    write, reason = HURTING[kind]
    path = tmp_path / "file.pth"
    write(path)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert str(path) in str(caught.value)
    assert grown <= 3 * path.stat().st_size + (64 << 20)  # and what the interpreter itself takes
    assert time.process_time() - start < 10  # a bomb that goes off takes minutes, or all memory


@pytest.mark.slow
def test_ultralytics_loads_are_restricted_for_weights_and_models_too(tmp_path: Path) -> None:
    ultralytics(tmp_path / "bad.pt")
    content = torch.load(tmp_path / "bad.pt", weights_only=False)
    torch.save({**content, "train_args": Payload()}, tmp_path / "bad.pt")
    code = (
        "from kdyolo import KDYOLO; from kdyolo.errors import CheckpointError\n"
        "for how in ({'model': 'bad.pt'}, {'weights': 'bad.pt'}):\n"
        "    try: KDYOLO(**how)\n"
        "    except CheckpointError as e: print('refused' if '--trust' in str(e) else e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count("refused") == 2, done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


# ---- archives that two readers would read differently ----------------------------------------------------------------


def copied(path: Path, change: Callable[[zipfile.ZipFile, dict[str, bytes]], Any]) -> None:
    """A torch archive written anew, with a change."""
    torch.save(tensors(vfmkd), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        change(archive, entries)
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("name", ["data.pkl", "DATA.PKL", "data/0"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_that_stands_twice_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "w.pth"
    copied(path, lambda archive, _: archive.writestr(f"{path.stem}/{name}", b"other"))
    with pytest.raises(CheckpointError, match=r"refused, its archive holds '.*' twice"):
        read_checkpoint(path)


def test_a_second_folder_is_refused(tmp_path: Path) -> None:
    copied(tmp_path / "w.pth", lambda archive, entries: archive.writestr("a/data.pkl", entries["w/data.pkl"]))
    with pytest.raises(CheckpointError, match="more than one folder"):
        read_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("place", ["before", "after", "comment"])
def test_what_stands_around_an_archive_is_refused(tmp_path: Path, place: str) -> None:
    path = tmp_path / "w.pth"
    copied(path, lambda archive, _: None)
    content = path.read_bytes()
    if place == "before":
        path.write_bytes(content[:64] + content)
    elif place == "after":
        path.write_bytes(content + b"more")
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.comment = content[-22:]
    with pytest.raises(CheckpointError, match=r"refused|damaged"):
        read_checkpoint(path)


def test_an_archive_without_checksums_is_read_and_says_so(tmp_path: Path) -> None:
    """As torch writes it on demand. Nothing tells damage to its values then, but a .sha256 beside it."""
    path, before = tmp_path / "w.pth", torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors(vfmkd), path)
    finally:
        torch.serialization.set_crc32_options(before)
    found = read_checkpoint(path)
    assert not found.verified
    assert found.tensors.keys() == tensors(str).keys()
    path.with_name("w.pth.sha256").write_text(found.sha256)
    assert read_checkpoint(path).verified
    content = bytearray(path.read_bytes())
    content[content.index(b"data/0") + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged or exchanged"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "cfg", ["(" * 200_000, "model = " + "[" * 5000 + "]" * 5000, "x = 1\n" * 100_000, "-" * 250_000 + "1"]
)
def test_a_configuration_that_is_no_configuration_is_refused(tmp_path: Path, cfg: str) -> None:
    content = {"state_dict": tensors(mmyolo), "meta": {"cfg": cfg}, "message_hub": {}}
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"w\.pth: the file's MMEngine configuration"):
        read_checkpoint(tmp_path / "w.pth")
