"""One command on one file, in a fork of a process that has everything imported: its limits, what it did, the verdict.

The process that forks must have no other threads. What a child does to the outside is noted by an audit hook: programs
that it starts, addresses that it connects to, and files that it writes outside of its folder.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pkgutil
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS, BYTES = 10, 1 << 30  # of CPU, and of memory beyond what the process had: the limits of a pair
WALL = 90.0  # seconds after which a pair counts as one that never ends, on a machine that may be busy
_ADDRESSES = 4 << 30  # bytes of address space beyond what the process has; threads reserve much that they never use
LONGEST = 4000  # signs of one line of an error
SHOWN = 64 << 10  # signs of all that is printed

KNOWN_PROGRAMS = {"git", "nvidia-smi", "lscpu", "uname", "ldconfig", "gcc", "cc", "c++", "g++", "sh -c uname", "mdfind"}
_COLOURS = re.compile(r"\x1b\[[0-9;]*[mK]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_UNHANDLED = "Run the same command with --debug"


@dataclass(frozen=True)
class Outcome:
    """What a child did.

    Attributes:
        code: Exit code, negative for a signal; None if it did not end by itself.
        seconds: CPU time.
        grown: Peak of its resident memory in bytes, beyond that of the process it was forked from.
        out: What it printed to stdout.
        err: What it printed to stderr.
        events: What it did to the outside.
        ran: Whether the marker stands there.
    """

    code: int | None
    seconds: float
    grown: int
    out: str
    err: str
    events: tuple[str, ...]
    ran: bool


def import_everything() -> None:
    """Import what commands import inside of themselves, so that no child pays for it."""
    import kdyolo

    for found in pkgutil.walk_packages(kdyolo.__path__, "kdyolo."):
        if not found.name.endswith(("__main__", "ray_backend")):
            importlib.import_module(found.name)
    for name in (
        "pycocotools.cocoeval",
        "faster_coco_eval",
        "torchvision",
        "matplotlib.pyplot",
        "pandas",
        "scipy.optimize",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that children do not copy every page by counting references


def threads() -> int:
    """Threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))


def observed(call: Callable[[], Any], here: Path, inside: Path, marker: Path) -> Outcome:
    """Run a call in a child.

    Args:
        call: What to run; a ``SystemExit`` is its exit code.
        here: Existing folder to run in.
        inside: Folder below which writing is no event.
        marker: Path that nothing but code out of a file makes.
    """
    out, err, report = (here.parent / f"{here.name}.{name}" for name in ("out", "err", "events"))
    report.touch()
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    pid = os.fork()
    if pid == 0:
        _child(call, here, inside, (out, err, report), pages)
    code, usage = _waited(pid)
    ran = marker.exists() or marker.is_symlink()
    if ran:
        shutil.rmtree(marker, ignore_errors=True)
        marker.unlink(missing_ok=True)
    texts = [path.read_text(encoding="utf-8", errors="surrogateescape") for path in (out, err)]
    events = tuple(dict.fromkeys(report.read_text(errors="replace").splitlines()))
    for path in (out, err, report):
        path.unlink()
    return Outcome(
        code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 - before, texts[0], texts[1], events, ran
    )


def _waited(pid: int) -> tuple[int | None, resource.struct_rusage]:
    deadline, pause = time.monotonic() + WALL, 0.001
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found or time.monotonic() > deadline:
            break
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    if not found:
        _, _, usage = os.wait4(pid, 0)
        return None, usage
    return os.waitstatus_to_exitcode(status), usage


def _child(call: Callable[[], Any], here: Path, inside: Path, files: Sequence[Path], pages: int) -> None:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_AS, (pages + _ADDRESSES, pages + _ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number, path in zip((1, 2), files[:2], strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(here)
        sys.addaudithook(_noter(os.open(files[2], os.O_WRONLY | os.O_APPEND), str(inside.resolve())))
        call()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else int(e.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _noter(report: int, inside: str) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that writes down what matters outside of a folder."""
    own = (inside, "/dev/null", "/dev/tty", "/dev/fd/", "/dev/pts/", "/proc/")

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        said = None
        if event in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
            program = os.path.basename(os.fsdecode(arguments[0] or arguments[1][0]))  # noqa: PTH119 - inside a hook
            said = None if program in KNOWN_PROGRAMS or program.startswith("python") else f"starts {arguments[:2]!r}"
        elif event == "os.system":
            said = f"starts {arguments[0]!r}"
        elif event == "socket.connect" and not isinstance(arguments[1], (str, bytes)):
            said = f"connects to {arguments[1]!r}"
        elif event in ("socket.getaddrinfo", "urllib.Request"):
            said = f"asks for {arguments[0]!r}"
        elif event == "open" and isinstance(arguments[0], str) and isinstance(arguments[2], int):
            if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                said = _outside("writes", arguments[0], own)
        elif event in ("os.mkdir", "os.remove", "os.rmdir"):
            said = _outside(event, arguments[0], own)
        elif event in ("os.kill", "os.killpg") and arguments[1] != 0 and not _own_child(arguments[0]):
            os.write(report, f"signals {arguments!r}\n".encode())
            raise PermissionError("the harness sends no signals")  # to -1, they would reach every process
        elif event in ("os.rename", "os.link", "os.symlink"):
            said = _outside(event, arguments[1], own)
        if said:
            os.write(report, (said[:300].replace("\n", " ") + "\n").encode(errors="replace"))

    return note


def _own_child(pid: int) -> bool:
    """Whether a process was started by this one, as the workers of a pool are."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    except OSError:
        return False


def _outside(what: str, path: Any, own: tuple[str, ...]) -> str | None:
    full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - links are left alone
    return None if full.startswith(own) else f"{what} {full}"


def failures(
    outcome: Outcome, may_succeed: bool, left: Sequence[Path] = (), *, lists: bool = False, runs: int = 0
) -> list[str]:
    """What is wrong with how a pair ended, each in two or three words; empty if nothing is.

    Args:
        outcome: What the child did.
        may_succeed: Whether exit code 0 is right as well.
        left: Files that only a command that succeeds may leave.
        lists: Whether the command may say how it went for each of several things, instead of one error.
        runs: Processes that it starts, each of which has the limit of CPU to itself.
    """
    found = []
    printed = outcome.out + outcome.err
    if outcome.ran:
        found.append("code ran")
    found += [f"event: {event.split(' ')[0]}" for event in outcome.events]
    if outcome.code is None:
        found.append("no end")
    elif outcome.code == -signal.SIGXCPU or outcome.seconds > SECONDS * (1 + runs):
        found.append("too much CPU")
    elif outcome.code < 0:
        found.append(f"killed by {signal.Signals(-outcome.code).name}")
    if outcome.grown > BYTES:
        found.append("too much memory")
    if "Traceback (most recent call last)" in printed:
        found.append("traceback")
    if outcome.code == 0 and not may_succeed:
        found.append("accepted")
    if outcome.code and outcome.code > 0 and "traceback" not in found:
        if _UNHANDLED in outcome.err:
            found.append("unhandled")
        elif sum(line.startswith("Error: ") for line in outcome.err.splitlines()) not in {1, 1 - lists}:
            found.append("not one error")
    if max(map(len, printed.split("\n"))) > LONGEST or len(printed) > SHOWN:
        found.append("too long a text")
    if _CONTROL.search(_COLOURS.sub("", printed)):
        found.append("control characters")
    if outcome.code != 0 and any(path.exists() for path in left):
        found.append("half-written")
    return list(dict.fromkeys(found))
