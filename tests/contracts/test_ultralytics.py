"""What kdyolo relies on inside Ultralytics: the functions it overrides or patches, and who writes into its modules.

A new Ultralytics fails here first, with the names of the functions that changed.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import ultralytics

import kdyolo
from kdyolo.utils import ultralytics_patches

PACKAGE = Path(kdyolo.__file__).parent
CHECKOUT = PACKAGE.parent
PATCHES = Path(ultralytics_patches.__file__)


# ---- sources ---------------------------------------------------------------------------------------------------------


def hashes() -> ModuleType:
    """``scripts/ultralytics_hashes.py`` as a module."""
    spec = importlib.util.spec_from_file_location("ultralytics_hashes", CHECKOUT / "scripts/ultralytics_hashes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def complaints(table: Mapping[str, Mapping[str, str]], version: str, found: Mapping[str, str]) -> list[str]:
    """What has to be read, compared with the table's newest version if the installed one is not in it."""
    recorded = table.get(version, table[max(table, key=lambda text: [int(n) for n in re.findall(r"\d+", text)])])
    advice = "update with scripts/ultralytics_hashes.py"
    changed = [name for name in found if name in recorded and recorded[name] != found[name]]
    new, gone = [name for name in found if name not in recorded], [name for name in recorded if name not in found]
    lines = []
    if changed:
        lines.append(f"changed: {', '.join(changed)}; read them and {advice}")
    if new:
        lines.append(f"not recorded: {', '.join(new)}; {advice}")
    if gone:
        lines.append(f"neither overridden nor patched any more, or gone: {', '.join(gone)}; {advice}")
    return lines


def test_every_ultralytics_function_that_is_overridden_or_patched_is_the_one_that_was_read() -> None:
    script = hashes()
    table = json.loads(script.TABLE.read_text(encoding="utf-8"))
    assert not complaints(table, ultralytics.__version__, script.digests())


def test_a_changed_function_is_named_whatever_the_version() -> None:
    table = {"8.4.190": {"a": "1", "b": "2"}}
    assert complaints(table, "8.4.190", {"a": "1", "b": "2"}) == []
    assert complaints(table, "8.4.191", {"a": "1", "b": "2"}) == []
    expected = "changed: b; read them and update with scripts/ultralytics_hashes.py"
    assert complaints(table, "8.4.191", {"a": "1", "b": "3"}) == [expected]
    assert complaints(table, "8.4.190", {"a": "1", "b": "3"}) == [expected]
    other = complaints(table, "8.4.190", {"a": "1", "c": "3"})
    assert [line.partition(";")[0] for line in other] == [
        "not recorded: c",
        "neither overridden nor patched any more, or gone: b",
    ]


def test_functions_are_found_wherever_they_are_overridden_or_patched() -> None:
    names = hashes().digests().keys()
    assert names >= {
        "ultralytics.engine.trainer.BaseTrainer.save_model",  # of an indirect base
        "ultralytics.models.yolo.detect.train.DetectionTrainer.get_validator",
        "ultralytics.models.yolo.model.YOLO.task_map",  # a property
        "ultralytics.utils.torch_utils.EarlyStopping.__call__",
        "ultralytics.nn.tasks.parse_model",  # module_registered
        "ultralytics.nn.tasks.torch_safe_load",  # checkpoints_read_by
        "ultralytics.data.utils.verify_image_label",  # image_shapes_known
        "ultralytics.data.utils.check_image",
        "ultralytics.engine.validator.BaseValidator.__call__",  # evaluating_on, under a decorator
    }


def test_a_digest_is_that_of_the_source_as_it_stands() -> None:
    from hashlib import sha256

    from ultralytics.nn.tasks import parse_model

    digest = sha256(inspect.getsource(parse_model).encode()).hexdigest()
    assert hashes().digests()["ultralytics.nn.tasks.parse_model"] == digest


# ---- writes ----------------------------------------------------------------------------------------------------------


def imported_from_ultralytics(tree: ast.AST) -> set[str]:
    """Names that stand for something of Ultralytics' in a module, wherever in it they are imported."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ultralytics":
            names |= {alias.asname or alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            names |= {a.asname or "ultralytics" for a in node.names if a.name.partition(".")[0] == "ultralytics"}
    return names


def root(node: ast.AST) -> str | None:
    """``a`` of ``a.b.c`` and ``a.b["c"]``; None of a bare name, which an assignment only binds anew."""
    inner = node
    while isinstance(inner, (ast.Attribute, ast.Subscript)):
        inner = inner.value
    return inner.id if inner is not node and isinstance(inner, ast.Name) else None


def writes(source: str) -> Iterator[str]:
    """Assignments and deletions in something imported from Ultralytics, and every setattr that is not on ``self``."""
    tree = ast.parse(source)
    names = imported_from_ultralytics(tree)
    for node in ast.walk(tree):
        if isinstance(getattr(node, "ctx", None), (ast.Store, ast.Del)) and root(node) in names:
            yield f"{node.lineno}: {ast.unparse(node)}"
        called = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and called in {"setattr", "delattr"} and ast.unparse(node.args[0]) != "self":
            yield f"{node.lineno}: {ast.unparse(node)}"


def test_only_one_module_writes_into_ultralytics() -> None:
    found = {path: list(writes(path.read_text(encoding="utf-8"))) for path in sorted(PACKAGE.rglob("*.py"))}
    assert len(found.pop(PATCHES)) >= 8
    assert {path.relative_to(CHECKOUT).as_posix(): lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from ultralytics.nn import tasks\ntasks.SAFE_LOAD = True", 1),
        ("from ultralytics.nn import tasks as t\ndef f():\n    t.SAFE_LOAD, x = True, 1", 1),
        ("def f():\n    import ultralytics.nn.tasks\n    ultralytics.nn.tasks.A = 1", 1),
        ("from ultralytics.utils import DEFAULT_CFG_DICT\nDEFAULT_CFG_DICT['a'] = 1", 1),
        ("from ultralytics.nn.tasks import DetectionModel\nDetectionModel.load = None\ndel DetectionModel.load", 2),
        ("from ultralytics.engine import trainer\ntrainer.RANK += 1", 1),
        ("from ultralytics.engine import trainer\nfor m in (trainer,):\n    setattr(m, 'RANK', -1)", 1),
        ("from ultralytics import YOLO\nmodel = YOLO('a.yaml')\nmodel.x = YOLO.y", 0),
        ("from kdyolo.engine import trainer\ntrainer.x = 1", 0),
    ],
)
def test_a_write_is_seen_however_it_is_spelt(source: str, count: int) -> None:
    assert len(list(writes(source))) == count


def test_importing_the_patches_imports_no_ultralytics() -> None:
    tree = ast.parse(PATCHES.read_text(encoding="utf-8"))
    assert not imported_from_ultralytics(ast.Module([n for n in tree.body if "Import" in type(n).__name__], []))


def overrides_in_the_docstring() -> Iterator[tuple[str, str]]:
    """Class and method of every override that the patches' docstring lists."""
    for entry in re.findall(r"^(``\w+\.\w+``[^:]*):", str(ultralytics_patches.__doc__), re.MULTILINE):
        cls = ""
        for dotted in re.findall(r"``([\w.]+)``", entry):
            *qualifier, method = dotted.split(".")
            cls = qualifier[0] if qualifier else cls
            yield cls, method


def test_the_overrides_that_the_patches_list_are_overrides() -> None:
    script, listed = hashes(), list(overrides_in_the_docstring())
    assert len(listed) >= 15
    classes: dict[str, list[type[Any]]] = {}
    for cls in script.own_classes():
        classes.setdefault(cls.__name__, []).append(cls)
    for name, method in listed:
        bases = [own for cls in classes.get(name, []) for own in cls.__mro__ if own.__module__.startswith("kdyolo.")]
        assert any(vars(own).get(method) for own in bases), f"{name}.{method} is listed and not there"
