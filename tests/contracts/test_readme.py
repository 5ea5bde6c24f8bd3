"""Every command and every name in the README works as written."""

from __future__ import annotations

import ast
import re
import shlex

import pytest

import kdyolo
from kdyolo.cli import cli
from kdyolo.engine.options.train_options import OPTION_NAMES
from kdyolo.utils.shipped_files import shipped
from tests.builders.commands import CHECKOUT, COMMON

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
SHELL = [line.split(" #")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines() if line]


@pytest.mark.parametrize("line", [line for line in SHELL if "kdyolo " in line])
def test_kdyolo_commands_parse(line):
    _, name, *arguments = shlex.split(line[line.index("kdyolo ") :])
    cli.get_command(None, name).make_context(name, arguments)  # raises on an unknown option or a missing value


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith("make ")])
def test_make_targets_exist(line):
    makefile = (CHECKOUT / "Makefile").read_text()
    assert re.search(rf"^{line.split()[1]}:", makefile, flags=re.MULTILINE)


def test_the_rest_of_the_shell_is_stock_ultralytics():
    others = [line for line in SHELL if not line.startswith(("kdyolo ", "make ", "torchrun "))]
    assert [line.split()[:2] for line in others] == [["yolo", "val"]]


def test_python_names_exist():
    code = next(text for kind, text in BLOCKS if kind == "python")
    imported = [n.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) for n in node.names]
    assert imported == ["KDYOLO", "convert_coco", "load_backbone"]
    called = {node.func.attr for node in ast.walk(ast.parse(code))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}  # fmt: skip
    assert called == {"train", "val", "predict", "export"}
    assert all(hasattr(kdyolo.KDYOLO, name) for name in called)


def test_names_in_every_python_block_exist():
    for code in (text for kind, text in BLOCKS if kind == "python"):
        imported = [n for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom) for n in node.names]
        assert imported
        assert all(hasattr(kdyolo, name.name) for name in imported)


def test_options_of_evaluation_are_described():
    section = README[README.index("## Evaluating") : README.index("## Numbers")]
    for command in ("val", "score"):
        for parameter in cli.get_command(None, command).params:
            option = parameter.opts[0]
            common = ("--model", "--data", "--imgsz", "--batch", "--device", "--split", *COMMON)
            assert option in common or not option.startswith("--") or f"`{option}" in section, option


def test_the_table_of_options_is_complete():
    table = README[README.index("## Options of") : README.index("**Recipes.**")]
    named = set(re.findall(r"`(--[a-z-]+)", table))
    options = {
        name for parameter in cli.get_command(None, "train").params for name in parameter.opts if name.startswith("--")
    }
    assert options - {*COMMON, "--freeze-epochs"} <= named
    assert named <= options
    assert all(f"`{key}`" in table for key in OPTION_NAMES if key != "freeze_epochs")


def test_every_shipped_file_is_described():
    for name in shipped("models"):
        assert f"`{name}`" in README
    for name in shipped("recipes"):
        assert f"`{name.removesuffix('.yaml')}`" in README


@pytest.mark.integration
def test_python_example_runs(shared, tmp_path, monkeypatch):
    """The README's Python, with the real data under the names it uses and a run short enough for a test."""
    import torch

    from kdyolo.engine.model import KDYOLO

    code = next(text for kind, text in BLOCKS if kind == "python")
    (tmp_path / "COCO2017").symlink_to(shared / "coco128")
    (tmp_path / "ckpt.pth").symlink_to(shared / "checkpoints/vfmkd_n_resume.pth")
    (tmp_path / "image.jpg").symlink_to(next((shared / "coco128/val2017").iterdir()))
    train, val = KDYOLO.train, KDYOLO.val

    def short(self, **keywords):
        assert keywords.pop("epochs") == 100
        assert keywords.pop("freeze_epochs") == 50
        fast = {"imgsz": 32, "device": "cpu", "plots": False, "val": False, "work_dir": "run"}
        return train(self, epochs=2, freeze_epochs=1, **fast, **keywords)

    def quiet(self, **keywords):
        return val(self, device="cpu", plots=False, save_dir="val", **keywords)

    monkeypatch.setattr(KDYOLO, "train", short)
    monkeypatch.setattr(KDYOLO, "val", quiet)
    names = {"images": torch.rand(1, 3, 64, 64)}
    exec(compile(code, "README.md", "exec"), names)
    assert [tuple(p.shape[2:]) for p in (names["p3"], names["p4"], names["p5"])] == [(8, 8), (4, 4), (2, 2)]
    assert (tmp_path / "run/weights/best.onnx").is_file()
