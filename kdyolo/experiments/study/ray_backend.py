"""Ray backend of a study: runs as tasks on a Ray cluster. Ray is imported only here, and only when it is asked for.

Each task starts the same child process that the local backend starts. Where the study's folder is not shared between
the machines, a run is trained in a temporary folder of its node, whose content travels there and back as a tar.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from kdyolo.errors import ConfigError, KDYOLOError, RunError
from kdyolo.experiments.study.distillations import StudyDistillation
from kdyolo.experiments.study.job import Job
from kdyolo.experiments.study.ray_mailbox import RayMailbox
from kdyolo.experiments.study.scheduler import PATIENCE, TICK, Handle
from kdyolo.experiments.study.study_run import StudyRun
from kdyolo.runs.detach import own_command
from kdyolo.runs.files import ARGS_NAME, RECORD_NAME, RESULTS_NAME
from kdyolo.runs.process_control import end, launch
from kdyolo.utils.atomic import SUFFIX

PROGRESS = (ARGS_NAME, RECORD_NAME, RESULTS_NAME)  # what the table of the driver shows
RETURN_EVERY = 600.0  # seconds between two returns of everything: what a driver that is killed loses at most


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as e:
        raise ConfigError(
            "engine ray needs Ray, which is not installed. Install it with: pip install 'kdyolo[ray]'"
        ) from e
    return ray


class RayBackend:
    """Tasks on the cluster that ``RAY_ADDRESS`` names or this machine belongs to; else on this machine alone.

    Args:
        devices: Devices that one run needs, in the words of a study file: ``"cpu"``, or as many GPUs as an entry
            names. The cluster decides which GPUs a run gets, and how many runs go on at once.
        folder: Folder of the study.
        shared: Whether all machines see that folder under its path; with None each machine checks.

    Raises:
        ConfigError: Ray is not installed, or entries of ``devices`` need different things.
        RunError: No machine of the cluster has what a run needs.
    """

    places_differ = False  # the cluster decides which GPUs a run gets

    def __init__(self, devices: Sequence[str], folder: Path, shared: bool | None = None) -> None:
        self._ray = ray = _ray()
        self._gpus = _gpus(devices)
        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(include_dashboard=False, log_to_driver=False)
        try:
            self.places = [f"ray {number}" for number in range(1, self._capacity() + 1)]
        except RunError:
            self.close()
            raise
        folder.mkdir(parents=True, exist_ok=True)
        self._token = folder / f".shared-{uuid.uuid4().hex}"
        if shared is not False:
            self._token.touch()
        needs = {"num_gpus": self._gpus} if self._gpus else {"num_cpus": 1}
        self._task = ray.remote(**needs, max_retries=0)(_train)
        self._mailbox = ray.remote(num_cpus=0)(RayMailbox).remote()
        ray.get(self._mailbox.take.remote(""))  # until its process is there, a short run would end unheard

    def _capacity(self) -> int:
        """Number of runs that the machines of the cluster can take at once."""
        kind, need = ("GPU", self._gpus) if self._gpus else ("CPU", 1)
        nodes = [node["Resources"].get(kind, 0) for node in self._ray.nodes() if node["Alive"]]
        if not (capacity := sum(int(has // need) for has in nodes)):
            raise RunError(
                f"a run needs {need} {kind}(s), but the machines of the Ray cluster have {', '.join(map(str, nodes))}. "
                "Change 'devices', or add a machine."
            )
        return capacity

    def start(self, run: Job, place: int) -> Handle:
        """Start or resume a run wherever the cluster has room."""
        # In a list, so that Ray fetches it only where it is asked for.
        packed = [self._ray.put(pack(run))] if run.state() == "resumable" else []
        distillation = _distillation_of(run)
        backbone = [self._ray.put(distillation.backbone.read_bytes())] if distillation else []
        task = self._task.remote(run, str(self._token), bool(self._gpus), packed, backbone, self._mailbox)
        return _RayHandle(self._ray, run, task, self._mailbox)

    def close(self) -> None:
        """Leave the cluster, and end it if it was started for this study."""
        if hasattr(self, "_token"):
            self._token.unlink(missing_ok=True)
        if self._started_ray:
            self._ray.shutdown()


def _distillation_of(run: Job) -> StudyDistillation | None:
    return run.distillation if isinstance(run, StudyRun) else None


def _gpus(devices: Sequence[str]) -> int:
    needs = {0 if device == "cpu" else len(device.split(",")) for device in devices}
    if len(needs) > 1 or {"mps", "cpu,cpu"} & set(devices):
        raise ConfigError(
            f"with engine ray, 'devices' says what each run needs, so all entries need the same; found "
            f"{', '.join(devices)}. Expected e.g. [0] for a GPU, ['0,1'] for two, or cpu."
        )
    return needs.pop()


class _RayHandle:
    """A run that a task trains."""

    def __init__(self, ray: Any, run: Job, task: Any, mailbox: Any) -> None:
        self._ray, self._run, self._task, self._mailbox = ray, run, task, mailbox

    def poll(self) -> int | None:
        """Exit code of the run's process; 1 if Ray lost it; None while it goes on."""
        if files := self._ray.get(self._mailbox.take.remote(self._run.name)):
            unpack(files, self._run)
        done, _ = self._ray.wait([self._task], timeout=0)
        return self._collect() if done else None

    def stop(self) -> None:
        """End the run's process as Ctrl-C does, and fetch the files that it leaves."""
        self._mailbox.stop.remote(self._run.name)
        done, _ = self._ray.wait([self._task], timeout=3 * PATIENCE)
        if done:
            self._collect()
        else:
            self._ray.cancel(self._task, force=True)

    def _collect(self) -> int:
        try:
            code, files = self._ray.get(self._task)
        except self._ray.exceptions.RayError as e:  # its machine or worker is gone: the run has failed, not the study
            with self._run.log.open("a", encoding="utf-8") as log:
                log.write(f"Ray lost this run: {str(e).strip()}\n")
            return 1
        if files is not None:
            unpack(files, self._run)
        return int(code)


# ---- on the machine that trains --------------------------------------------------------------------------------------


def _train(
    run: Job, token: str, gpus: bool, packed: Sequence[Any], backbone: Sequence[Any], mailbox: Any
) -> tuple[int, bytes | None]:
    """Train a run on this machine; return its exit code, and its files unless the folder is shared."""
    import ray

    if Path(token).exists():
        return _watch(run, gpus, mailbox, shared=True), None
    scratch = Path(tempfile.mkdtemp(prefix="kdyolo-"))
    try:
        local: Job = replace(run, folder=scratch / run.name)  # type: ignore[type-var]
        local.folder.parent.mkdir()
        if backbone and isinstance(local, StudyRun) and local.distillation:
            kept = replace(local.distillation, folder=scratch / local.distillation.folder.name)
            kept.folder.mkdir()
            kept.backbone.write_bytes(ray.get(backbone[0]))
            local = replace(local, distillation=kept)
        if packed:
            unpack(ray.get(packed[0]), local)
        if isinstance(local, StudyRun) and local.subset:
            try:
                local.subset.write()  # links to the data of this machine, where an interrupted run looks for them too
            except KDYOLOError as e:
                local.log.write_text(f"{e}\n", encoding="utf-8")
                return 1, pack(local)
        return _watch(local, gpus, mailbox, shared=False), pack(local)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _watch(run: Job, gpus: bool, mailbox: Any, shared: bool) -> int:
    import ray

    # Ray makes the GPUs of this task the only visible ones, in most versions; the run reads their numbers either way.
    device = ",".join(map(str, ray.get_gpu_ids())) if gpus else "cpu"
    process = launch([*own_command(), *run.arguments(device)], run.log, cwd=run.folder.parent, dies_with_parent=True)
    seen, returned = None, time.monotonic()
    while (code := process.poll()) is None:
        time.sleep(TICK)
        files = None
        if not shared and (stamp := _stamp(run)) != seen:
            seen, whole = stamp, time.monotonic() - returned > RETURN_EVERY
            returned = time.monotonic() if whole else returned
            files = pack(run, None if whole else PROGRESS)
        if ray.get(mailbox.exchange.remote(run.name, files)):
            end(psutil.Process(process.pid), PATIENCE)
            code = process.wait()
            break
    return code


def _stamp(run: Job) -> list[float]:
    return [path.stat().st_mtime for name in PROGRESS if (path := run.folder / name).is_file()]


# ---- a run as bytes --------------------------------------------------------------------------------------------------


def pack(run: Job, names: Sequence[str] | None = None) -> bytes:
    """A tar of a run's folder, and of its log.

    Args:
        run: The run to pack.
        names: Names of files in the folder to pack alone, without the log; None for all files and the log.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        if names is None and run.log.is_file():
            tar.add(run.log, "log")
        files = sorted(run.folder.rglob("*")) if names is None else [run.folder / name for name in names]
        for path in files:
            if path.is_file() and not path.name.endswith(SUFFIX):
                tar.add(path, f"run/{path.relative_to(run.folder)}")
    return buffer.getvalue()


def unpack(files: bytes, run: Job) -> None:
    """Put a run's files into its folder, each completely or not at all, and add its log to the existing one."""
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=run.folder.parent) as scratch:
        with tarfile.open(fileobj=io.BytesIO(files)) as tar:
            tar.extractall(scratch, filter="data")
        top = Path(scratch) / "run"
        arrived = {path.relative_to(top) for path in top.rglob("*") if path.is_file()}
        for name in sorted(arrived):
            (run.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).replace(run.folder / name)
        log = Path(scratch) / "log"
        if log.is_file():  # everything, so what is not among it is gone: resume.pt of a run that has ended
            for path in run.folder.rglob("*"):
                if path.is_file() and path.relative_to(run.folder) not in arrived:
                    path.unlink()
            with run.log.open("ab") as whole:
                whole.write(log.read_bytes())
