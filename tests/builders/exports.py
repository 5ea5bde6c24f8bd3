"""Exported models, as small as they can be."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

PLAIN = {"names": "{0: 'a'}", "stride": "32", "imgsz": "[64, 64]", "task": "detect", "args": "{'nms': False}"}


def write_onnx(path: Path, **metadata: str) -> Path:
    """An ONNX model that gives its input back, with metadata as Ultralytics writes it."""
    value = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    out = helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 3, 64, 64])
    model = helper.make_model(
        helper.make_graph([helper.make_node("Identity", ["images"], ["output0"])], "g", [value], [out])
    )
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    onnx.save(model, path)
    return path
