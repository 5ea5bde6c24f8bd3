"""Exported models (ONNX, OpenVINO, …), checked before Ultralytics opens them: no programs, and metadata in plain data.

Ultralytics reads an export's metadata with ``ast.literal_eval`` and sets every entry as an attribute of its backend.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.base import BaseBackend

from kdyolo.errors import CheckpointError
from kdyolo.models.description_check import not_plain
from kdyolo.utils.text import quoted

# Formats that hold a graph of known operations. The others are programs in the words of their makers (TorchScript,
# TensorFlow, TensorRT's engines), or need a device's own software, whose metadata cannot be looked at from here.
GRAPHS = frozenset({"onnx", "openvino", "ncnn", "litert", "paddle"})
KEYS = frozenset(
    {
        *("description", "author", "date", "version", "license", "docs", "stride", "task", "head", "batch", "imgsz"),
        *("names", "args", "channels", "end2end", "kpt_shape", "kpt_names", "dynamic", "nms", "dla"),
        *("cal_a", "cal_b", "semantic_baked"),
    }
)
WHOLE = frozenset({"stride", "batch", "channels"})
LITERALS = frozenset({"imgsz", "names", "kpt_shape", "kpt_names", "args", "end2end"})
MAX_TEXT = 1_000_000  # characters: names of 20,000 classes have a half of it


def check_exported(path: str | Path) -> None:
    """Refuse an exported model that is a program, or whose metadata is not what Ultralytics writes.

    Args:
        path: The file or folder, as it is given to Ultralytics.

    Raises:
        CheckpointError: It is of another format, or its metadata has unknown keys or anything but plain data.
    """
    try:
        kind = AutoBackend._model_type(str(path))
    except Exception as e:  # of many types
        raise CheckpointError(f"{path}: expected a .pt file or an exported model ({str(e).splitlines()[0]}).") from e
    if kind not in GRAPHS:
        raise CheckpointError(
            f"{path}: refused, because its format ({kind}) is that of a program, or cannot be looked through before it "
            f"runs. Expected a .pt file, or one of {', '.join(sorted(GRAPHS))}; one whose author you trust is opened "
            "by KDYOLO(path, trust=True)."
        )
    for key, value in BaseBackend.read_metadata(path).items():
        if mistake := _mistake(key, value):
            raise CheckpointError(
                f"{path}: refused, its metadata has {quoted(key)}: {quoted(value)}, {mistake}. Export the model again."
            )


def _mistake(key: Any, value: Any) -> str | None:
    if key not in KEYS:
        return "an entry that Ultralytics does not write"
    if why := not_plain(value, text=MAX_TEXT):
        return why
    if key in WHOLE:
        try:
            return None if 0 < int(value) < 100_000 else "expected a number from 1 to 99,999"
        except (TypeError, ValueError):
            return "expected a number"
    if key in LITERALS and isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return "which is no plain value"
    if key == "args" and not isinstance(value, Mapping):
        return "expected names and values"
    if key == "names" and not isinstance(value, (Mapping, list)):
        return "expected a name for each class"
    return not_plain(value, text=MAX_TEXT)
