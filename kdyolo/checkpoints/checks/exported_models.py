"""Exported models (ONNX, OpenVINO, …), checked before Ultralytics opens them: form, no programs, plain metadata.

Ultralytics reads an export's metadata with ``ast.literal_eval`` and sets every entry as an attribute of its backend.
"""

from __future__ import annotations

import ast
import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.base import BaseBackend

from kdyolo.checkpoints.checks.missing_models import refuse_weights_alone
from kdyolo.errors import CheckpointError
from kdyolo.models.description_check import not_plain
from kdyolo.utils.plain_files import is_file
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
_GRAPH = 7  # number of the field of an ONNX file that holds the graph
_VARINT, _BYTES = 0, 2  # the forms of its fields


def check_exported(path: str | Path) -> None:
    """Refuse an exported model that is a program, or whose metadata is not what Ultralytics writes.

    Args:
        path: The file or folder, as it is given to Ultralytics.

    Raises:
        CheckpointError: It is of another format, not what its name says, or its metadata has unknown keys or anything
            but plain data.
    """
    try:
        kind = AutoBackend._model_type(str(path))
    except Exception as e:  # of many types
        raise CheckpointError(f"{path}: expected a .pt file or an exported model ({str(e).splitlines()[0]}).") from e
    if kind in (None, "pt"):  # no format by its name
        refuse_weights_alone(path)
        raise CheckpointError(
            f"{path}: expected a trained detector, e.g. a run's weights/best.pt, or an exported model; found "
            f"{'a folder' if Path(path).is_dir() else 'another kind of file'}."
        )
    if kind not in GRAPHS:
        raise CheckpointError(
            f"{path}: refused, because its format ({kind}) is that of a program, or cannot be looked through before it "
            f"runs. Expected a .pt file, or one of {', '.join(sorted(GRAPHS))}; one whose author you trust is opened "
            "by KDYOLO(path, trust=True)."
        )
    if kind in _FORMS:
        pattern, form = _FORMS[kind]
        files = list(Path(path).glob(pattern)) if Path(path).is_dir() else [Path(path)]
        if not files or not is_file(files[0]) or not form(files[0]):
            what = files[0] if files else path
            raise CheckpointError(f"{what}: damaged, or no {kind} model as its name says. Export or copy it again.")
    for key, value in BaseBackend.read_metadata(path).items():
        if mistake := _mistake(key, value):
            raise CheckpointError(
                f"{path}: refused, its metadata has {quoted(key)}: {quoted(value)}, {mistake}. Export the model again."
            )


def _is_onnx(path: Path) -> bool:
    """Whether a file has the form of an ONNX model: fields that end where the file does, and among them a graph."""
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            return _GRAPH in list(_fields(content))
        except (IndexError, ValueError):
            return False


def _fields(content: mmap.mmap) -> Iterator[int]:
    """The numbers of the fields of a protocol buffer.

    Raises:
        IndexError: The last field goes beyond the end.
        ValueError: A field is of another form than those of an ONNX model.
    """
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        if tag & 7 == _BYTES:
            length, at = _varint(content, at)
            at += length
        elif tag & 7 == _VARINT:
            _, at = _varint(content, at)
        else:
            raise ValueError(tag)
        if at > len(content) or not tag >> 3:
            raise IndexError
        yield tag >> 3


def _varint(content: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of seven bits to a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def _starts_with(text: bytes, at: int = 0) -> Callable[[Path], bool]:
    def check(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(at + len(text))[at:].startswith(text)

    return check


# Format → in a folder, its file; and what that looks like. Of Paddle's, metadata alone can be looked at.
_FORMS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "onnx": ("*.onnx", _is_onnx),
    "openvino": ("*.xml", _starts_with(b"<?xml")),
    "ncnn": ("*.param", _starts_with(b"7767517")),
    "litert": ("*.tflite", _starts_with(b"TFL3", 4)),
}


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
