"""A run folder is read without torch and Ultralytics, which take seconds to import."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import kdyolo.runs


def test_no_module_of_runs_imports_torch_or_ultralytics():
    names = [f"kdyolo.runs.{module.name}" for module in pkgutil.iter_modules(kdyolo.runs.__path__)]
    assert len(names) > 8
    code = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = sorted({'torch', 'ultralytics', 'matplotlib'} & set(sys.modules))\n"
        "    assert not heavy, f'{name} imports {heavy}'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
