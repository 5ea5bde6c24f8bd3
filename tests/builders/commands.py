"""Commands and scripts as a user would run them, and folders compared file by file."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from tests.system.forkserver import environment, fork_server

CHECKOUT = Path(__file__).resolve().parents[2]
# What commands have in common.
COMMON = ("--debug", "--help", "--version", "-V", "--quiet", "-q", "--verbose", "-v", "--json")


def tree(folder: Path) -> dict[str, str]:
    """Relative path → digest of the content, or the target of a link."""

    def digest(path: Path) -> str:
        return f"→ {path.readlink()}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()

    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file())
    return {str(path.relative_to(folder)): digest(path) for path in files}


def run_command(
    *command: str | Path, cwd: Path, ok: bool = True, fresh: bool = False, **env: str | None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, in a folder; its output is shown if it does not end as expected.

    Args:
        command: The program and its arguments. This Python is forked, not started (see ``tests.system.forkserver``).
        cwd: The folder.
        ok: Whether the command is to succeed.
        fresh: Whether Python is started after all, where a test is about what happens then.
        env: Environment variables beside those that commands have anyway; None: without it.
    """
    words, own = [str(part) for part in command], {k: v for k, v in (environment() | env).items() if v is not None}
    if words[0] == sys.executable and not fresh:
        done = fork_server().run(*words[1:], cwd=cwd, env=own, timeout=300)
    else:
        done = subprocess.run(words, cwd=cwd, env=own, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode == 0) is ok, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def script_module(name: str) -> ModuleType:
    """A script of ``scripts/``, imported anew, so that its functions can be called."""
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module
