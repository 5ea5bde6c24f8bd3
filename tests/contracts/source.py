"""The package as its contracts see it: modules as syntax trees, without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.builders.commands import CHECKOUT

PACKAGE = CHECKOUT / "kdyolo"


@cache
def modules() -> dict[str, ast.Module]:
    """Path below the checkout, e.g. ``"kdyolo/runs/history.py"`` → syntax tree, of every module."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {file.relative_to(CHECKOUT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def packages() -> list[Path]:
    """Every folder with modules in it, ``kdyolo/`` first."""
    return sorted(file.parent for file in PACKAGE.rglob("__init__.py"))


def docstrings() -> Iterator[tuple[str, str]]:
    """``"file:line"`` → docstring of every module, class and function, private ones too."""
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text is not None:
                    yield f"{path}:{getattr(node, 'lineno', 1)}", text
