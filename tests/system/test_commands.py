"""The main job by commands in processes of their own, as a person runs it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import yaml

import kdyolo
from tests.builders.commands import run_command

KDYOLO = (sys.executable, "-m", "kdyolo")


def test_the_three_commands_on_real_coco_images(shared, bare_python, tmp_path):
    """Convert, train and evaluate with stock Ultralytics, without kdyolo in the last step."""
    backbone = shared / "checkpoints/vfmkd_n_resume.pth"
    done = run_command(*KDYOLO, "convert", shared / "coco128", "--out", tmp_path / "coco", cwd=tmp_path)
    data = Path(done.stdout.splitlines()[-1])
    assert data == tmp_path / "coco/coco.yaml"
    train = (
        f"train --data {data} --backbone {backbone} --freeze 1 --epochs 2 --imgsz 96 --batch 16 --device cpu "
        f"--save-period 1 --work-dir {tmp_path / 'run'} plots=False"
    )
    done = run_command(*KDYOLO, *train.split(), cwd=tmp_path)
    assert "backbone: yolov8n · 162/162 tensors · 1,277,707 values · from epoch 4 of vfmkd_n_resume.pth" in done.stdout
    assert "plan: epoch 1: backbone frozen (1.3 M of 3.2 M parameters), from 2: all" in done.stdout
    file = kdyolo.read_checkpoint(backbone).tensors
    for epoch, same in ((0, True), (1, False)):
        content = torch.load(tmp_path / f"run/weights/epoch{epoch}.pt", weights_only=False)
        saved = content["ema"].state_dict()
        assert all(torch.equal(saved[f"model.{n}"].float(), t.half().float()) for n, t in file.items()) is same
    code = "from ultralytics.cfg import entrypoint; entrypoint()"
    stock = [bare_python, "-c", code, "val", f"model={tmp_path / 'run/weights/best.pt'}", f"data={data}"]
    done = run_command(*stock, "imgsz=96", "device=cpu", "plots=False", cwd=tmp_path)
    assert "26        206" in done.stdout  # images and boxes of the validation split


def test_training_by_command_uses_every_core(shapes, tmp_path):
    options = ("--data", shapes, "--model", "kdyolov8n.yaml", "--epochs", "1", "--imgsz", "32", "--device", "cpu")
    expected = {"passive": len(os.sched_getaffinity(0)), "active": min(8, max(1, os.cpu_count() - 1))}
    for policy, threads in expected.items():
        env = {"OMP_WAIT_POLICY": policy if policy == "active" else None}  # the command asks for the other itself
        command = (sys.executable, "-m", "kdyolo", "train", *options, "--work-dir", policy, "plots=False", "val=False")
        run_command(*command, cwd=tmp_path, fresh=True, **env)
        assert yaml.safe_load((tmp_path / policy / "kdyolo.yaml").read_text())["cpu_threads"] == threads


def test_what_matters_comes_first_and_the_next_commands_last(shapes, checkpoint, tmp_path):
    """Report and plan, warnings, epochs, what is next; Ultralytics' settings and layers in the log, or with ``-v``."""
    fast = ["--epochs", "1", "--imgsz", "32", "--batch", "4", "--device", "cpu", "val=False", "plots=False"]
    train = (*KDYOLO, "train", "--data", shapes, "--backbone", checkpoint, "--freeze", "3", *fast)
    done = run_command(*train, cwd=tmp_path)
    run = tmp_path / "runs/detect/train"
    places = [done.stdout.index(words) for words in ("backbone: yolov8n", "plan: epoch 1", "never thaws: ", "Epoch")]
    assert places == sorted(places)
    assert "WARNING" in done.stdout[places[1] : places[2]]
    hidden = ("engine/trainer: ", "DistilledBackbone", "Freezing layer")
    log = (run / "train.log").read_text()
    assert [words for words in hidden if words in done.stdout] == []
    assert all(words in log for words in hidden)
    *_, validate, predict, compare, card = (line.split() for line in done.stderr.rstrip().splitlines())
    best = "runs/detect/train/weights/best.pt"
    assert validate[:4] == ["kdyolo", "val", best, str(shapes)]
    assert predict[:3] == ["kdyolo", "predict", best]
    assert (tmp_path / predict[3]).exists()
    assert compare[:3] == ["kdyolo", "compare", "runs/detect/train"]
    run_command(*KDYOLO, *card[1:], cwd=tmp_path)
    assert (run / "model_card.md").is_file()
    loud = run_command(*KDYOLO, "train", "--config", run, "seed=3", "name=loud", "-v", cwd=tmp_path)
    assert all(words in loud.stdout for words in hidden)
    again = yaml.safe_load((tmp_path / "runs/detect/loud/kdyolo.yaml").read_text())
    assert (again["settings"]["freeze_epochs"], again["asked"]["imgsz"], again["seed"]) == (3, 32, 3)
    quiet = run_command(*KDYOLO, "train", "--config", run, "name=quiet", "-q", "--json", cwd=tmp_path)
    result = json.loads(quiet.stdout)
    assert (result["run"], result["epochs"]) == ("runs/detect/quiet", 1)
    assert "never thaws" in quiet.stderr
    assert "Epoch" not in quiet.stderr
