"""Several processes on CPU with gloo: ranks stay equal across a thaw, on one node and on two."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from kdyolo import KDYOLO, read_checkpoint
from tests.builders.training import FAST
from tests.system.forkserver import HIDDEN, ForkServer

# Each rank trains and records what it had after every epoch; at the first step after the thaw it also compares the
# gradients it is about to use with the mean of all ranks' own gradients, taken from copies of the model without DDP.
WORKER = """
import copy, sys, torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model
from kdyolo import KDTrainer, KDYOLO
from kdyolo.utils import distributed

checkpoint, data, out, mode, options = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], eval(sys.argv[5])
if mode == "wrapped once":  # the usual mistake
    wrap = distributed.wrap_ddp
    distributed.wrap_ddp = lambda model, *more: (
        model if isinstance(model, DistributedDataParallel) else wrap(model, *more)
    )

class Trainer(KDTrainer):
    record = {"epochs": [], "gradients": None}

    def preprocess_batch(self, batch):
        self.seen = super().preprocess_batch(batch)
        if mode == "dies" and RANK == 1 and self.epoch == 1:
            raise ValueError("this rank is broken")
        return self.seen

    def optimizer_step(self):
        if self.epoch in self.schedule.unfreezes and self.record["gradients"] is None:
            model = unwrap_model(self.model)
            used = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            twin = copy.deepcopy(model)
            twin.zero_grad()
            (twin(self.seen)[0].sum() * self.world_size).backward()
            worst = {}
            for name, p in twin.named_parameters():
                if name in used:
                    dist.all_reduce(p.grad)
                    mean = p.grad / self.world_size
                    worst[name] = float((used[name] - mean).norm() / mean.norm().clamp(min=1e-12))
            self.record["gradients"] = worst
        super().optimizer_step()

def remember(trainer):
    state = unwrap_model(trainer.model).state_dict()
    trainer.record["epochs"].append({n: t.clone() for n, t in state.items()})

model = KDYOLO(backbone=checkpoint)
model.add_callback("on_train_epoch_end", remember)
model.train(trainer=Trainer, data=data, **options)
torch.save(Trainer.record, f"{out}/rank{RANK}.pt")
"""
OPTIONS = {
    **FAST,
    "batch": 8,
    "nbs": 8,
    "epochs": 4,
    "freeze_epochs": 2,
    "thaw_warmup": 0,
    "lr0": 0.01,
    "coco_eval_period": 2,
}


class Ended(NamedTuple):
    """How a rank ended, and what it printed."""

    code: int
    output: str


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def torchrun(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Two ranks as torchrun starts and watches them."""
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port())
    command = [sys.executable, *launch, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600)


def run_ranks(python: ForkServer, *arguments: object, folders: Sequence[Path], nodes: int = 1) -> list[Ended]:
    """Two ranks that are forked: what torchrun does, without the four seconds that each of three processes imports.

    Args:
        python: The server that is forked.
        arguments: What follows ``python`` in each rank.
        folders: Where each rank works.
        nodes: Whether both are of one machine (1), or each of a machine of its own (2).
    """
    own = {k: v for k, v in os.environ.items() if k not in HIDDEN}
    own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    own |= {"LOCAL_WORLD_SIZE": str(2 // nodes), "OMP_NUM_THREADS": "1"}
    ranks = []
    for rank, folder in enumerate(folders):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank if nodes == 1 else 0)}
        ranks.append(python.start(*arguments, cwd=folder, env={**own, **place}))
    deadline = time.monotonic() + 600
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        if any(rank.poll() for rank in ranks):  # one failed: torchrun ends the others, which mostly end by themselves
            deadline = min(deadline, time.monotonic() + 20)
        time.sleep(0.05)
    for rank in ranks:
        rank.kill()
    return [Ended(rank.wait(), rank.stdout.read()) for rank in ranks]


def trained(
    python: ForkServer, checkpoint: Path, shapes: Path, folder: Path, mode: str, **more: object
) -> list[dict[str, object]]:
    script = folder / "worker.py"
    script.write_text(WORKER)
    options = {**OPTIONS, **more, "work_dir": str(folder / "run")}
    ended = run_ranks(python, script, checkpoint, shapes, folder, mode, options, folders=[folder, folder])
    assert [rank.code for rank in ended] == [0, 0], "\n".join(rank.output[-3000:] for rank in ended)
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def parameters_that_differ(ranks: list[dict[str, object]], epoch: int) -> list[str]:
    first, second = (rank["epochs"][epoch] for rank in ranks)
    statistics = ("running_mean", "running_var", "num_batches_tracked")  # each rank's own, by design
    return [n for n in first if not n.endswith(statistics) and not torch.equal(first[n], second[n])]


def test_ranks_are_equal_after_every_epoch_across_a_thaw(python, checkpoint, shapes, tmp_path):
    ranks = trained(python, checkpoint, shapes, tmp_path, "as it is")
    file = {f"model.0.layers.{name}": tensor for name, tensor in read_checkpoint(checkpoint).tensors.items()}
    for epoch in range(4):
        assert parameters_that_differ(ranks, epoch) == []
        for rank in ranks:
            same = [torch.equal(rank["epochs"][epoch][name], tensor) for name, tensor in file.items()]
            assert all(same) is (epoch < 2)  # BatchNorm statistics included
    for rank in ranks:
        assert "model.0.layers.0.conv.weight" in rank["gradients"]
        assert max(rank["gradients"].values()) < 1e-4
    with (tmp_path / "run/results.csv").open() as csv_file:
        written = list(csv.DictReader(csv_file))
    assert [row["epoch"] for row in written] == ["1", "2", "3", "4"]
    assert [row["coco/AP"] == "nan" for row in written] == [True, False, True, False]
    log = (tmp_path / "run/train.log").read_text()
    assert log.count("plan: epochs 1–2: backbone frozen") == 1
    assert log.count("epoch 3: backbone thawed") == 1
    assert log.count("official COCO metrics: 4 images") == 1  # rank 0 alone scores best.pt
    assert KDYOLO(tmp_path / "run/weights/best.pt").val(
        data=str(shapes), imgsz=64, device="cpu", plots=False, save_dir=str(tmp_path / "val")
    )


def test_without_wrapping_again_the_same_test_would_fail(python, checkpoint, shapes, tmp_path):
    """What the re-wrap is there for: the thawed backbone's gradients stay each rank's own, and nothing complains."""
    ranks = trained(python, checkpoint, shapes, tmp_path, "wrapped once")
    assert parameters_that_differ(ranks, 1) == []
    assert "model.0.layers.0.conv.weight" in parameters_that_differ(ranks, 2)
    assert max(ranks[0]["gradients"].values()) > 1e-2


def test_a_rank_that_dies_ends_the_run_with_its_error(checkpoint, shapes, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    began = time.monotonic()
    options = {**OPTIONS, "work_dir": str(tmp_path / "run")}
    done = torchrun(tmp_path / "worker.py", checkpoint, shapes, tmp_path, "dies", options, cwd=tmp_path)
    assert done.returncode != 0
    assert "this rank is broken" in done.stderr
    assert time.monotonic() - began < 200  # the other rank would wait for half an hour; this takes eight seconds


COMMAND = "--epochs 3 --imgsz 64 --batch 8 --device cpu --freeze 1 --work-dir run plots=False nbs=8 warmup_epochs=0"


def two_nodes(python: ForkServer, folder: Path, *arguments: object) -> list[Ended]:
    """Run a kdyolo command as two nodes of one process each, each in its own folder."""
    folders = [folder / f"node{rank}" for rank in (0, 1)]
    for own in folders:
        own.mkdir(exist_ok=True)
    return run_ranks(python, *arguments, folders=folders, nodes=2)


def test_two_nodes_each_in_its_own_folder(python, checkpoint, shapes, tmp_path):
    data = ("--data", shapes, "--backbone", checkpoint)
    (first, output), (second, quiet) = two_nodes(python, tmp_path, "-m", "kdyolo", "train", *data, *COMMAND.split())
    assert (first, second) == (0, 0), output + quiet
    assert (tmp_path / "node0/run/weights/best.pt").is_file()
    assert "plan: epochs 1–1: backbone frozen" in output
    assert "plan:" not in quiet
    assert not any((tmp_path / "node1").iterdir())


def test_two_nodes_go_on_with_a_run_that_only_the_first_one_has(python, checkpoint, shapes, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    options = {**OPTIONS, "work_dir": "run"}
    worker = (tmp_path / "worker.py", checkpoint, shapes, tmp_path, "dies", options)
    assert [code != 0 for code, _ in two_nodes(python, tmp_path, *worker)] == [True, True]
    for folder in (tmp_path / "node1").iterdir():
        shutil.rmtree(folder)
    (first, output), (second, quiet) = two_nodes(
        python, tmp_path, "-m", "kdyolo", "train", "--resume", "run", "--device", "cpu"
    )
    assert (first, second) == (0, 0), output + quiet
    with (tmp_path / "node0/run/results.csv").open() as csv_file:
        assert [row["epoch"] for row in csv.DictReader(csv_file)] == ["1", "2", "3", "4"]
    assert not any((tmp_path / "node1").iterdir())


def test_mistakes_are_printed_once_and_leave_nothing(python, checkpoint, shapes, tmp_path):
    arguments = ("-m", "kdyolo", "train", "--data", shapes, "--backbone", checkpoint, "--model", "kdyolov8s.yaml")
    ended = run_ranks(python, *arguments, "--work-dir", "run", "--device", "cpu", folders=[tmp_path, tmp_path])
    assert all(rank.code for rank in ended)
    assert "".join(rank.output for rank in ended).count("use --model kdyolov8n.yaml") == 1
    assert not (tmp_path / "run").exists()


SMALL_GPUS = """
import sys, torch
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import RANK
from kdyolo.cli import main
from kdyolo.engine import training
from kdyolo.engine.memory.meter import ProcessMemory

class SmallGPU(ProcessMemory):
    may_run_out = True

def loss(self, batch, preds=None):
    if self.training and len(batch["img"]) > (3, 2)[RANK]:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
    return compute(self, batch, preds)

compute, DetectionModel.loss = DetectionModel.loss, loss
training.meter_of = lambda device: SmallGPU()
main(sys.argv[1:])
"""


def test_ranks_with_unequal_room_end_together_with_the_batch_that_fits_on_all(python, checkpoint, shapes, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(SMALL_GPUS)
    options = ("--data", shapes, "--backbone", checkpoint, "--imgsz", 64, "--batch", 8, "--device", "cpu")
    folders = [tmp_path, tmp_path]
    ended = run_ranks(python, script, "train", *options, "--work-dir", "run", "plots=False", folders=folders)
    text = "".join(rank.output for rank in ended)
    assert [rank.code for rank in ended] == [1, 1], text
    assert text.count("Use --batch 4 (2 on each of 2 devices), which does. Nothing was trained.") == 1
    assert not (tmp_path / "run").exists()


def test_an_interrupted_run_of_two_ranks_goes_on(python, checkpoint, shapes, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    options = {**OPTIONS, "work_dir": str(tmp_path / "run")}
    worker = (tmp_path / "worker.py", checkpoint, shapes, tmp_path, "dies", options)
    assert all(rank.code for rank in run_ranks(python, *worker, folders=[tmp_path, tmp_path]))
    resume = ("-m", "kdyolo", "train", "--resume", "run", "--device", "cpu")
    ended = run_ranks(python, *resume, folders=[tmp_path, tmp_path])
    assert [rank.code for rank in ended] == [0, 0], ended[0].output[-3000:]
    with (tmp_path / "run/results.csv").open() as csv_file:
        assert [row["epoch"] for row in csv.DictReader(csv_file)] == ["1", "2", "3", "4"]


def test_ultralytics_own_launch_carries_our_settings(checkpoint, shapes, tmp_path, monkeypatch):
    """For ``device=0,1`` Ultralytics pickles the trainer's class and arguments, and starts a process for each GPU."""
    from kdyolo import KDTrainer

    launched = {}
    monkeypatch.setattr("subprocess.run", lambda command, check: launched.update(command=command))
    monkeypatch.setattr("ultralytics.engine.trainer.ddp_cleanup", lambda trainer, file: launched.update(file=file))
    overrides = {
        **FAST,
        "model": "kdyolov8n.yaml",
        "data": str(shapes),
        "backbone": str(checkpoint),
        "freeze_epochs": 1,
    }
    trainer = KDTrainer(overrides={**overrides, "work_dir": str(tmp_path / "run")})
    trainer.ddp, trainer.world_size = True, 2
    trainer.train()
    state = torch.load(Path(launched["file"]).with_suffix(".pt"), weights_only=False)
    for suffix in (".pt", ".py"):
        Path(launched["file"]).with_suffix(suffix).unlink()
    assert state["trainer"] is KDTrainer
    again = KDTrainer(overrides=state["args"])
    assert again.settings == trainer.settings
    assert again.save_dir == trainer.save_dir
    assert again.checkpoint is not None
    again.log.close()
