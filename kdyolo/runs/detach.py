"""The ``--detach`` handshake: a command continues in the background once it has begun, or says why it could not.

The command runs whole in its new session, checks included, while the terminal waits: what ends it before it has begun
is an ordinary error there. Both sides talk through a temporary folder: ``output`` is what the command prints until
then, ``begun`` names the folder that it works in from then on.

A training has begun when its set-up is through, so that every check speaks on the terminal. Then ``RunLog.take_over``
points stdout and stderr of the process at ``train.log`` and silences what ``RunLog`` records anyway: one log, and one
writer for each line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from kdyolo.errors import RunError
from kdyolo.runs.log_reader import last_lines
from kdyolo.runs.pid_file import RecordedProcess, read_process
from kdyolo.runs.process_control import end, launch
from kdyolo.utils.atomic import write_atomic

ENVIRONMENT = "KDYOLO_DETACHED"  # names the temporary folder to the command
OUTPUT_NAME = "output"
BEGUN_NAME = "begun"
LINES = 20  # of the output of a command that did not begin
TIMEOUT = 30.0  # seconds to end a command that is no longer wanted


class DidNotBegin(RunError):
    """A detached command ended before it had begun.

    Attributes:
        output: The end of what the command printed.
        code: The exit code of the command; 1 if a signal ended it.
    """

    def __init__(self, output: str, code: int) -> None:
        self.output, self.code = output, max(code, 1)
        how = f"with exit code {code}" if code >= 0 else f"by signal {-code}"
        super().__init__(f"it was ended {how} before it had begun; the end of its output:\n{output}")


# ---- the terminal's side ---------------------------------------------------------------------------------------------


def detach(arguments: Sequence[str]) -> tuple[Path, RecordedProcess | None]:
    """Start a ``kdyolo`` command in the background and wait until it has begun.

    Args:
        arguments: The arguments of the command, without ``--detach``.

    Returns:
        The folder that the command works in, and its process; None in place of the process if it has ended already.

    Raises:
        DidNotBegin: The command ended before it had begun.
    """
    talk = Path(tempfile.mkdtemp(prefix="kdyolo-"))
    keep = False
    try:
        child = launch([*own_command(), *arguments], talk / OUTPUT_NAME, env={ENVIRONMENT: str(talk)})
        try:
            folder = _wait(child, talk)
        except BaseException:  # Ctrl-C on the terminal is meant for what it waits for
            if child.poll() is None:
                end(psutil.Process(child.pid), TIMEOUT)
            raise
        process = read_process(folder)
        keep = bool(process and process.launcher)  # the launcher and the other ranks go on printing there
        return folder, process
    finally:
        if not keep:
            shutil.rmtree(talk)


def own_command() -> list[str]:
    """How this program was started: by its script, which leaves the current folder off Python's path, or by ``-m``."""
    script = Path(sys.argv[0])
    by_script = script.stem == "kdyolo" and script.is_file()
    return [sys.executable, str(script)] if by_script else [sys.executable, "-m", "kdyolo"]


def _wait(child: subprocess.Popen[bytes], talk: Path) -> Path:
    while True:
        code = child.poll()
        if (talk / BEGUN_NAME).is_file():
            return Path((talk / BEGUN_NAME).read_text(encoding="utf-8"))
        if code is not None:
            raise DidNotBegin("\n".join(last_lines(talk / OUTPUT_NAME, LINES)), code)
        time.sleep(0.05)


# ---- the command's side ----------------------------------------------------------------------------------------------


def output_file() -> Path | None:
    """Where this command's output goes while a terminal waits for it to begin; None if none does."""
    return Path(os.environ[ENVIRONMENT]) / OUTPUT_NAME if ENVIRONMENT in os.environ else None


def tell_begun(folder: Path) -> None:
    """Tell the waiting terminal that all checks are passed and where the work goes on."""
    talk = Path(os.environ.pop(ENVIRONMENT))  # whatever this process starts is no longer waited for
    if talk.is_dir():  # else the terminal no longer waits
        write_atomic(talk / BEGUN_NAME, str(folder))
