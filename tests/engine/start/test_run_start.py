"""Start of a run: on which device this process computes, seen with GPUs that are not there."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import pytest
import torch

from kdyolo.engine.start import run_start
from kdyolo.engine.start.plan import plan_run
from kdyolo.engine.start.run_start import RunStart, start_run
from kdyolo.errors import ConfigError
from kdyolo.utils import distributed


@pytest.fixture
def gpus(monkeypatch):
    """``gpus(count, rank=None)``: a machine with GPUs, and the calls that choose one or join the other processes."""

    def machine(count: int, rank: int | None = None) -> list[object]:
        calls: list[object] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: calls.append(str(device)))
        monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **_: calls.append(backend))
        monkeypatch.setattr(distributed, "run_on_rank_zero", lambda function, *arguments: function(*arguments))
        if rank is not None:
            found = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}
            for name, value in {**found, "MASTER_ADDR": "127.0.0.1"}.items():
                monkeypatch.setenv(name, str(value))
            monkeypatch.setattr(distributed, "RANK", rank)
        return calls

    return machine


def started(shapes, tmp_path, device):
    return start_run(
        {"model": "kdyolov8n.yaml", "data": str(shapes), "work_dir": str(tmp_path / "r"), "device": device}
    )


@pytest.mark.parametrize("device", [None, "2,3", [2, 3], "cuda:2,3"])
def test_each_rank_goes_to_its_own_gpu_before_anything_else(gpus, shapes, tmp_path, device):
    calls = gpus(4, rank=1)
    start = started(shapes, tmp_path, device)
    mine = "cuda:1" if device is None else "cuda:3"
    assert calls == [mine, "nccl"]
    assert str(start.device) == mine
    assert start.overrides.get("device") == (None if device is None else "2,3")  # of all ranks, in the run's record
    assert not start.elsewhere


def test_two_ranks_on_one_gpu_are_refused_before_they_meet(gpus, shapes, tmp_path):
    calls = gpus(4, rank=1)
    with pytest.raises(ConfigError, match="needs a GPU of its own, but --device names 0"):
        started(shapes, tmp_path, "0")
    assert calls == []


def test_the_process_that_starts_the_ranks_touches_no_gpu(gpus, shapes, tmp_path):
    calls = gpus(4)
    start = started(shapes, tmp_path, [2, 3])
    assert (start.elsewhere, start.devices.processes, start.devices.text) == (True, 2, "2,3")
    assert start.overrides["device"] == "cpu"
    assert calls == []


def test_numbers_of_cuda_visible_devices(gpus, shapes, tmp_path, monkeypatch):
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert started(shapes, tmp_path, "5").overrides["device"] == "1"


def test_half_of_a_rank_is_one_clear_error(monkeypatch, shapes, tmp_path):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(distributed, "RANK", 0)
    with pytest.raises(ConfigError, match=r"RANK is set in the environment.*but LOCAL_RANK, .* Start the command with"):
        started(shapes, tmp_path, "0")


def test_ultralytics_chooses_no_batch_for_several_devices(shapes, tmp_path):
    from kdyolo import KDTrainer

    overrides = {"model": "kdyolov8n.yaml", "data": str(shapes), "batch": -1, "device": "cpu,cpu"}
    with pytest.raises(ConfigError, match="batch -1: AutoBatch chooses for a single device, and this run has 2"):
        KDTrainer(overrides={**overrides, "work_dir": str(tmp_path / "run")})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "files, and --exist-ok"])
def test_ranks_find_the_folder_as_it_was(monkeypatch, shapes, tmp_path, there):
    """What the process that starts them has written into it is gone, and nothing else."""
    from kdyolo import KDTrainer

    run, seen = tmp_path / "run", []
    if there != "nothing":
        run.mkdir()
    if there.startswith("files"):
        (run / "weights").mkdir()
        (run / "backbone.pth").write_text("a checkpoint")
    monkeypatch.setattr(
        run_start, "train_on_ranks", lambda *_, plan: seen.append((sorted(p.name for p in run.rglob("*")), plan))
    )
    overrides = {"model": "kdyolov8n.yaml", "data": str(shapes), "exist_ok": there.startswith("files")}
    KDTrainer(overrides={**overrides, "device": "cpu,cpu", "work_dir": str(run)}).train()
    ((names, plan),) = seen
    assert names == (["backbone.pth", "weights"] if there.startswith("files") else [])
    assert (plan.overrides["save_dir"], plan.overrides["device"]) == (str(run), "cpu")


def test_what_is_in_the_folder_of_a_run_on_two_gpus_stays(gpus, monkeypatch, shapes, tmp_path):
    """Ultralytics' launcher removes the folder before it starts its processes, which are not started here."""
    from kdyolo import KDTrainer

    gpus(2)
    gpu = SimpleNamespace(name="a GPU", total_memory=1 << 33)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)
    monkeypatch.setattr("kdyolo.engine.start.run_start.train_on_ranks", lambda *_, **__: None, raising=False)
    (tmp_path / "run/weights").mkdir(parents=True)
    for name in ("notes.txt", "weights/mine.pt"):
        (tmp_path / "run" / name).write_text("mine")
    overrides = {"model": "kdyolov8n.yaml", "data": str(shapes), "exist_ok": True, "device": "0,1"}
    KDTrainer(overrides={**overrides, "work_dir": str(tmp_path / "run")}).train()
    assert (tmp_path / "run/notes.txt").read_text() == "mine"
    assert (tmp_path / "run/weights/mine.pt").read_text() == "mine"


def test_a_picture_that_is_being_drawn_does_not_come_after_the_end(shapes, tmp_path):
    """Ultralytics draws the first batches in threads, which may end later than the run."""
    folder = tmp_path / "run"
    folder.mkdir()

    def plot_images() -> None:  # the thread has its name
        time.sleep(0.3)
        folder.mkdir(exist_ok=True)
        (folder / "train_batch0.jpg").touch()

    thread = threading.Thread(target=plot_images)
    thread.start()
    RunStart(plan_run({"data": str(shapes), "model": "kdyolov8n.yaml"}), {}, created=folder).discard()
    thread.join()
    assert not folder.exists()


def test_a_thread_of_ultralytics_that_draws_is_called_so(tmp_path, monkeypatch):
    from ultralytics.utils import plotting

    monkeypatch.setattr(plotting, "Annotator", lambda *_, **__: time.sleep(0.3))
    thread = plotting.plot_images({"img": torch.zeros(1, 3, 32, 32)}, fname=str(tmp_path / "batch.jpg"))
    assert thread.name.endswith("(plot_images)")
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # it cannot draw with what is no annotator
    thread.join()
