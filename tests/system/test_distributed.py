"""Several processes on CPU with gloo: ranks stay equal across a thaw, on one node and on two."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
import yaml
from ultralytics import YOLO

from kdyolo import KDYOLO, read_checkpoint
from kdyolo.engine.resume import ResumeState
from tests.builders.commands import tree
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


def torchrun(python: ForkServer, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Two ranks as torchrun starts and watches them; it is forked, they are started."""
    launch = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port())
    return python.run(*launch, *arguments, cwd=cwd)


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


def test_ranks_with_a_teacher_are_equal_too(python, checkpoint, shapes, tmp_path):
    YOLO("yolov8n.yaml", verbose=False).save(tmp_path / "teacher.pt")
    more = {"epochs": 2, "freeze_epochs": 1, "distill_model": str(tmp_path / "teacher.pt")}
    ranks = trained(python, checkpoint, shapes, tmp_path, "as it is", **more)
    assert "projector.0.0.weight" in ranks[0]["epochs"][0]
    assert parameters_that_differ(ranks, 0) == parameters_that_differ(ranks, 1) == []
    for rank in ranks:
        assert "projector.0.0.weight" in rank["gradients"]
        assert max(rank["gradients"].values()) < 1e-4


def test_without_wrapping_again_the_same_test_would_fail(python, checkpoint, shapes, tmp_path):
    """What the re-wrap is there for: the thawed backbone's gradients stay each rank's own, and nothing complains."""
    ranks = trained(python, checkpoint, shapes, tmp_path, "wrapped once")
    assert parameters_that_differ(ranks, 1) == []
    assert "model.0.layers.0.conv.weight" in parameters_that_differ(ranks, 2)
    assert max(ranks[0]["gradients"].values()) > 1e-2


def test_a_rank_that_dies_ends_the_run_with_its_error(python, checkpoint, shapes, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    began = time.monotonic()
    options = {**OPTIONS, "work_dir": str(tmp_path / "run")}
    done = torchrun(python, tmp_path / "worker.py", checkpoint, shapes, tmp_path, "dies", options, cwd=tmp_path)
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
    assert "plan: epoch 1: backbone frozen" in output
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


# A user's script: a trainer of its own, a callback that no import leads to, and what train returns.
SCRIPT = """
import sys
from kdyolo import KDTrainer, KDYOLO

class Mine(KDTrainer):
    def optimizer_step(self):
        if type(self).fails and self.rank == 1:
            raise ValueError("this rank is broken")
        super().optimizer_step()

checkpoint, data, out, options = sys.argv[1], sys.argv[2], sys.argv[3], eval(sys.argv[4])
Mine.fails = options.pop("fails")
Mine.rank = property(lambda self: __import__("torch").distributed.get_rank())
model = KDYOLO(backbone=checkpoint)
model.add_callback("on_train_epoch_end", lambda trainer: open(f"{out}/seen{trainer.rank}", "a").write("epoch "))
results = model.train(trainer=Mine, data=data, device="cpu,cpu", **options)
print("RETURNED", sorted(results)[:1], model.overrides["model"], model.trainer.validator)
"""


def user_script(python: ForkServer | None, checkpoint: Path, shapes: Path, folder: Path, **more: object) -> Ended:
    """A script with ranks; without a server to fork, all of them are started, as a person does."""
    (folder / "script.py").write_text(SCRIPT)
    options = {name: value for name, value in OPTIONS.items() if name != "device"}
    options |= {"work_dir": str(folder / "run"), **more}
    env = {**os.environ, "TMPDIR": str(folder)}
    command = [str(part) for part in (folder / "script.py", checkpoint, shapes, folder, options)]
    if python is None:
        done = subprocess.run(
            [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True, check=False
        )
    else:
        done = python.run(*command, cwd=folder, env=env)
    assert processes_in(folder) == []
    return Ended(done.returncode, done.stdout + done.stderr)


def processes_in(folder: Path) -> list[int]:
    """Processes beside this one that work in a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(folder) and process.pid != os.getpid():
                found.append(process.pid)
    return found


def test_a_users_script_trains_on_several_devices(checkpoint, shapes, tmp_path):
    ended = user_script(None, checkpoint, shapes, tmp_path, epochs=2, fails=False)
    assert ended.code == 0, ended.output[-3000:]
    assert [(tmp_path / f"seen{rank}").read_text() for rank in (0, 1)] == ["epoch epoch "] * 2
    assert f"RETURNED ['coco/AP'] {tmp_path / 'run/weights/best.pt'} None" in ended.output
    record = yaml.safe_load((tmp_path / "run/kdyolo.yaml").read_text())
    assert record["backbone"]["path"] == str(checkpoint)
    assert not list(tmp_path.glob("kdyolo-ranks-*"))  # its temporary folder, as TMPDIR has it


def test_a_rank_that_fails_in_a_users_script_is_the_error_of_the_script(python, checkpoint, shapes, tmp_path):
    ended = user_script(python, checkpoint, shapes, tmp_path, fails=True)
    assert ended.code == 1
    assert "RunError: rank 1 of 2 ended with ValueError: this rank is broken" in ended.output
    assert ended.output.count('raise ValueError("this rank is broken")') <= 1
    assert "torch.distributed.elastic" not in ended.output


def test_a_work_dir_with_files_keeps_them_and_sigterm_ends_all_ranks(python, checkpoint, shapes, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(shapes.parent / "annotations", run / "mine")
    shutil.copy(checkpoint, run / "backbone.pth")
    kept = tree(run)
    command = ("-m", "kdyolo", "train", "--data", shapes, "--backbone", run / "backbone.pth", "--exist-ok")
    options = COMMAND.replace("--device cpu", "--device cpu,cpu").replace("--epochs 3", "--epochs 200").split()
    process = python.start(*command, *options, cwd=tmp_path)
    state = run / "weights/resume.pt"
    deadline = time.monotonic() + 300
    while not (state.is_file() and state.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.stdout.read()[-3000:]
    assert len(processes_in(tmp_path)) == 3  # two ranks and what started them
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    output = process.stdout.read()
    assert output.count("Interrupted. Resume with: kdyolo train --resume") == 1
    assert "Traceback" not in output
    assert "Error" not in output
    assert processes_in(tmp_path) == []
    assert not (run / "pid.txt").exists()
    assert kept.items() <= tree(run).items()
    assert ResumeState.load(state).epoch >= 0


def test_a_mistake_on_several_devices_is_printed_once(python, checkpoint, shapes, tmp_path):
    broken = yaml.safe_load(shapes.read_text()) | {"val": "nowhere.txt", "path": str(shapes.parent)}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(broken))
    for data, model, code in (("broken.yaml", "kdyolov8n.yaml", 1), (shapes, "kdyolov8s.yaml", 1)):
        command = ("train", "--data", data, "--backbone", checkpoint, "--model", model, "--device", "cpu,cpu")
        done = python.run("-m", "kdyolo", *command, "--work-dir", "run", cwd=tmp_path)
        said = done.stdout + done.stderr
        errors = [line for line in said.splitlines() if line.startswith("Error:")]
        assert (done.returncode, len(errors), said.count("Traceback")) == (code, 1, 0), said
        assert not (tmp_path / "run").exists()


BY_HAND = """
import os, sys
import torch
from ultralytics.utils.torch_utils import unwrap_model
from kdyolo import KDYOLO
yaml, data, folder, options = sys.argv[1], sys.argv[2], sys.argv[3], eval(sys.argv[4])

def look(trainer):
    torch.save(unwrap_model(trainer.model).state_dict(), f"{folder}/rank{os.environ['RANK']}.pt")
    raise KeyboardInterrupt

model = KDYOLO(yaml)
for tensor in model.model.state_dict().values():
    if tensor.is_floating_point():
        tensor.mul_(0.5)
torch.save(model.model.state_dict(), f"{folder}/mine.pt")
model.add_callback("on_pretrain_routine_end", look)
model.train(data=data, work_dir=f"{folder}/run", device="cpu,cpu", **options)
"""


def test_weights_put_in_by_hand_reach_every_rank(python, three, shapes, tmp_path):
    (tmp_path / "script.py").write_text(BY_HAND)
    options = {name: value for name, value in OPTIONS.items() if name not in ("device", "freeze_epochs", "backbone")}
    done = python.run(tmp_path / "script.py", three, shapes, tmp_path, options, cwd=tmp_path)
    assert "nothing is kept, the same command starts anew" in done.stdout, done.stderr[-3000:]
    mine, *ranks = (torch.load(tmp_path / name) for name in ("mine.pt", "rank0.pt", "rank1.pt"))
    assert all(torch.equal(found[name], tensor) for found in ranks for name, tensor in mine.items())
