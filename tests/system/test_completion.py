"""Completion by the Tab key in bash and zsh, and as fish shows it, with the line that the documentation has for each.

Shells that are not installed are skipped.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.commands import CHECKOUT

# What is typed before Tab → the line after it.
LINES = {
    "kdyolo tr": "kdyolo train ",
    "kdyolo train --recipe coco-": "kdyolo train --recipe coco-mosaic ",
    "kdyolo train --recipe=coco-": "kdyolo train --recipe=coco-mosaic ",
    "kdyolo train lrf": "kdyolo train lrf=",  # without a blank: the value follows
    "kdyolo train recipe=coco-": "kdyolo train recipe=coco-mosaic ",
    "kdyolo train data=sho": "kdyolo train data=shop.yaml ",
    "kdyolo train --data=sho": "kdyolo train --data=shop.yaml ",
    "kdyolo predict best": "kdyolo predict best.pt ",
}
CODES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\r|\x07")
SECONDS = 60  # for an answer, on a machine that is busy


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with two files, and the command ``kdyolo`` of this checkout on the path."""
    (tmp_path / "shop.yaml").touch()
    (tmp_path / "best.pt").touch()
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/kdyolo"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kdyolo "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    return tmp_path


def documented(shell: str) -> str:
    """The line that the documentation tells to add for a shell."""
    page = (CHECKOUT / "docs/start/install.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| {shell} \| `[^`]+` \| `(.+)` \|$", page, flags=re.MULTILINE)
    assert row, shell
    return row[1].replace(r"\|", "|")


def needed(shell: str) -> str:
    return shutil.which(shell) or pytest.skip(f"there is no {shell} here")


def environment(home: Path) -> dict[str, str]:
    path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "HOME": str(home), "ZDOTDIR": str(home), "PATH": path, "PYTHONPATH": str(CHECKOUT),
            "TERM": "xterm", "XDG_CONFIG_HOME": str(home / ".config")}  # fmt: skip


class Terminal:
    """A shell on a terminal of its own, with one line in the file that it reads at the start."""

    def __init__(self, shell: str, home: Path) -> None:
        start = home / (".zshrc" if shell == "zsh" else ".bashrc")
        start.write_text(f"{documented(shell)}\nPS1='ready> '\n", encoding="utf-8")
        arguments = ["-i"] if shell == "zsh" else ["--rcfile", str(start), "-i"]
        self.process, self._terminal = pty.fork()
        if self.process == 0:
            os.chdir(home)
            os.execvpe(shell, [shell, *arguments], environment(home))

    def line_after_tab(self, begun: str, whole: str) -> str:
        """What stands in a line that was begun, after Tab, and an ``x`` typed as soon as the line is as expected."""
        os.write(self._terminal, f"{begun}\t".encode())
        shown = self.shown_until(whole.rstrip())
        os.write(self._terminal, b"x")
        shown += self.shown_until("x")
        os.write(self._terminal, b"\x15\n")  # Ctrl-U: an empty line
        self.shown_until("ready> ")
        return re.sub(r".\x08", "", shown)  # steps back

    def shown_until(self, expected: str) -> str:
        """What the terminal shows from now on, until a text is in it."""
        shown, end = "", time.monotonic() + SECONDS
        while expected not in shown:
            assert time.monotonic() < end, f"expected {expected!r}, found {shown!r}"
            if select.select([self._terminal], [], [], 0.1)[0]:
                shown = CODES.sub("", shown + os.read(self._terminal, 4096).decode("utf-8", "replace"))
        return shown

    def close(self) -> None:
        os.close(self._terminal)  # ends the shell, by SIGHUP
        os.waitpid(self.process, 0)


@pytest.fixture(params=["bash", "zsh"])
def terminal(request: pytest.FixtureRequest, home: Path) -> Iterator[Terminal]:
    needed(request.param)
    opened = Terminal(request.param, home)
    yield opened
    opened.close()


def test_tab_completes(terminal: Terminal) -> None:
    terminal.shown_until("ready> ")
    for begun, whole in LINES.items():
        assert terminal.line_after_tab(begun, whole) == f"{whole}x"


def test_fish_shows_the_completions(home: Path) -> None:
    fish = needed("fish")
    folder = home / ".config/fish/completions"
    folder.mkdir(parents=True)
    (folder / "kdyolo.fish").write_text(f"{documented('fish')}\n", encoding="utf-8")
    script = "\n".join(f"complete -C '{begun}'; echo end" for begun in (*LINES, "kdyolo comp"))
    done = subprocess.run([fish, "-c", script], cwd=home, env=environment(home), capture_output=True, text=True)
    *shown, described = (answer.strip() for answer in done.stdout.split("end\n")[:-1])
    for whole, answer in zip(LINES.values(), shown, strict=True):
        assert whole.split()[-1] in [line.partition("\t")[0] for line in answer.splitlines()], done.stderr
    assert described == "compare\tCompare runs, with the uncertainty that comes from seeds."  # whole, with its comma
