"""Commands as a user would run them, and folders compared file by file."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
COMMON = ("--debug", "--help", "--quiet", "-q", "--verbose", "-v", "--json")  # what commands have in common


def tree(folder: Path) -> dict[str, str]:
    """Relative path → digest of the content, or the target of a link."""

    def digest(path: Path) -> str:
        return f"→ {path.readlink()}" if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()

    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or path.is_file())
    return {str(path.relative_to(folder)): digest(path) for path in files}


def run_command(*command: str | Path, cwd: Path, ok: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user would, in a folder; its output is shown if it does not end as expected."""
    hidden = ("PYTEST_CURRENT_TEST", "PYTHONPATH")  # Ultralytics behaves differently inside a test runner
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | env
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.returncode == 0) is ok, f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done
