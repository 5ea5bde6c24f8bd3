"""Exported models: graphs with plain metadata are opened, programs and strange metadata are refused before that."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdyolo import KDYOLO
from kdyolo.checkpoints.checks.exported_models import check_exported
from kdyolo.errors import CheckpointError
from tests.builders.exports import PLAIN, write_onnx


def test_plain_metadata_passes(tmp_path: Path) -> None:
    check_exported(write_onnx(tmp_path / "m.onnx", **PLAIN))
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
    path = write_onnx(tmp_path / "m.onnx", **{**PLAIN, key: value})
    with pytest.raises(CheckpointError, match=r"m\.onnx: refused, its metadata has") as caught:
        KDYOLO(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["m.torchscript", "m.engine", "m_saved_model", "m.pb", "m.mlpackage", "m.mnn"])
def test_programs_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=r"refused, because its format .* is that of a program.*trust=True"):
        KDYOLO(tmp_path / name)


def sound(folder: Path, kind: str) -> tuple[Path, Path]:
    """An export of a format, as far as its form is looked at: its path, and the file that has the form."""
    if kind == "onnx":
        path = write_onnx(folder / "m.onnx", **PLAIN)
        return path, path
    name, content = {
        "litert": ("m.tflite", b"\x1c\0\0\0TFL3\x14\0"),
        "openvino": ("m_openvino_model", b"<?xml version='1.0'?><net/>"),
        "ncnn": ("m_ncnn_model", b"7767517\n1 1\n"),
    }[kind]
    path = file = folder / name
    if kind != "litert":
        path.mkdir()
        file = path / {"openvino": "m.xml", "ncnn": "model.ncnn.param"}[kind]
    file.write_bytes(content)
    return path, file


@pytest.mark.parametrize("kind", ["onnx", "litert", "openvino", "ncnn"])
@pytest.mark.parametrize("damage", ["empty", "zeros", "text", "cut", "longer", "pipe", "missing"])
def test_what_is_no_model_of_its_format_is_refused_before_a_runtime_is_asked_for(
    tmp_path: Path, kind: str, damage: str
) -> None:
    path, file = sound(tmp_path, kind)
    check_exported(path)
    whole = file.read_bytes()
    if damage in ("cut", "longer") and kind != "onnx":
        pytest.skip("of the other formats only the beginning is looked at")
    file.unlink()
    if damage == "missing" and path != file:
        pass  # the folder is there
    elif damage == "pipe":
        os.mkfifo(file)
    else:
        contents = {"empty": b"", "missing": b"", "zeros": bytes(100_000), "text": b"a model\n" * 99}
        contents |= {"cut": whole[: len(whole) // 2], "longer": whole + b"\x3a\xff\xff\xff\x7f"}
        file.write_bytes(contents[damage])
    with pytest.raises(CheckpointError, match=r"damaged, or no .* model as its name says"):
        KDYOLO(path)


def test_numbers_without_end_in_an_onnx_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08" + b"\xff" * 1_000_000)
    with pytest.raises(CheckpointError, match="damaged"):
        check_exported(path)
