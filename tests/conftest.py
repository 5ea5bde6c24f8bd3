"""Shared fixtures. Ultralytics keeps its settings and fonts in a temporary folder here, and stays offline."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from psutil import virtual_memory

# Garbage is searched for less often: as it is by default, that takes an eighth of the time of tests that build models.
gc.set_threshold(10_000, 20, 20)

# In memory, where there is a folder for that and room: tests write tens of thousands of small files, and on a disk that
# takes a fifth of the processor's time, and more of waiting. $PYTEST_DEBUG_TEMPROOT names another place.
_MEMORY = Path("/dev/shm")
_IN_MEMORY = os.access(_MEMORY, os.W_OK) and min(shutil.disk_usage(_MEMORY).free, virtual_memory().available) > 8 << 30
if _IN_MEMORY:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
# Read by Ultralytics when it is imported, here and in every process that a test starts. Every test writes to it.
_HOME = tempfile.TemporaryDirectory(prefix="kdyolo-tests-", dir=_MEMORY if _IN_MEMORY else None)
os.environ["YOLO_CONFIG_DIR"] = _HOME.name
os.environ["YOLO_OFFLINE"] = "true"
os.environ["YOLO_AUTOINSTALL"] = "false"
os.environ.setdefault("MPLBACKEND", "Agg")
# One thread each: the cores belong to the workers that pytest-xdist runs beside each other. Ultralytics sets the same
# when it is imported, which is too late for torch if that came first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell makes what runs in the background ignore Ctrl-C, and nohup a closed terminal. Every process that a test starts
# would inherit that, and tests that press Ctrl-C would wait for ever; a handler of one's own is not inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from ultralytics import settings  # noqa: E402
from ultralytics.utils import LOGGER, torch_utils  # noqa: E402

from kdyolo import KDYOLO  # noqa: E402
from kdyolo.data.coco_to_yolo import convert_coco  # noqa: E402
from kdyolo.data.synthetic import draw_dataset  # noqa: E402
from kdyolo.models.backbone import DistilledBackbone  # noqa: E402
from tests.builders.checkpoints import old_names  # noqa: E402
from tests.builders.commands import CHECKOUT  # noqa: E402
from tests.builders.studies import write_pair, write_small_study  # noqa: E402
from tests.builders.training import FAST, Enough  # noqa: E402
from tests.system.forkserver import ForkedPython, ForkServer, fork_server  # noqa: E402

# Fuzzing: as thorough as it gets, and a few examples for `make test-fast`.
hypothesis.settings.register_profile("ci", deadline=None)
hypothesis.settings.register_profile("dev", deadline=None, max_examples=20)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# For its summary of a model Ultralytics counts FLOPs by running a copy, twice in each training: that is done once for
# models of the same tensors, which spares the many small trainings 4 % of their time.
_count_flops, _counted = torch_utils.get_flops, {}


def _flops(model: nn.Module, imgsz: Any = 640) -> float:
    key = (type(model), str(imgsz), len(list(model.modules())), tuple(p.shape for p in model.parameters()))
    if key not in _counted:
        _counted[key] = _count_flops(model, imgsz)
    return _counted[key]


torch_utils.get_flops = _flops

# Files whose tests start processes, for which they wait, and files whose tests train, which keeps a core busy, come in
# turn; then those that build networks; the many short tests fill what is left of the time on each worker. The tests of
# one file stay together on one worker, since they share their fixtures.
_SLOW_FOLDERS = ("system", "integration")
_BUILDING_FOLDERS = ("models", "distillation", "experiments")
_TRAINS = {"train", "bare_python", "python"}  # fixtures that make a test more than a unit test


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what trains or starts processes, and have pytest-xdist begin with that."""
    root = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(root).parts[0]
        if folder in _SLOW_FOLDERS:
            item.add_marker(folder)
        elif _TRAINS & set(getattr(item, "fixturenames", ())):
            item.add_marker("integration")
        elif "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist
        _take_turns(items)


def pytest_collection_finish() -> None:
    """Spare the search for garbage the hundreds of thousands of objects that imports have left for good."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _compiler_spared(request: pytest.FixtureRequest) -> None:
    """The same for PyTorch's compiler, which the first optimizer step imports: Ultralytics collects after each run."""
    config = request.config
    if not hasattr(config, "compiler_spared") and "torch._dynamo" in sys.modules:
        config.compiler_spared = True
        gc.collect()
        gc.freeze()


def _take_turns(items: list[pytest.Item]) -> None:
    turns: dict[Path, tuple[int, int]] = {}  # of a file: its place among its kind, its kind
    for item in items:
        kind = next((kind for kind, name in enumerate(_SLOW_FOLDERS) if item.get_closest_marker(name)), None)
        if kind is not None and item.path not in turns:
            turns[item.path] = sum(other == kind for _, other in turns.values()), kind
    last, tests = len(turns), Path(__file__).parent

    def turn(item: pytest.Item) -> tuple[int, int]:
        return turns.get(item.path) or (last, item.path.relative_to(tests).parts[0] not in _BUILDING_FOLDERS)

    items.sort(key=turn)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real COCO images and checkpoints, from ``$KDYOLO_SHARED`` or beside the checkout."""
    path = Path(os.environ.get("KDYOLO_SHARED") or CHECKOUT.parent / "shared")
    if not (path / "coco128").is_dir():
        pytest.skip(f"no real data: set KDYOLO_SHARED to the folder with coco128/ and checkpoints/ (looked in {path})")
    return path.resolve()


@pytest.fixture(autouse=True)
def _inside_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths (``runs/detect/…``) land in the test's own folder, and so do runs that are given no folder."""
    monkeypatch.chdir(tmp_path)
    dict.update(settings, runs_dir=str(tmp_path / "ultralytics" / "runs"))
    new = settings.file_path.with_suffix(".new")
    new.write_text(json.dumps(settings))
    new.replace(settings.file_path)  # at once: a process that an earlier test left may be reading it


@pytest.fixture(autouse=True)
def _ultralytics_speaks() -> None:
    """What an earlier test did to Ultralytics' logger is undone: tests look at what it says."""
    LOGGER.disabled = False
    LOGGER.setLevel("INFO")


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YAML of a converted data set of drawn shapes: 8 training and 4 validation images of 64 px."""
    folder = tmp_path_factory.mktemp("shapes")
    root = draw_dataset(folder / "root", {"train": 8, "val": 4}, imgsz=64)
    return convert_coco(root, folder / "data").yaml


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model YAML, kdyolov8n, for the three classes of ``shapes``, to which every tensor of a head fits."""
    path = tmp_path_factory.mktemp("model") / "kdyolov8n.yaml"
    path.write_text((CHECKOUT / "cfg/models/kdyolov8.yaml").read_text().replace("nc: 80", "nc: 3"))
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resume file of the old system, scale n: random weights, BatchNorm statistics as if it had been trained."""
    torch.manual_seed(0)
    backbone = DistilledBackbone("yolov8n")
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.005, 1.0)
    path = tmp_path_factory.mktemp("checkpoint") / "epoch_4_model.pth"
    tensors = {f"_orig_mod.backbone.{name}": tensor for name, tensor in old_names(backbone).items()}
    torch.save({"backbone": tensors, "epoch": 4, "config": {"backbone": "yolov8", "model_size": "n"}}, path)
    return path


@pytest.fixture
def train(shapes: Path, tmp_path: Path) -> Callable[..., KDYOLO]:
    """``train(model_keywords, callbacks, **train_keywords)`` → a tiny trained detector, its run in ``tmp_path/run``.

    With ``finish=False`` the run ends as soon as its last epoch is trained and looked at: it is not evaluated any more,
    and nothing of that epoch is saved. The folder stays as it was then, although a run that saved nothing leaves none.
    """
    kept = tmp_path / "kept"

    def stop(trainer: Any) -> None:
        if trainer.epoch + 1 == trainer.epochs:
            shutil.copytree(trainer.save_dir, kept)
            raise Enough

    def run(
        start: dict[str, Any] | None = None,
        callbacks: dict[str, Any] | None = None,
        finish: bool = True,
        **keywords: Any,
    ) -> KDYOLO:
        model = KDYOLO(**({"model": "kdyolov8n.yaml"} if start is None else start))
        for event, callback in (callbacks or {}).items():
            model.add_callback(event, callback)
        if not finish:
            model.add_callback("on_train_epoch_end", stop)
        options = {**FAST, "data": str(shapes), "work_dir": tmp_path / "run", **keywords}
        with pytest.raises(Enough) if not finish else contextlib.nullcontext():
            model.train(**options)
        if kept.exists():
            shutil.rmtree(options["work_dir"], ignore_errors=True)
            kept.rename(options["work_dir"])
        return model

    return run


@pytest.fixture
def set_up(train: Callable[..., KDYOLO], tmp_path: Path) -> Callable[..., None]:
    """``set_up(model_keywords, look, **train_keywords)``: a training up to its first batch, which ``look`` sees.

    The folder stays as it was then, although a run that saved nothing leaves none.
    """

    def run(start: dict[str, Any], look: Callable[[Any], None], **keywords: Any) -> None:
        def stop(trainer: Any) -> None:
            look(trainer)
            shutil.copytree(trainer.save_dir, tmp_path / "kept")
            raise Enough

        with pytest.raises(Enough):
            train(start, {"on_train_start": stop}, **keywords)
        (tmp_path / "kept").rename(keywords.get("work_dir", tmp_path / "run"))

    return run


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Three arms with three seeds each, at mAP50-95 0.3 and a little more."""
    return write_small_study(tmp_path / "studies" / "does-it-help")


@pytest.fixture
def pair(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """``pair(first={}, second={}, **both)`` → two runs that also differ in their learning rate."""
    return partial(write_pair, tmp_path)


@pytest.fixture(scope="session")
def python() -> ForkServer:
    """``python.run("-m", "kdyolo", …, cwd=…)``: forked from an interpreter that has imported torch already."""
    return fork_server()


@pytest.fixture
def forked_trainings(python: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a study that runs in this process are forked."""

    def launch(command: list[str], log: Path, dies_with_parent: bool) -> ForkedPython:
        assert command[0] == sys.executable
        assert dies_with_parent
        return python.start(*command[1:], cwd=Path.cwd(), log=log)

    monkeypatch.setattr("kdyolo.experiments.study.local_backend.launch", launch)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that sees everything installed here but kdyolo: what a user of plain Ultralytics has."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    own = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    # A .pth file adds one folder and does not follow the .pth files in it, among them that of an editable install.
    Path(own, "packages.pth").write_text(sysconfig.get_paths()["purelib"])
    probe = [python, "-c", "import ultralytics, kdyolo.errors"]
    found = subprocess.run(probe, cwd=folder, capture_output=True, text=True, check=False)
    if "No module named 'kdyolo" not in found.stderr:
        pytest.skip("kdyolo is not installed in editable mode here, so there is no environment without it")
    return python
