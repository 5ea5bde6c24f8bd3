"""A Python interpreter that has imported the large libraries and forks a child for each command.

A process that imports torch spends four seconds of a core on that before it does anything. A child that is forked here
starts at once, and is a real process otherwise: with a session, a folder, an environment and an output of its own, to
be signalled, killed and followed. Neither kdyolo nor Ultralytics is imported before the fork, so what they decide from
the environment when they are imported (ranks, folders, threads) is decided in the child. Pythons that such a child
starts in turn, trainings of a study and ranks of a run, are forked from it, and import both anew.

Only what is decided while the interpreter starts or torch is loaded (``OMP_WAIT_POLICY``, ``PYTHONUNBUFFERED``, what is
installed) needs a real start: see :func:`tests.builders.commands.run_command`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import inspect
import json
import logging
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

# Everything dear that Ultralytics and kdyolo import, but for polars, which starts threads.
PRELOADED = (
    "numpy",
    "torch",
    "torchvision",
    "torch.utils.data",
    "torch.distributed",
    "cv2",
    "matplotlib.pyplot",
    "scipy.optimize",
    "pandas",
    "requests",
    "PIL.Image",
    "yaml",
    "psutil",
    "click",
    "msgspec",
)
HIDDEN = ("PYTEST_CURRENT_TEST", "PYTHONPATH")  # Ultralytics behaves differently inside a test runner
_MESSAGE = 128 << 10  # bytes of the largest request; the system's limit for one message is a little higher


class ForkedPython:
    """A running ``python ARGUMENTS``, with the methods of :class:`subprocess.Popen` that tests use.

    Attributes:
        pid: Number of the process; it leads a session of its own.
        returncode: Exit code, negative for a signal; None while it runs.
        stdout: The file that it prints to, open for reading from the start.
        stderr: The file of its errors; None if they go to ``stdout``.
    """

    def __init__(self, pid: int, reply: socket.socket, stdout: IO[str], stderr: IO[str] | None) -> None:
        self.pid, self.returncode = pid, None
        self.stdout, self.stderr, self._reply = stdout, stderr, reply

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout or 0.0)
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str | None]:
        self.wait(timeout)
        return self.stdout.read(), self.stderr.read() if self.stderr else None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended between the question and the signal
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._reply], [], [], timeout)[0]:
            said = self._reply.recv(64)
            assert said, "the fork server ended"
            self.returncode = int(said)
            self._reply.close()
        return self.returncode


class ForkServer:
    """The interpreter that is forked, as the tests see it: started once, ended with the process that started it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {k: v for k, v in os.environ.items() if k not in HIDDEN}
        env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, __file__, str(theirs.fileno())]
        self._server = subprocess.Popen(command, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()

    def start(
        self,
        *arguments: object,
        cwd: str | Path,
        env: Mapping[str, str] | None = None,
        apart: bool = False,
        log: Path | None = None,
    ) -> ForkedPython:
        """Run ``python ARGUMENTS`` (``-m MODULE …``, ``-c CODE …`` or ``FILE …``).

        Args:
            arguments: What would follow ``python``.
            cwd: Folder to start in.
            env: Its whole environment; by default as :func:`environment` has it.
            apart: Whether stderr has a file of its own.
            log: The file that it prints to; None: a temporary one.
        """
        own = environment() if env is None else dict(env)
        request = {"arguments": list(map(str, arguments)), "cwd": str(cwd), "env": own}
        mine, theirs = socket.socketpair()
        outputs: list[Any] = [tempfile.NamedTemporaryFile("ab") for _ in range(1 + apart)]  # noqa: SIM115 - see readers
        if log:
            outputs[0] = log.open("ab")
        readers = [Path(file.name).open(encoding="utf-8", errors="replace") for file in outputs]  # noqa: SIM115 - the caller closes them
        fds = [theirs.fileno(), outputs[0].fileno(), outputs[-1].fileno()]
        message = json.dumps(request).encode()
        assert len(message) < _MESSAGE
        socket.send_fds(self._control, [message], fds)
        for file in (theirs, *outputs):
            file.close()
        said = mine.recv(16)
        assert said, "the fork server ended"
        return ForkedPython(int(said), mine, readers[0], readers[1] if apart else None)

    def run(
        self, *arguments: object, cwd: str | Path, env: Mapping[str, str] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python ARGUMENTS`` to its end, as :func:`subprocess.run` does."""
        process = self.start(*arguments, cwd=cwd, env=env, apart=True)
        try:
            out, err = process.communicate(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(list(arguments), process.wait(), out, err)

    def close(self) -> None:
        self._control.close()
        self._server.wait()


def environment() -> dict[str, str]:
    """The environment of a command that a test starts.

    Where threads sleep while they wait, a command trains with every core, which only costs time on images this small.
    As it is here, it trains with as many threads as Ultralytics takes, which are those of a test's own trainings.
    """
    return {k: v for k, v in os.environ.items() if k not in HIDDEN} | {"OMP_WAIT_POLICY": "active"}


_servers: dict[int, ForkServer] = {}


def fork_server() -> ForkServer:
    """The server of this process, started when it is first asked for."""
    if os.getpid() not in _servers:
        _servers[os.getpid()] = server = ForkServer()
        owner = os.getpid()
        atexit.register(lambda: server.close() if os.getpid() == owner else None)
    return _servers[os.getpid()]


# ---- the server's own process ----------------------------------------------------------------------------------------


def serve(control: socket.socket) -> None:
    for name in PRELOADED:
        import_module(name)
    threads = list(Path("/proc/self/task").iterdir()) if sys.platform == "linux" else [None]
    if len(threads) > 1:  # a fork would copy one of them only, and perhaps a lock that another holds
        sys.exit(f"fork server: {len(threads)} threads after the imports; which of {PRELOADED} starts them?")
    gc.collect()
    gc.freeze()  # so that children do not copy every page by counting references
    path = sys.path[1:]
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests' own Ctrl-C ends this process by the end of `control`
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
        _reap(running)
        if control not in ready:
            continue
        message, fds, *_ = socket.recv_fds(control, _MESSAGE, 3)
        if not message:
            break
        pid = os.fork()
        if pid == 0:
            for end in (control, woken, wake, *running.values()):
                end.close()
            _child(json.loads(message), fds, path)
        running[pid] = reply = socket.socket(fileno=fds[0])
        for fd in fds[1:]:
            os.close(fd)
        reply.send(str(pid).encode())
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _reap(running: dict[int, socket.socket]) -> None:
    """Tell how children ended that have."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as reply, contextlib.suppress(BrokenPipeError):
            reply.send(str(os.waitstatus_to_exitcode(status)).encode())


def _child(request: dict[str, Any], fds: Sequence[int], path: Sequence[str]) -> None:
    """What a fresh interpreter would do, then the end of the process."""
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.close(fds[0])
        os.dup2(fds[1], 1)
        os.dup2(fds[2], 2)
        for fd in fds[1:]:
            os.close(fd)
        sys.stdout.reconfigure(line_buffering=False)  # type: ignore[union-attr]
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        _fork_what_is_started(path)
        code = _as_interpreter(request["arguments"], path)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)


def _as_interpreter(arguments: Sequence[str], path: Sequence[str]) -> int:
    """Run to the end what ``python ARGUMENTS`` would in this environment; its exit code."""
    own = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:] = [*own, *path]
    code = _exit_code(arguments)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of an interpreter does
    atexit._run_exitfuncs()
    return code


def _leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


# ---- Pythons that a forked command starts in turn --------------------------------------------------------------------


def _fork_what_is_started(path: Sequence[str]) -> None:
    """Have ``subprocess`` fork this process where it would start its interpreter: trainings of a study, ranks of a run.

    They are its children all the same, with a session, an environment and outputs as they were asked for.
    """
    start = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    names = inspect.signature(start)

    def execute(*given: Any) -> None:
        asked = names.bind(*given).arguments
        words = list(asked["args"]) if not isinstance(asked["args"], (str, bytes)) else []
        words = words[:1] + words[2:] if words[1:2] == ["-u"] else words
        plain = not (asked["shell"] or asked["preexec_fn"] or asked["pass_fds"])
        # What starts threads when it is imported would wait for them in a fork.
        if not plain or words[:1] != [sys.executable] or "polars" in sys.modules:
            start(*given)
            return
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        pid = os.fork()
        if pid == 0:
            _started(asked, words[1:], path)
        popen = asked["self"]
        popen.pid, popen._child_created = pid, True
        popen._close_pipe_fds(*(asked[name] for name in _PIPES))

    subprocess.Popen._execute_child = execute  # type: ignore[attr-defined]


_ANEW = {"kdyolo", "ultralytics", "tests", "cloudpickle"}  # the last knows classes of before by their numbers
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def _started(asked: Mapping[str, Any], arguments: Sequence[str], path: Sequence[str]) -> None:
    """In the fork: what an interpreter that was started anew would have, then what it would do, and the end."""
    code = 1
    try:
        if asked["start_new_session"]:
            os.setsid()
        for number, name in enumerate(("p2cread", "c2pwrite", "errwrite")):
            if asked[name] not in (-1, number):
                os.dup2(asked[name], number)
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in [int(link.name) for link in Path("/dev/fd").iterdir()]:
            if fd > 2 and fd != nothing:
                with contextlib.suppress(OSError):  # the listing's own
                    os.dup2(nothing, fd)  # numbers stay taken: objects of before may close theirs
        signal.set_wakeup_fd(-1)
        for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        atexit._clear()
        _as_if_new(asked["env"], asked["cwd"])
        code = _as_interpreter(arguments, path)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)


def _as_if_new(env: Mapping[str, str] | None, cwd: str | Path | None) -> None:
    """Environment, folder and streams as asked for; what is decided from them at import is imported again."""
    if env is not None:
        os.environ.clear()
        os.environ.update(env)
    if cwd is not None:
        os.chdir(cwd)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, mode, closefd=False) for n, mode in enumerate(("r", "w", "w")))
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)
    sys.stderr.reconfigure(write_through=True, errors="backslashreplace")
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
    warnings.showwarning, threading.excepthook = warnings._showwarning_orig, threading.__excepthook__  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name.partition(".")[0] in _ANEW]:
        del sys.modules[name]


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        _python(arguments)
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int):
            return e.code or 0
        print(e.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _python(arguments: Sequence[str]) -> None:
    what, *rest = arguments
    if what == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif what == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), module.__dict__)
    else:
        sys.path.insert(0, str(Path(what).parent))
        sys.argv = [what, *rest]
        runpy.run_path(what, run_name="__main__")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
