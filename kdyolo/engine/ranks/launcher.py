"""Launcher of a run on several devices: one process for each, started, told about signals, and ended together.

Ultralytics' own launcher empties the run folder first, and loses its processes when it gets a signal. torchrun's agent
signals whole process groups, data loader workers among them, and reports every failure three times. So the processes
are plain children here, with the environment that torchrun gives; as torchrun does, this process keeps the store in
which they find each other, on a port that nobody can take in between.

The run is that of rank 0: it is told to end first, while the others still answer it, and its end is that of the run. A
rank that fails says why in a file (see ``rank_process``), so that it can be said once, by this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch import distributed as dist

from kdyolo import errors
from kdyolo.errors import ConfigError, KDYOLOError, RunError
from kdyolo.runs.process_control import Terminated, bound_to_parent, signals_noted

POLL = 0.05  # seconds between two looks at the ranks
PATIENCE = 20.0  # seconds that rank 0 gets to end by itself once it was told to, or another rank has failed
AFTERWARDS = 60.0  # seconds in which the others end by themselves once rank 0 has finished the run
GRACE = 5.0  # seconds that the others get once they were told to end
REPORTS = "KDYOLO_RANK_REPORTS"  # environment of a rank: the folder in which it says why it failed
BEGIN = "import sys; sys.path = [path for path in sys.path if path]; from {0} import train_rank; train_rank()"
_STOPPED = {130: KeyboardInterrupt, -2: KeyboardInterrupt, 143: Terminated, -15: Terminated}


class RankTraceback(Exception):
    """Where a rank failed, as text: the cause of the error that this process raises in its place."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class RankReport:
    """Why a rank failed.

    Attributes:
        kind: Name of the error's class.
        message: The error's message.
        traceback: Where it was raised, as text.
        at: When, in seconds of the machine's monotonic clock.
        rank: Number of the rank.
    """

    kind: str
    message: str
    traceback: str
    at: float
    rank: int

    @property
    def own_class(self) -> type[KDYOLOError] | None:
        """The error's class if it is one of kdyolo's, else None."""
        found = getattr(errors, self.kind, None)
        return found if isinstance(found, type) and issubclass(found, KDYOLOError) else None

    def error(self, count: int) -> KDYOLOError:
        """The error itself if it is one of kdyolo's, else one that tells it."""
        told = f"rank {self.rank} of {count} ended with {self.kind}: {self.message}"
        error = self.own_class(self.message) if self.own_class else RunError(told)
        error.__cause__ = RankTraceback(self.traceback)
        return error


def train_on_ranks(count: int, trainer: type, callbacks: Mapping[str, Any], model: Any = None, **start: Any) -> None:
    """Train in several processes of this machine, and wait until the run has ended.

    Args:
        count: Number of processes.
        trainer: Class of the trainer.
        callbacks: Event → functions, as the trainer takes them.
        model: Module to start from, for a trainer that has been given one; else None.
        start: What else the trainer is made with: a plan, or overrides.

    Raises:
        ConfigError: Trainer or callbacks hold what cannot be sent to another process.
        KDYOLOError: The run failed.
        KeyboardInterrupt: It was interrupted, by a signal to this process or to a rank.
    """
    with tempfile.TemporaryDirectory(prefix="kdyolo-ranks-") as folder:
        job = Path(folder) / "job.pt"
        content = {"trainer": trainer, "callbacks": _without_integrations(callbacks), "model": model, "start": start}
        try:
            torch.save(content, job, cloudpickle)
        except (TypeError, pickle.PicklingError) as e:
            raise ConfigError(
                f"trainer and callbacks cannot be sent to the processes of several devices ({e}). Expected what "
                "cloudpickle takes: open files, locks and connections are to be made by a callback, in each process."
            ) from e
        command = [sys.executable, "-c", BEGIN.format("kdyolo.engine.ranks.rank_process"), str(job)]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109 - as Python reads an empty one
        launch_ranks(count, command, Path(folder), {"PYTHONPATH": path})


def _without_integrations(callbacks: Mapping[str, Any]) -> Mapping[str, Any]:
    """Callbacks without those of loggers such as TensorBoard, which Ultralytics' trainer adds by itself, on rank 0."""
    found: defaultdict[str, list[Any]] = defaultdict(list)
    for event, functions in callbacks.items():
        found[event] = [function for function in functions if not _is_integration(function)]
    return found


def _is_integration(function: Any) -> bool:
    module = getattr(function, "__module__", None) or ""
    return module.startswith("ultralytics.") and module != "ultralytics.utils.callbacks.base"


def launch_ranks(count: int, command: Sequence[str], reports: Path, env: Mapping[str, str] | None = None) -> None:
    """Start a command once for each rank, and wait until the run has ended; no process is left.

    Args:
        count: Number of ranks, all on this machine.
        command: The program and its arguments.
        reports: Folder in which ranks say why they failed, see :class:`RankReport`.
        env: Environment variables for the ranks beside those of this process.

    Raises:
        KDYOLOError: The run failed: rank 0 did, or another that took it along.
        KeyboardInterrupt: The run was interrupted, by a signal to this process or to a rank.
    """
    with signals_noted() as noted, _Ranks(count, command, reports, env or {}) as ranks:
        ranks.follow(noted)
    if noted:
        raise Terminated if noted[0] == signal.SIGTERM else KeyboardInterrupt
    ranks.raise_failure()


class _Ranks:
    """The processes of a run; whatever happens, none is left when the block ends."""

    def __init__(self, count: int, command: Sequence[str], reports: Path, env: Mapping[str, str]) -> None:
        self._reports = reports
        self._codes: dict[int, int] = {}  # rank → its exit code
        self._told: set[int] = set()  # ranks that were signalled from here
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
        common = {
            **os.environ,
            **env,
            **bound_to_parent(),
            REPORTS: str(reports),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "TORCHELASTIC_RUN_ID": uuid.uuid4().hex,  # says that there is a launcher
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # the one above; rank 0 opens none
            "TORCHELASTIC_RESTART_COUNT": "0",
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in map(str, range(count)):
                own = {**common, "RANK": rank, "LOCAL_RANK": rank}
                # In a session of its own, so that Ctrl-C on the terminal goes to this process alone.
                started = subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, start_new_session=True)
                self._processes.append(started)
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> _Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    def follow(self, noted: Sequence[signal.Signals]) -> None:
        """Wait until the run has ended, and pass signals on to rank 0.

        Args:
            noted: Signals that this process has got; grows while this goes on.
        """
        others = range(1, len(self._processes))
        self._wait(lambda: 0 in self._codes or bool(noted) or any(self._codes.get(rank) for rank in others))
        if noted:
            self._tell([0], noted[0])
            passed = 1

            def pass_on() -> bool:
                nonlocal passed
                if len(noted) > passed:
                    self._tell([0], noted[-1])
                    passed = len(noted)
                return 0 in self._codes

            self._wait(pass_on, PATIENCE)
        elif 0 not in self._codes:  # another rank has failed, which rank 0 notices when it next waits for it
            self._wait(lambda: 0 in self._codes or bool(noted), PATIENCE)
            self._tell([0], signal.SIGTERM)
            self._wait(lambda: 0 in self._codes, GRACE)
        if self._codes.get(0) == 0:
            self._wait(lambda: self._ended() or bool(noted), AFTERWARDS)
        self._tell(others, signal.SIGTERM)
        self._wait(self._ended, GRACE)

    def raise_failure(self) -> None:
        """Raise what the run failed with, if it did.

        Raises:
            KDYOLOError: See :func:`launch_ranks`.
            KeyboardInterrupt: A rank was interrupted.
        """
        if self._codes.get(0) == 0:  # the run is finished, and what comes after that is of no account
            return
        by_themselves = {rank: code for rank, code in sorted(self._codes.items()) if code and rank not in self._told}
        for code in by_themselves.values():
            if interrupt := _STOPPED.get(code):
                raise interrupt
        count, reports = len(self._processes), sorted(_read_reports(self._reports), key=lambda report: report.at)
        killed = next(((rank, code) for rank, code in by_themselves.items() if code < 0), None)
        ours = next((report for report in reports if report.own_class), None)
        if killed and not ours:
            raise RunError(
                f"rank {killed[0]} of {count} was ended by {_signal_name(-killed[1])}; SIGKILL mostly means that the "
                "memory of the machine ran out (fewer workers= or a smaller --batch need less)."
            )
        if reports:
            raise (ours or reports[0]).error(count)
        rank, code = next(iter(by_themselves.items()), (0, self._codes[0]))
        raise RunError(f"rank {rank} of {count} ended with exit code {code}, and says no more. See what it printed.")

    def _ended(self) -> bool:
        return len(self._codes) == len(self._processes)

    def _wait(self, condition: Callable[[], bool], seconds: float = float("inf")) -> None:
        """Look at the ranks until a condition holds, or so many seconds are over."""
        deadline = time.monotonic() + seconds
        while True:
            self._look()
            if condition() or self._ended() or time.monotonic() > deadline:
                return
            time.sleep(POLL)

    def _look(self) -> None:
        for rank, process in enumerate(self._processes):
            if rank not in self._codes and (code := process.poll()) is not None:
                self._codes[rank] = code
                if code < 0:  # killed, so it has not ended its data loader workers
                    _kill_group(process.pid)

    def _tell(self, ranks: Iterable[int], number: signal.Signals) -> None:
        for rank in ranks:
            if rank not in self._codes:
                self._told.add(rank)
                self._processes[rank].send_signal(number)

    def _kill(self) -> None:
        self._look()
        for rank, process in enumerate(self._processes):
            if rank not in self._codes:
                _kill_group(process.pid)
                self._told.add(rank)
                self._codes[rank] = process.wait()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _read_reports(folder: Path) -> list[RankReport]:
    return [RankReport(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("rank*.json"))]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
