"""Local backend of a study: runs as child processes on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from kdyolo.experiments.study.job import Job
from kdyolo.experiments.study.scheduler import PATIENCE, Handle
from kdyolo.runs.detach import own_command
from kdyolo.runs.lifecycle.devices import Machine, read_places
from kdyolo.runs.process_control import end, launch


class LocalBackend:
    """Child processes ``python -m kdyolo train …``, one per device at a time, which die with this one.

    Args:
        devices: Devices such as ``"cpu"``, ``"5"`` or ``"5,6"``, each a place. The cores are
            divided among the runs that share the CPU.

    Raises:
        ConfigError: This machine does not have such a device.
    """

    places_differ = True

    def __init__(self, devices: Sequence[str]) -> None:
        self.places = list(devices)
        # Read together: each run would take "1" under CUDA_VISIBLE_DEVICES=1,2 for the second GPU, which is "2".
        self._devices = [place.for_command for place in read_places(devices, Machine.here())]
        on_cpu = [place for place, device in enumerate(devices) if device == "cpu"]
        self._cores = dict(zip(on_cpu, _split_cores(len(on_cpu)), strict=True)) if len(on_cpu) > 1 else {}

    def start(self, run: Job, place: int) -> Handle:
        """Start or resume a run on a device."""
        command = [*own_command(), *run.arguments(self._devices[place])]
        with self.confined(place):
            return LocalHandle(command, run.log)

    @contextmanager
    def confined(self, place: int) -> Iterator[None]:
        """Give what is started meanwhile the cores of a place; a training takes as many threads as it has cores."""
        cores = self._cores.get(place)
        if cores is None:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    def close(self) -> None:
        """Do nothing: no resource is held."""


class LocalHandle:
    """A run in a child process."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._process = launch(command, log, dies_with_parent=True)

    def poll(self) -> int | None:
        """Exit code of the process; None while it goes on."""
        return self._process.poll()

    def stop(self) -> None:
        """End the process as Ctrl-C does, by force if it does not react."""
        if self._process.poll() is None:
            end(psutil.Process(self._process.pid), PATIENCE)
            self._process.wait()


def _split_cores(count: int) -> list[set[int] | None]:
    """Cores of this machine for each of several runs; with more runs than cores, some share one."""
    if not hasattr(os, "sched_setaffinity"):
        return [None] * count
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[i::count]) or {cores[i % len(cores)]} for i in range(count)]
