"""What ranks of a resumed run begin with, as the process that starts them leaves it to them."""

from __future__ import annotations

from pathlib import Path

from kdyolo import KDTrainer
from kdyolo.engine.start import run_start
from kdyolo.engine.start.run_start import start_run


def test_ranks_resume_what_the_command_names(interrupted_copy, monkeypatch):
    begun = []
    monkeypatch.setattr(run_start, "train_on_ranks", lambda count, *_, **start: begun.append((count, start)))
    last = str(interrupted_copy / "weights/last.pt")
    options = {"resume": last, "model": last, "task": "detect", "mode": "train", "device": "cpu,cpu", "epochs": 5}
    KDTrainer(overrides=options).train()
    ((count, given),) = begun
    assert (count, list(given)) == (2, ["overrides"])
    rank = start_run(given["overrides"])
    assert (rank.state.epoch, rank.devices.processes) == (1, 1)
    assert rank.overrides["epochs"] == 5
    assert Path(rank.overrides["save_dir"]) == interrupted_copy
    assert not (interrupted_copy / "pid.txt").exists()
