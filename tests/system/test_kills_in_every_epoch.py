"""Runs killed in every epoch, resumed each time, with steps of one batch and of many and a warm-up that ends or not."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
import torch

BATCH = 2  # images; four batches to an epoch
# The warm-up goes on when the second epoch is killed and resumed, and is over in the third.
OPTIONS = {"imgsz": 32, "batch": BATCH, "epochs": 3, "warmup_epochs": 1.5, "freeze_epochs": 1, "backbone_lr": 0.1}
OPTIONS |= {"device": "cpu", "plots": False, "val": False, "workers": 0}
# Trains once without a stop, and once killed by itself in the second batch of an epoch, resumed, killed in the next and
# resumed. Each training is a fork of this process, in which everything is imported.
RUNS = """
import os, signal, sys, torch
from pathlib import Path
from kdyolo import KDYOLO
from ultralytics.utils.torch_utils import unwrap_model

checkpoint, data, options = sys.argv[1], sys.argv[2], eval(sys.argv[3])

def train(run, options, kill_in):
    resumed = (run / "weights/resume.pt").exists()
    model = KDYOLO(run / "weights/last.pt") if resumed else KDYOLO(backbone=checkpoint)
    batches = []
    def after_batch(trainer):
        batches.append(trainer.epoch)
        if batches.count(kill_in) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    model.add_callback("on_train_batch_end", after_batch)
    model.train(resume=True) if resumed else model.train(data=data, work_dir=run, exist_ok=True, **options)
    both = {"model": unwrap_model(model.trainer.model), "ema": model.trainer.ema.ema}
    torch.save({f"{what}.{n}": t for what, m in both.items() for n, t in m.state_dict().items()}, f"{run}.pt")
    print(run.name, "began with epoch", batches[0], flush=True)

def forked(run, options, kill_in=None):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            train(run, options, kill_in)
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

for accumulate in (1, 4, 32):
    own = {**options, "nbs": options["batch"] * accumulate}
    whole, killed = (Path(f"{name}{accumulate}") for name in ("whole", "killed"))
    print("codes", accumulate, forked(whole, own), *(forked(killed, own, epoch) for epoch in (1, 2, None)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_killed_in_each_epoch_a_run_ends_as_if_it_had_not_been(python, checkpoint, shapes, tmp_path):
    done = python.run("-c", RUNS, checkpoint, shapes, OPTIONS, cwd=tmp_path)
    for accumulate in (1, 4, 32):
        assert f"codes {accumulate} 0 -9 -9 0" in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
        assert f"killed{accumulate} began with epoch 2" in done.stdout
        runs = [tmp_path / f"{name}{accumulate}" for name in ("whole", "killed")]
        whole, killed = (torch.load(f"{run}.pt", weights_only=True) for run in runs)
        assert [name for name, tensor in whole.items() if not torch.equal(tensor, killed[name])] == []
        assert rows(runs[0]) == rows(runs[1])


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in ("time", "memory/GB")} for row in csv.DictReader(file)]
