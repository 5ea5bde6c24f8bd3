"""Digests of the Ultralytics functions that kdyolo overrides or patches, written for the test that compares them.

    .venv/bin/python scripts/ultralytics_hashes.py

Run it once the functions that ``tests/contracts/test_ultralytics.py`` names have been read and kdyolo's own side fits
them. It writes ``tests/contracts/ultralytics_hashes.json``: version of Ultralytics → qualified name → SHA-256 of the
function's source.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import ultralytics

import kdyolo

TABLE = Path(__file__).parent.parent / "tests/contracts/ultralytics_hashes.json"

# What `kdyolo.utils.ultralytics_patches` writes: module → names in it. Whatever reads one of them there is patched.
PATCHED = {
    "ultralytics.nn.tasks": {"SAFE_LOAD", "globals", "torch_safe_load"},
    "ultralytics.data.utils": {"check_image"},
    "ultralytics.data.dataset": {"load_dataset_cache_file"},
    "ultralytics.engine.exporter": {"check_det_dataset"},
    "ultralytics.engine.trainer": {"check_det_dataset", "convert_ndjson_to_yolo_if_needed", "YAML"},
    "ultralytics.engine.validator": {
        *("check_det_dataset", "convert_ndjson_to_yolo_if_needed", "AutoBackend", "get_torch_device_backend")
    },
}
# Functions for which kdyolo has its own, or which it calls for what they do to a file.
REPLACED = {
    "ultralytics.data.utils": ("check_det_dataset", "check_image", "load_dataset_cache_file"),
    "ultralytics.utils.torch_utils": ("strip_optimizer",),
}


def digests() -> dict[str, str]:
    """Qualified name → SHA-256 of the source, of every Ultralytics function that is overridden or patched."""
    found = {name: function for cls in own_classes() for name, function in overridden(cls)}
    for module, names in PATCHED.items():
        found.update(reading(importlib.import_module(module), names))
    for module, functions in REPLACED.items():
        found.update({f"{module}.{name}": getattr(importlib.import_module(module), name) for name in functions})
    found["ultralytics.utils.TryExcept.__exit__"] = ultralytics.utils.TryExcept.__exit__
    found["ultralytics.utils.YAML.save"] = ultralytics.utils.YAML.save
    bar = importlib.import_module("ultralytics.utils.tqdm").TQDM
    found.update(
        {f"ultralytics.utils.tqdm.TQDM.{name}": getattr(bar, name) for name in ("__init__", "set_description")}
    )
    return {name: hashlib.sha256(inspect.getsource(found[name]).encode()).hexdigest() for name in sorted(found)}


def own_classes() -> Iterator[type]:
    """The classes that kdyolo's modules define."""
    for info in pkgutil.walk_packages(kdyolo.__path__, "kdyolo."):
        if info.name == "kdyolo.__main__":
            continue
        module = importlib.import_module(info.name)
        yield from (c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)


def overridden(cls: type) -> Iterator[tuple[str, Any]]:
    """Every definition of an Ultralytics base that a class, or one of our classes before that base, has its own for."""
    own: set[str] = set()
    for base in cls.__mro__:
        if not is_ultralytics(base.__module__):
            own |= vars(base).keys() if base.__module__.partition(".")[0] == "kdyolo" else set()
            continue
        for name in own & vars(base).keys():
            function = function_of(vars(base)[name])
            if function is not None:
                yield f"{base.__module__}.{base.__qualname__}.{name}", function


def reading(module: ModuleType, names: set[str]) -> Iterator[tuple[str, Any]]:
    """Functions and methods of a module that read one of its global names."""
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        members = vars(value).items() if inspect.isclass(value) else [("", value)]
        for member, own in members:
            function = function_of(own)
            if function is not None and names & set(names_in(function.__code__)):
                yield ".".join(filter(None, (module.__name__, name, member))), function


def names_in(code: CodeType) -> Iterator[str]:
    """Names that a function uses and does not define, those of functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def function_of(member: Any) -> Any:
    """The function behind a member of a class or module, without decorators; None if there is none."""
    member = getattr(member, "fget", None) or getattr(member, "__func__", member)
    member = inspect.unwrap(member) if callable(member) else member
    return member if inspect.isfunction(member) and is_ultralytics(member.__module__) else None


def is_ultralytics(module: str) -> bool:
    """Whether a module is one of Ultralytics'."""
    return module.partition(".")[0] == "ultralytics"


def main() -> None:
    """Write the table."""
    table = {ultralytics.__version__: digests()}
    TABLE.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {len(table[ultralytics.__version__])} functions of Ultralytics {ultralytics.__version__} to {TABLE}")


if __name__ == "__main__":
    main()
