"""Stock Ultralytics detectors whose description, attributes or names hold what a stranger put there."""

from __future__ import annotations

import copy
import functools
import io
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

Edit = Callable[[dict[str, Any], str], Any]  # the checkpoint, path of the marker → None, or another checkpoint


class Payload:
    """Unpickling it makes the marker."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


@cache
def _trained() -> bytes:
    from ultralytics import __version__
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    model = DetectionModel("yolov8n.yaml", verbose=False, nc=3).half().eval()
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.names, model.args, model.task = {0: "circle", 1: "square", 2: "triangle"}, {"imgsz": 32}, "detect"
    content = {
        "epoch": -1,
        "model": model,
        "ema": None,
        "optimizer": None,
        "version": __version__,
        "date": "2026-01-01",
    }
    return _bytes({**content, "train_args": {"imgsz": 32, "task": "detect", "data": "coco.yaml"}, "train_metrics": {}})


def _bytes(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def detector(edit: Edit | None = None, marker: str = "") -> bytes:
    """A stock ``best.pt``, changed."""
    content = torch.load(io.BytesIO(_trained()), weights_only=False)
    changed = edit(content, marker) if edit else None
    return _bytes(content if changed is None else changed)


def in_yaml(**changes: Any) -> Edit:
    """Entries of the model's description."""

    def edit(content: dict[str, Any], marker: str) -> None:
        content["model"].yaml = {**content["model"].yaml, **_marked(changes, marker)}

    return edit


def in_row(place: int, value: Any, part: str = "backbone", row: int = 0) -> Edit:
    """One place of one row of the description: ``from``, ``number``, ``module``, ``arguments``."""

    def edit(content: dict[str, Any], marker: str) -> None:
        described = copy.deepcopy(content["model"].yaml)
        described[part][row][place] = _marked(value, marker)
        content["model"].yaml = described

    return edit


def in_model(name: str, make: Callable[[str], Any]) -> Edit:
    """An attribute of the model."""
    return lambda content, marker: setattr(content["model"], name, make(marker))


def in_checkpoint(name: str, make: Callable[[str], Any]) -> Edit:
    """An entry of the checkpoint beside the model."""
    return lambda content, marker: content.__setitem__(name, make(marker))


def _marked(value: Any, marker: str) -> Any:
    if isinstance(value, str):
        return value.replace("MARKER", marker)
    if isinstance(value, dict):
        return {key: _marked(item, marker) for key, item in value.items()}
    return [_marked(item, marker) for item in value] if isinstance(value, list) else value


def _caller(marker: str) -> Any:
    return functools.partial(os.mkdir, marker)


def _in_layer(content: dict[str, Any], marker: str) -> None:
    content["model"].model[0].conv.evil = Payload(marker)


def _hook(name: str) -> Edit:
    def edit(content: dict[str, Any], marker: str) -> None:
        getattr(content["model"].model[0], name)[0] = _caller(marker)

    return edit


def _deep(content: dict[str, Any], marker: str) -> None:
    inner: nn.Module = nn.Identity()
    for _ in range(150):
        inner = nn.Sequential(inner)
    content["model"].model[0].more = inner


CODE = "__import__('os').mkdir('MARKER')"
ESCAPES = "\x1b]0;evil\x07\x9b2J\n\u202e"

STOCK: dict[str, Edit] = {
    "activation": in_yaml(activation=f"{CODE} or torch.nn.SiLU()"),
    "activation, attribute": in_yaml(activation="torch.serialization.os.mkdir('MARKER')"),
    "activation, subclasses": in_yaml(activation="[].__class__.__base__.__subclasses__()"),
    "activation, number": in_yaml(activation=7),
    "activation, list": in_yaml(activation=["nn.SiLU()"]),
    "activation, without end": in_yaml(activation="nn.SiLU(" * 3000 + ")" * 3000),
    "row of a function": in_row(2, "check_requirements"),
    "row of a module": in_row(2, "torch"),
    "row with dots": in_row(2, "nn.modules.os.mkdir"),
    "row of torchvision": in_row(2, "torchvision.ops.os.mkdir"),
    "row of a number": in_row(2, 7),
    "row that downloads": in_row(2, "TorchVision"),
    "arguments with code": in_row(3, [CODE, 3, 2]),
    "arguments, huge": in_row(3, [10**9, 3, 2]),
    "arguments, nested": in_row(3, [[[[64]]], {}, None]),
    "repeated 10⁹ times": in_row(1, 10**9, row=2),
    "from nowhere": in_row(0, 999, row=3),
    "head of a function": in_row(2, "os", part="head"),
    "scales": in_yaml(scales={"n": [10**6, 10**6, 10**9]}),
    "classes 10⁹": in_yaml(nc=10**9),
    "classes negative": in_yaml(nc=-3),
    "channels 10⁹": in_yaml(ch=10**9, channels=10**9),
    "100,000 rows": in_yaml(backbone=[[-1, 1, "Conv", [64, 3, 2]]] * 100_000),
    "description of a list": in_model("yaml", lambda m: [1, 2]),
    "description of a payload": in_model("yaml", Payload),
    "no description": in_model("yaml", lambda m: {}),
    "kd of a text": in_yaml(kd="evil"),
    "kd of odd things": in_yaml(kd={"arch": CODE, "layers": [10**9], "resize": ESCAPES, "input_norm": [[]]}),
    "attribute": in_model("evil", Payload),
    "attribute that calls": in_model("forward", _caller),
    "attribute criterion": in_model("criterion", _caller),
    "attribute in a layer": _in_layer,
    "hook": _hook("_forward_hooks"),
    "hook before": _hook("_forward_pre_hooks"),
    "hook of the state": _hook("_state_dict_hooks"),
    "a module of torch's own": lambda c, m: setattr(c["model"], "more", nn.Transformer(8, 2, 1, 1, 8)),
    "deep modules": _deep,
    "train_args": in_checkpoint("train_args", Payload),
    "train_args of odd things": in_checkpoint(
        "train_args", lambda m: {"imgsz": 10**9, "data": f"{ESCAPES}", "task": CODE, "batch": [[]]}
    ),
    "train_args of a list": in_checkpoint("train_args", lambda m: [1]),
    "train_results": in_checkpoint("train_results", Payload),
    "optimizer": in_checkpoint("optimizer", Payload),
    "ema": in_checkpoint("ema", Payload),
    "ema of a list": in_checkpoint("ema", lambda m: [1, 2]),
    "model of tensors": in_checkpoint("model", lambda m: {"a": torch.ones(1)}),
    "names with escapes": in_model("names", lambda m: {0: ESCAPES, 1: "\x1b]52;c;ZQ==\x07", 2: "c"}),
    "names of 10 MB": in_model("names", lambda m: {0: "n" * 10_000_000, 1: "b", 2: "c"}),
    "names of a number": in_model("names", lambda m: 3),
    "names with holes": in_model("names", lambda m: {"x": 1, -5: None}),
    "task of code": in_model("task", lambda m: CODE),
    "stride of 0": in_model("stride", lambda m: torch.zeros(3)),
    "stride of 10⁹": in_model("stride", lambda m: torch.full((3,), 1e9)),
    "stride of a text": in_model("stride", lambda m: "8"),
    "save of odd things": in_model("save", lambda m: [10**9, "x"]),
    "args of a payload": in_model("args", Payload),
    "epoch of a text": in_checkpoint("epoch", lambda m: ESCAPES),
    "version with escapes": in_checkpoint("version", lambda m: ESCAPES),
    "git of 10 MB": in_checkpoint("git", lambda m: {"commit": "c" * 10_000_000, "origin": ESCAPES}),
    "a class of kdyolo's": in_checkpoint("more", lambda m: __import__("kdyolo").FreezeSchedule(epochs=3)),
}
# Those whose pickle itself holds what must not be loaded. The others hold data only: a command that does not need the
# part of it that is wrong may use the rest, and what runs, asks, or costs shows in other ways.
NEVER_LOADED = {
    "description of a payload",
    "attribute",
    "attribute that calls",
    "attribute criterion",
    "attribute in a layer",
    "hook",
    "hook before",
    "hook of the state",
    "train_args",
    "train_results",
    "optimizer",
    "ema",
    "args of a payload",
    "a class of kdyolo's",
}
