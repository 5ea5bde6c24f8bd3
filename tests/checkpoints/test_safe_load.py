"""Files of every format are read by their content; damaged ones, and those that want to run code, are refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.checkpoints.safe_load import load_content
from kdyolo.checkpoints.zip_archive import file_sha256
from kdyolo.errors import CheckpointError
from tests.builders.checkpoints import EXPECTED, NAMES, resume_file, same, weights, written


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


# ---- files -----------------------------------------------------------------------------------------------------------


def write_zip(path: Path) -> None:
    torch.save(weights(), path)


def write_legacy(path: Path) -> None:
    torch.save(weights(), path, _use_new_zipfile_serialization=False)


def write_safetensors(path: Path) -> None:
    save_file(weights(), path)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors", "w.bin", "weights", "w.tar.gz"])
@pytest.mark.parametrize("write", [write_zip, write_legacy, write_safetensors])
def test_the_format_is_read_from_the_content_not_the_name(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    assert same(read_checkpoint(tmp_path / name).tensors, EXPECTED)
    assert same(read_checkpoint(str(tmp_path / name)).tensors, EXPECTED)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("safetensors", [False, True], ids=["torch", "safetensors"])
def test_every_float_becomes_exactly_its_float32(path: Path, dtype: torch.dtype, safetensors: bool) -> None:
    low = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights().items()}
    if safetensors:
        save_file(low, path)
    else:
        torch.save(low, path)
    tensors = read_checkpoint(path).tensors
    for old, _, name in NAMES:
        counter = name.endswith("num_batches_tracked")
        assert tensors[name].dtype == (torch.int64 if counter else torch.float32)
        assert torch.equal(tensors[name].double(), low[old].double())


def test_views_and_other_memory_formats_arrive_contiguous(path: Path) -> None:
    wide = torch.rand(8, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    content = {**weights(), "stem.conv.weight": wide.to(memory_format=torch.channels_last)[::2]}
    tensor = read_checkpoint(written(path, content)).tensors["0.conv.weight"]
    assert tensor.is_contiguous()
    assert torch.equal(tensor, wide[::2])


def test_parameters_and_their_graph_are_left_behind(path: Path) -> None:
    content = {name: nn.Parameter(t) if t.is_floating_point() else t for name, t in weights().items()}
    checkpoint = read_checkpoint(written(path, content))
    assert not any(t.requires_grad or isinstance(t, nn.Parameter) for t in checkpoint.tensors.values())


def test_tensors_are_independent_of_the_file_once_read(path: Path) -> None:
    checkpoint = read_checkpoint(written(path, weights()))
    with path.open("r+b") as file:  # in place: a memory map would show it
        file.write(bytes(path.stat().st_size))
    assert same(checkpoint.tensors, EXPECTED)


def test_the_digest_is_that_of_the_bytes(path: Path) -> None:
    content = os.urandom(3_000_000)
    path.write_bytes(content)
    assert file_sha256(path) == hashlib.sha256(content).hexdigest()
    write_zip(path)
    assert read_checkpoint(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_that_was_refused_is_not_hashed_to_the_end(path: Path) -> None:
    path.write_bytes(bytes(9))
    refused = threading.Event()
    assert file_sha256(path, stop=refused) == hashlib.sha256(bytes(9)).hexdigest()
    refused.set()
    assert file_sha256(path, stop=refused) == hashlib.sha256().hexdigest()


def test_of_a_damaged_file_the_damage_is_told_and_not_what_follows_from_it(path: Path) -> None:
    written(path, {**weights(), "stem.conv.weight": torch.full((3, 2), float("nan"))})
    path.with_name(f"{path.name}.sha256").write_text("0" * 64)
    with pytest.raises(CheckpointError, match="damaged or exchanged"):
        read_checkpoint(path)


def damaged_files() -> Iterator[tuple[str, Callable[[Path], object], str]]:
    def cut(write: Callable[[Path], None], keep: float) -> Callable[[Path], object]:
        def damage(path: Path) -> None:
            write(path)
            path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])

        return damage

    def zip_of_text(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no weights")

    def header_lies(path: Path) -> None:
        path.write_bytes((2**40).to_bytes(8, "little") + b'{"a":1}')

    yield "missing", lambda path: None, "no such file"
    yield "folder", lambda path: path.mkdir(), "found a folder"
    yield "empty", lambda path: path.touch(), "empty"
    yield "text", lambda path: path.write_text("these are my weights\n"), "not a weights file.*these are my"
    yield "one byte", lambda path: path.write_bytes(b"P"), "not a weights file"
    yield (
        "html",
        lambda path: path.write_text("<!DOCTYPE html>\n<title>Sign in</title>"),
        "not a weights file.*a web page",
    )
    yield "json", lambda path: path.write_text(json.dumps({"a": 1})), "not a weights file"
    if hasattr(os, "mkfifo"):
        yield "pipe", os.mkfifo, "found a pipe or a device"  # opening it would wait for somebody to write into it
    yield "git lfs", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"), "git lfs pull"
    yield "zip of text", zip_of_text, "a zip archive of other things, e.g."
    yield (
        "zip magic",
        lambda path: path.write_bytes(b"PK\x03\x04 and nothing else"),
        "not a (PyTorch|file that torch.save wrote)",
    )
    yield (
        "pickle magic",
        lambda path: path.write_bytes(b"\x80\x02 and nothing else"),
        "not a (PyTorch|file that torch.save wrote)",
    )
    yield "safetensors magic", header_lies, "damaged safetensors"
    for keep in (0.05, 0.5, 0.99):
        yield f"zip cut at {keep}", cut(write_zip, keep), "damaged"
        yield f"legacy cut at {keep}", cut(write_legacy, keep), "damaged"
        yield f"safetensors cut at {keep}", cut(write_safetensors, keep), "damaged safetensors"


@pytest.mark.parametrize(("damage", "reason"), [pytest.param(d, r, id=name) for name, d, r in damaged_files()])
def test_what_is_no_weights_file_is_refused_with_its_path_and_the_reason(
    path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)


def test_a_checksum_file_that_cannot_be_read_is_no_missing_one(path: Path) -> None:
    written(path, weights())
    path.with_name(f"{path.name}.sha256").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="cannot be read as the checksum"):
        read_checkpoint(path)


# ---- files that want to run code -------------------------------------------------------------------------------------


class Custom:
    """Any class of somebody's project."""


class Payload:
    """Unpickling it creates the file ``ran``."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


@pytest.fixture
def stock_model(tmp_path: Path) -> Iterator[Path]:
    """A whole Ultralytics detector as its trainer saves it; torch's list of safe classes is restored afterwards."""
    before = torch.serialization.get_safe_globals()
    file = tmp_path / "yolov8n.pt"
    model = DetectionModel("yolov8n.yaml", nc=1, verbose=False)
    model.args, model.task = {}, "detect"
    torch.save({"epoch": -1, "model": model.half(), "ema": None, "optimizer": None}, file)
    yield file
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_an_object_of_a_foreign_class_is_refused_by_name(path: Path, legacy: bool) -> None:
    written(path, resume_file(weights(), config=Custom()), legacy)
    with pytest.raises(CheckpointError, match=rf"refused.*{re.escape(__name__)}\.Custom.*state_dict\(\)"):
        read_checkpoint(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_payload_is_refused_by_name_and_does_not_run(path: Path, legacy: bool) -> None:
    written(path, resume_file(weights(), config=Payload()), legacy)
    with pytest.raises(CheckpointError, match=rf"refused.*{os.system.__module__}\.system"):
        read_checkpoint(path)
    assert not Path("ran").exists()
    with path.open("rb") if legacy else zipfile.ZipFile(path).open("weights/data.pkl") as file:
        assert b"touch ran" in file.read()  # the file really holds the payload


def test_a_plain_pickle_of_arrays_is_refused(path: Path) -> None:
    path.write_bytes(pickle.dumps({name: t.numpy() for name, t in weights().items()}, protocol=2))
    with pytest.raises(CheckpointError, match=r"refused.*numpy"):
        read_checkpoint(path)


def test_a_whole_detector_is_read_by_ultralytics_restricted_loader(stock_model: Path) -> None:
    torch.serialization.clear_safe_globals()
    content = torch.load(stock_model, weights_only=False)["model"].state_dict()
    checkpoint = read_checkpoint(stock_model)
    assert checkpoint.source == "Ultralytics checkpoint (Ultralytics names)"
    assert (checkpoint.bn_eps, checkpoint.epoch, checkpoint.family) == (1e-3, None, "yolov8")
    assert same(
        checkpoint.tensors,
        {k.removeprefix("model."): v.float() if v.is_floating_point() else v for k, v in content.items()},
    )
    assert same(read_checkpoint(stock_model).tensors, checkpoint.tensors)  # now that torch knows the classes


def test_a_payload_in_a_detector_does_not_run(stock_model: Path) -> None:
    torch.serialization.clear_safe_globals()
    content = torch.load(stock_model, weights_only=False)
    torch.save({**content, "train_args": Payload()}, stock_model)
    with pytest.raises(CheckpointError, match=rf"refused.*{os.system.__module__}\.system") as caught:
        read_checkpoint(stock_model)
    assert str(stock_model) in str(caught.value)
    assert not Path("ran").exists()


def test_trust_unpickles_whatever_there_is(path: Path) -> None:
    written(path, resume_file(weights(), config=Payload()))
    assert same(read_checkpoint(path, trust=True).tensors, EXPECTED)
    assert Path("ran").exists()


def test_an_export_of_lightly_trains_classes_says_which_format_to_export(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``format='torch_model'`` pickles the module itself."""
    module = ModuleType("lightly_train._models.embedding_model")
    embedding_model = type("EmbeddingModel", (nn.Module,), {"__module__": module.__name__})
    module.EmbeddingModel = embedding_model  # type: ignore[attr-defined]
    for name in ("lightly_train", "lightly_train._models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = embedding_model()
    model.wrapped_model = nn.Conv2d(3, 4, 3)
    torch.save(model, path)
    with pytest.raises(CheckpointError, match=r"lightly_train\..*format='torch_model'.*format='torch_state_dict'"):
        read_checkpoint(path)


def test_a_whole_stock_module_is_read(stock_model: Path) -> None:
    """As LightlyTrain's ``torch_model`` of a detector is: the module, without a dictionary around it."""
    content = torch.load(stock_model, weights_only=False)
    torch.save(content["model"], stock_model)
    found, expected = read_checkpoint(stock_model), content["model"].state_dict()
    assert torch.equal(found.tensors["0.conv.weight"], expected["model.0.conv.weight"].float())


def test_a_header_that_states_another_size_is_damage(path: Path) -> None:
    torch.save(weights(), path)
    with zipfile.ZipFile(path) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:  # whose headers have sizes, unlike torch's own
        for name, data in content.items():
            archive.writestr(name, data)
    load_content(path, lambda found: found)
    raw = bytearray(path.read_bytes())
    raw[22:26] = b"\xff\xff\xff\x7f"
    path.write_bytes(raw)
    with pytest.raises(CheckpointError, match="has two sizes"):
        load_content(path, lambda found: found)


def test_a_name_in_an_archive_that_leads_out_is_refused(path: Path) -> None:
    torch.save(weights(), path)
    with zipfile.ZipFile(path, "a") as archive:
        root = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{root}/../../x", b"x")
    with pytest.raises(CheckpointError, match="leads out of its folder"):
        load_content(path, lambda found: found)


class Called:
    """A function of NumPy's that reads a file, called by unpickling; not what training tools leave of it."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, ("labels.npy",)


@pytest.mark.parametrize("function", [np.load, np.fromfile, np.loadtxt])
def test_functions_of_numpy_are_no_stand_ins(tmp_path: Path, function: Any) -> None:
    path = tmp_path / "w.pth"
    torch.save({"backbone": {"stem.conv.weight": torch.ones(1)}, "history": [Called(function)]}, path)
    with pytest.raises(CheckpointError, match=r"refused, because reading it would run code for numpy"):
        read_checkpoint(path)


@pytest.mark.parametrize("left", [np.ones(3), np.float32(1), np.dtype("f8"), np.bool_(True), np.random.default_rng(0)])
def test_what_training_tools_leave_of_numpy_is_overlooked(tmp_path: Path, left: Any) -> None:
    path = tmp_path / "w.pth"
    tensors = {"stem.conv.weight": torch.ones(1)}
    torch.save({"backbone": tensors, "history": [left]}, path)
    assert read_checkpoint(path).tensors.keys() == {"0.conv.weight"}
