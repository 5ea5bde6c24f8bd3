"""Names of files in a run folder: written once, and what a folder is known by."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import kdyolo
from kdyolo.runs import files
from kdyolo.runs.files import ever_saved, is_run, resumable, run_folder_of, weights_file

PACKAGE = Path(kdyolo.__file__).parent
NAMES = {value for name, value in vars(files).items() if name.isupper() and name != "WEIGHTS_FOLDER"}
# Below ``runs`` in the layers, so it cannot import it: it takes a run folder for the checkpoints that Ultralytics and
# kdyolo leave there.
MAY_REPEAT = {"checkpoints/export.py": {"best.pt", "last.pt", "args.yaml", "weights"}}


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every literal that names a file or a column, alone or at the end of a path; no docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value if node.value in NAMES else node.value.rpartition("/")[2]
            if name in NAMES and " " not in node.value:
                yield node.lineno, name
        if isinstance(node, ast.BinOp) and ast.unparse(node.right) == repr(files.WEIGHTS_FOLDER):
            yield node.lineno, files.WEIGHTS_FOLDER


def test_every_name_is_a_literal_in_one_module_only():
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE).as_posix()
        if place == "runs/files.py":
            continue
        allowed = MAY_REPEAT.get(place, set())
        found += [
            f"{place}:{line}: {name!r}"
            for line, name in literals(ast.parse(path.read_text(encoding="utf-8")))
            if name not in allowed
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("a / 'best.pt'", ["best.pt"]),
        ("a / 'weights/last.pt'", ["last.pt"]),
        ("a.glob('*/*/args.yaml')", ["args.yaml"]),
        ("x['metrics/mAP50(B)']", ["metrics/mAP50(B)"]),
        ("a / 'weights' / n", ["weights"]),
        ("options['weights']; f('see weights/best.pt'); a / 'other.pt'", []),
    ],
)
def test_the_search_sees_names(code, names):
    assert [name for _, name in literals(ast.parse(code))] == names


def test_the_folder_that_a_path_stands_for(tmp_path):
    run = tmp_path / "train"
    assert run_folder_of(run) == run
    assert run_folder_of(run / "weights" / "best.pt") == run_folder_of(weights_file(run, "epoch3.pt")) == run
    assert run_folder_of(tmp_path / "v1.2") == tmp_path / "v1.2"


def test_what_a_folder_is_known_by(tmp_path):
    assert not is_run(tmp_path)
    (tmp_path / files.ARGS_NAME).touch()
    assert is_run(tmp_path)


@pytest.mark.parametrize(
    ("state", "last", "saved", "goes_on"),
    [
        (None, False, False, False),
        (b"", True, False, False),  # killed while the first epoch was saved
        (b"x", False, False, False),
        (None, True, True, False),  # finished
        (b"x", True, True, True),
    ],
)
def test_what_can_be_resumed(state, last, saved, goes_on, tmp_path):
    (tmp_path / files.WEIGHTS_FOLDER).mkdir()
    if state is not None:
        weights_file(tmp_path, files.STATE_NAME).write_bytes(state)
    if last:
        weights_file(tmp_path, files.LAST_NAME).touch()
    assert (ever_saved(tmp_path), resumable(tmp_path)) == (saved, goes_on)
