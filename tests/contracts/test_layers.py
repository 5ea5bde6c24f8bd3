"""Packages and layers: which package may import which, and how large a package and a module may grow."""

from __future__ import annotations

import ast

import pytest
from importlinter.api import read_configuration
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from tests.builders.commands import CHECKOUT
from tests.contracts.source import PACKAGE, modules, packages

MOST_LINES = 400
MOST_MODULES = 12
MOST_AT_THE_TOP = 12
FACE = {"__init__.py", "__init__.pyi", "__main__.py", "_version.py", "errors.py", "py.typed"}


def test_arrows_run_downward_and_in_no_circle(monkeypatch, capsys):
    monkeypatch.chdir(CHECKOUT)
    status = lint_imports(config_filename="pyproject.toml", cache_dir=None, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_imports_for_type_checkers_count(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    options = read_configuration("pyproject.toml")["session_options"]
    assert str(options["exclude_type_checking_imports"]).lower() == "false"


def test_contracts_cover_the_package(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    contracts = read_configuration("pyproject.toml")["contracts_options"]
    assert [contract["type"] for contract in contracts] == ["layers", "layers", "acyclic_siblings", "forbidden"]
    for contract in contracts[:2]:
        places = {name for layer in contract["layers"] for name in layer.replace(" ", "").split("|")}
        folder = CHECKOUT / contract["containers"][0].replace(".", "/")
        found = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
        assert places == found - {"__init__"}
    assert not any("ignore_imports" in contract for contract in contracts[:3])


def test_few_entries_at_the_top():
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"} - FACE
    assert len(entries) <= MOST_AT_THE_TOP, sorted(entries)


@pytest.mark.parametrize("folder", packages(), ids=lambda folder: folder.relative_to(CHECKOUT).as_posix())
def test_few_modules_in_a_package(folder):
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
    assert len(names) <= MOST_MODULES, names


def test_modules_hold_one_subject():
    lines = {path: (CHECKOUT / path).read_text(encoding="utf-8").count("\n") for path in modules()}
    assert not {path: count for path, count in lines.items() if count > MOST_LINES}


def test_every_module_says_what_it_is():
    texts = {path: ast.get_docstring(tree) or "" for path, tree in modules().items()}
    assert not [path for path, text in texts.items() if not text]
    unfinished = [path for path, text in texts.items() if text.splitlines()[0][-1] not in ".:"]
    assert not unfinished, "the first line is a sentence of its own"


@pytest.mark.parametrize("folder", packages()[1:], ids=lambda folder: folder.relative_to(CHECKOUT).as_posix())
def test_every_package_says_what_belongs_there(folder):
    text = ast.get_docstring(modules()[(folder / "__init__.py").relative_to(CHECKOUT).as_posix()]) or ""
    if folder == PACKAGE / "cli":  # the top: nothing imports it, so it may import everything
        return
    assert "Not here:" in text
    assert "May import:" in text
