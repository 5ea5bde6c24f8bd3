"""Exported models: graphs with plain metadata are opened, programs and strange metadata are refused before that."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from kdyolo import KDYOLO
from kdyolo.checkpoints.checks.exported_models import check_exported
from kdyolo.errors import CheckpointError

PLAIN = {"names": "{0: 'a'}", "stride": "32", "imgsz": "[64, 64]", "task": "detect", "args": "{'nms': False}"}


def export(path: Path, **metadata: str) -> Path:
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


def test_plain_metadata_passes(tmp_path: Path) -> None:
    check_exported(export(tmp_path / "m.onnx", **PLAIN))
    assert KDYOLO(tmp_path / "m.onnx").task == "detect"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", "__import__('os').mkdir('ran')"),
        ("names", "[" * 100_000),
        ("names", "5"),
        ("args", "[1]"),
        ("stride", "x"),
        ("batch", "-1"),
        ("imgsz", "(" * 300 + ")" * 300),
        ("forward", "1"),
        ("model", "1"),
        ("description", "x" * 2_000_000),
    ],
)
def test_strange_metadata_is_refused_before_anything_opens_the_file(tmp_path: Path, key: str, value: str) -> None:
    path = export(tmp_path / "m.onnx", **{**PLAIN, key: value})
    with pytest.raises(CheckpointError, match=r"m\.onnx: refused, its metadata has") as caught:
        KDYOLO(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["m.torchscript", "m.engine", "m_saved_model", "m.pb", "m.mlpackage", "m.mnn"])
def test_programs_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"refused, because its format .* is that of a program.*trust=True"):
        KDYOLO(tmp_path / name)
