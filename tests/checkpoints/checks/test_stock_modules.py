"""Stock checkpoints with more than a detector in them: nothing of it runs, now or when the model is used."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from ultralytics.nn.modules import Detect
from ultralytics.nn.tasks import DetectionModel

from kdyolo import KDYOLO
from kdyolo.checkpoints.checks import stock_modules
from kdyolo.checkpoints.export import export_stock, extract_backbone
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.checkpoints.safe_load import read_detector
from kdyolo.engine.start.detector_start import load_weights
from kdyolo.errors import CheckpointError

CODE = "__import__('pathlib').Path('RAN').touch() or torch.nn.SiLU()"
HOOKED = ("_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks", "_backward_hooks")


@pytest.fixture(autouse=True)
def nothing_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing leaves a file behind; and torch's list of safe classes is as it was."""
    monkeypatch.chdir(tmp_path)

    def known() -> set[str]:
        return {str(each) for each in torch.serialization.get_safe_globals() if "ultralytics" in str(each)}

    before = known()
    yield
    assert not Path("RAN").exists()
    assert known() == before


def detector() -> DetectionModel:
    model = DetectionModel("yolov8n.yaml", nc=1, verbose=False)
    model.args, model.task = {}, "detect"
    return model.half()


def saved(path: Path, model: nn.Module, **more: Any) -> Path:
    torch.save({"epoch": -1, "model": model, "ema": None, "optimizer": None, "train_args": {}, **more}, path)
    return path


WAYS: dict[str, Callable[[Path], Any]] = {
    "inspect": read_checkpoint,
    "export-stock": export_stock,
    "extract": lambda path: extract_backbone(path, "out.safetensors"),
    "weights": lambda path: load_weights(str(path), trust=False),
    "model": lambda path: KDYOLO(path),
    "load": lambda path: KDYOLO("kdyolov8n.yaml").load(path),
}


@pytest.mark.parametrize("way", WAYS)
def test_code_in_the_description_is_refused_whatever_opens_the_file(tmp_path: Path, way: str) -> None:
    model = detector()
    model.yaml["activation"] = CODE
    with pytest.raises(CheckpointError, match=r"evil\.pt: refused, the description.*activation"):
        WAYS[way](saved(tmp_path / "evil.pt", model))


def changed(kind: str, model: DetectionModel) -> str:
    """Put into a model what its class would call later; the reason to refuse it."""
    if kind in HOOKED:
        getattr(model.model[0], kind)[0] = DetectionModel
        return f"{kind} holds hooks"
    if kind == "method":
        model.model[0].fuseforward = model.model[0].forward = Detect
        return "replaces a method"
    if kind == "module in a method's place":
        model.__dict__["fuse"] = nn.Identity()
        return "fuse replaces a method"
    if kind == "special name":
        model.model[1].__dict__["__special__"] = 1
        return "__special__"
    if kind == "class":
        model.model[2].helper = [{"a": Detect}]
        return r"helper.*type"
    if kind == "model among layers":
        model.model[3].inner = DetectionModel("yolov8n.yaml", nc=1, verbose=False)
        return "inner is a ultralytics.nn.tasks.DetectionModel"
    if kind == "tensor":
        model.model[0].conv.weight.half = 1
        return "tensor with attributes"
    if kind == "description":
        model.yaml = "https://example.com/x.yaml"
        return "its description is a str"
    if kind == "stride":
        model.stride = "8"
        return "its model's stride is a str"
    if kind == "names":
        model.names = 3
        return "its classes' names are a int"
    raise KeyError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        *HOOKED,
        *("method", "module in a method's place", "special name", "class", "model among layers", "tensor"),
        *("description", "stride", "names"),
    ],
)
def test_an_object_that_would_act_later_is_refused(tmp_path: Path, kind: str) -> None:
    model = detector()
    reason = changed(kind, model)
    with pytest.raises(CheckpointError, match=rf"evil\.pt: refused.*{reason}"):
        read_detector(saved(tmp_path / "evil.pt", model))


@pytest.mark.parametrize("depth", [100, 3_000])
def test_modules_without_end_in_each_other_are_refused(tmp_path: Path, depth: int) -> None:
    """What walks through a model calls itself for each of them."""
    model, inner = detector(), nn.Sequential()
    model.model[0].more = inner
    for _ in range(depth):
        inner.append(nn.Sequential())
        inner = inner[0]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        saved(tmp_path / "evil.pt", model)
    finally:
        sys.setrecursionlimit(limit)
    for opened in (read_detector, read_checkpoint):
        with pytest.raises(CheckpointError, match=r"evil\.pt: refused, more than 100 objects stand within each other"):
            opened(tmp_path / "evil.pt")


@pytest.mark.parametrize("name", ["yolov8n", "yolov8n-p6", "yolo11n", "yolo12n", "yolo26n"])
def test_stock_detectors_are_far_from_the_deepest(tmp_path: Path, name: str) -> None:
    model = DetectionModel(f"{name}.yaml", nc=1, verbose=False).half()
    model.args, model.task = {}, "detect"
    with patch.object(stock_modules, "MAX_DEPTH", stock_modules.MAX_DEPTH // 2):
        assert read_detector(saved(tmp_path / f"{name}.pt", model))


def test_settings_that_are_no_mapping_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "evil.pt", detector())
    torch.save({**torch.load(path, weights_only=False), "train_args": [1]}, path)
    for opened in (read_detector, KDYOLO, lambda file: export_stock(file, tmp_path / "o.pt")):
        with pytest.raises(CheckpointError, match=r"evil\.pt: refused, its train_args are a list"):
            opened(path)


def test_a_detector_as_it_is_saved_is_read_whole(tmp_path: Path) -> None:
    model = detector()
    content = read_detector(saved(tmp_path / "good.pt", model))
    found = content["model"].state_dict()
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())
    assert KDYOLO(tmp_path / "good.pt").task == "detect"


class Calls:
    """Unpickling it builds a model from a description with code in it."""

    def __reduce__(self) -> tuple[Any, ...]:
        description = {"nc": 1, "activation": CODE, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": []}
        return DetectionModel, (description, 3, 1, False)


def test_a_call_of_a_model_class_is_refused_also_once_torch_knows_the_class(tmp_path: Path) -> None:
    saved(tmp_path / "good.pt", detector())
    torch.save({"model": torch.ones(1), "more": Calls()}, tmp_path / "evil.pt")
    torch.save({"backbone": {"stem.conv.weight": torch.ones(1)}, "more": Calls()}, tmp_path / "evil.pth")
    for _ in range(2):
        for name in ("evil.pt", "evil.pth"):
            for read in (read_checkpoint, read_detector):
                with pytest.raises(CheckpointError, match=r"refused.*DetectionModel"):
                    read(tmp_path / name)
        read_detector(tmp_path / "good.pt")  # Ultralytics now adds its classes to torch's


def test_a_class_that_was_added_for_the_process_helps_no_file_in_the_old_format(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([DetectionModel])
    try:
        content = {"stem.conv.weight": torch.ones(1), "more": Calls()}
        torch.save(content, tmp_path / "evil", _use_new_zipfile_serialization=False)
        with pytest.raises(CheckpointError, match=r"refused.*DetectionModel"):
            read_checkpoint(tmp_path / "evil")
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_a_method_that_a_pickle_sets_and_then_triggers_is_refused(tmp_path: Path) -> None:
    """A state named ``__setstate__`` is called with the next state."""

    model = detector()
    model.model[0].__dict__["__setstate__"] = Detect
    buffer = io.BytesIO()
    torch.save({"model": model}, buffer)
    (tmp_path / "evil.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match=r"calls or replaces __setstate__"):
        read_detector(tmp_path / "evil.pt")


def test_trust_opens_what_is_refused(tmp_path: Path) -> None:
    model = detector()
    model.model[2].helper = Detect
    path = saved(tmp_path / "mine.pt", model)
    assert load_weights(str(path), trust=True).model[2].helper is Detect
    with pytest.raises(CheckpointError, match="--trust"):
        load_weights(str(path), trust=False)
