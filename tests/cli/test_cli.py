"""The command line as a user meets it: help, messages, exit codes, and the main job."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

import kdyolo
from kdyolo.cli import cli, main
from kdyolo.runs.process_control import Terminated
from tests.builders.commands import run_command

KDYOLO = (sys.executable, "-m", "kdyolo")
COMMANDS = sorted(cli.commands)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command that must fail; no traceback, nothing on the way."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert isinstance(end.value.code, int)
    assert end.value.code != 0
    assert "Traceback" not in error
    return end.value.code, error


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_real_examples(command):
    result = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"kdyolo {command}".strip() in result.output


@pytest.mark.parametrize("name", kdyolo.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(kdyolo, name) is not None


def test_version():
    assert kdyolo.__version__ in CliRunner().invoke(cli, ["--version"]).output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train"], 2, ["--data"]),
        (["train", "--data", "x.yaml", "lrO=1", "epohcs=3"], 2, ["2 mistakes", "'lrO'", "Did you mean 'epochs'"]),
        (["train", "--data", "x.yaml", "--lr0", "1"], 2, ["No such option", "lr0=0.01"]),
        (["train", "--data", "x.yaml", "lr0"], 2, ["KEY=VALUE", "'lr0'"]),
        (["train", "--data", "x.yaml", "--epochs", "3", "epochs=4"], 2, ["epochs is given twice"]),
        (["train", "--data", "x.yaml", "--freeze", "5", "freeze=10"], 2, ["number of layers", "thaws"]),
        (["train", "--data", "x.yaml", "--freeze", "half"], 2, ["'all'"]),
        (["train", "--data", "x.yaml", "--backbone", "b.pth", "--random-init"], 2, ["exclude"]),
        (["train", "--data", "x.yaml", "--model", "kdyolo8n.yaml"], 1, ["no such model YAML", "kdyolov8n.yaml"]),
        (["train", "--data", "x.yaml", "--model", "kdyolov8n.yaml"], 1, ["x.yaml"]),
        (["train", "--data", "x.yaml", "--backbone", "nope.pth"], 1, ["nope.pth: no such file"]),
        (["train", "--resume", "nowhere"], 1, ["last.pt"]),
        (["val", "--model", "nope.pt", "--data", "x.yaml"], 2, ["nope.pt: no such file"]),
        (["convert", "nowhere", "--out", "out"], 1, ["nowhere"]),
        (["convert", "--annotations", "a.json", "--split", "val", "--out", "out"], 2, ["belong together"]),
        (["trian"], 2, ["No such command"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_message(capsys, tmp_path, arguments, code, words):
    found, error = fails(capsys, *arguments)
    assert found == code
    assert all(word in error for word in words), error
    assert not any(tmp_path.iterdir())


def test_strict_checkpoint_before_any_data(capsys, checkpoint, tmp_path):
    code, error = fails(capsys, "train", "--data", "x.yaml", "--backbone", checkpoint, "--model", "kdyolov8s.yaml")
    assert code == 1
    for words in ("missing 0", "wrong shape 135", "shapes fit yolov8n", "use --model kdyolov8n.yaml"):
        assert words in error
    assert not any(tmp_path.iterdir())


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "nowhere", "--out", "out", "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_errors_from_below_have_no_traceback_either(capsys, monkeypatch, shapes, tmp_path):
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no seeds here")

    monkeypatch.setattr("ultralytics.engine.trainer.init_seeds", fail)
    command = ("train", "--data", shapes, "--model", "kdyolov8n.yaml", "--device", "cpu", "--work-dir", "run")
    _, error = fails(capsys, *command)
    assert "Error: ValueError: no seeds here" in error
    assert "--debug" in error
    assert not (tmp_path / "run").exists()


def test_train_and_val_options_arrive(capsys, shapes, checkpoint, tmp_path):
    main(
        f"train --data {shapes} --backbone {checkpoint} --freeze-epochs 1 --epochs 2 --imgsz 64 --batch 4 --device cpu "
        "--workers 1 --seed 7 --save-period 1 --work-dir run --recipe coco-mosaic plots=False hsv_h=0.5".split()
    )
    args = yaml.safe_load((tmp_path / "run/args.yaml").read_text())
    expected = {"epochs": 2, "imgsz": 64, "batch": 4, "seed": 7, "save_period": 1, "hsv_h": 0.5, "mosaic": 1.0}
    assert {key: args[key] for key in expected} == expected
    assert (tmp_path / "run/weights/epoch0.pt").is_file()
    capsys.readouterr()
    code, error = fails(capsys, "train", "--data", shapes, "--backbone", checkpoint, "--work-dir", "run")
    assert code == 2
    assert "--exist-ok" in error
    main(f"val --model run/weights/best.pt --data {shapes} --imgsz 64 --device cpu plots=False save_dir=val".split())
    main(
        f"train --data {shapes} --model kdyolov8n.yaml --epochs 1 --imgsz 64 --batch 4 --device cpu "
        "--work-dir run --exist-ok plots=False".split()
    )


def test_convert_prints_the_yaml_as_it_was_asked_for(capsys, shapes, tmp_path):
    main(["convert", str(shapes.parent.parent / "root"), "--out", "datasets/coco"])
    assert capsys.readouterr().out.splitlines()[-1] == "datasets/coco/coco.yaml"
    assert (tmp_path / "datasets/coco/coco.yaml").is_file()


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_exit_codes_of_a_command_that_a_signal_ended(monkeypatch, raised, code):
    def end(given):
        raise raised

    monkeypatch.setattr(sys.modules["kdyolo.cli.train"], "_start", end)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", "coco.yaml"])
    assert ended.value.code == code


def test_resume_from_the_run_folder(shapes, checkpoint, tmp_path, monkeypatch):
    from kdyolo.engine.trainer import KDTrainer

    def interrupt(self):
        if self.epoch == 1:
            raise KeyboardInterrupt
        return original(self)

    original = KDTrainer._model_train
    monkeypatch.setattr(KDTrainer, "_model_train", interrupt)
    command = f"train --data {shapes} --backbone {checkpoint} --freeze 2 --epochs 3 --imgsz 64 --batch 4 --device cpu"
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--work-dir", "run", "plots=False"])
    assert end.value.code == 130
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    main(["train", "--resume", "run", "--device", "cpu"])
    assert "kdyolo train --resume" in (tmp_path / "run/train.log").read_text()
    assert len((tmp_path / "run/results.csv").read_text().splitlines()) == 4


def test_the_three_commands_on_real_coco_images(shared, bare_python, tmp_path):
    """Convert, train and evaluate with stock Ultralytics, without kdyolo in the last step."""
    backbone = shared / "checkpoints/vfmkd_n_resume.pth"
    done = run_command(*KDYOLO, "convert", shared / "coco128", "--out", tmp_path / "coco", cwd=tmp_path)
    data = Path(done.stdout.splitlines()[-1])
    assert data == tmp_path / "coco/coco.yaml"
    train = (
        f"train --data {data} --backbone {backbone} --freeze 1 --epochs 3 --imgsz 160 --batch 16 --device cpu "
        f"--save-period 1 --work-dir {tmp_path / 'run'}"
    )
    done = run_command(*KDYOLO, *train.split(), cwd=tmp_path)
    assert "backbone: yolov8n · 162/162 tensors · 1,277,707 values · from epoch 4 of vfmkd_n_resume.pth" in done.stdout
    assert "plan: epochs 1–1: backbone frozen (1.3 M of 3.2 M parameters), from 2: all" in done.stdout
    file = kdyolo.read_checkpoint(backbone).tensors
    for epoch, same in ((0, True), (1, False)):
        content = torch.load(tmp_path / f"run/weights/epoch{epoch}.pt", weights_only=False)
        saved = content["ema"].state_dict()
        assert all(torch.equal(saved[f"model.{n}"].float(), t.half().float()) for n, t in file.items()) is same
    code = "from ultralytics.cfg import entrypoint; entrypoint()"
    stock = [bare_python, "-c", code, "val", f"model={tmp_path / 'run/weights/best.pt'}", f"data={data}"]
    done = run_command(*stock, "imgsz=160", "device=cpu", "plots=False", cwd=tmp_path)
    assert "26        206" in done.stdout  # images and boxes of the validation split


def test_training_by_command_uses_every_core(shapes, tmp_path):
    options = ("--data", shapes, "--model", "kdyolov8n.yaml", "--epochs", "1", "--imgsz", "32", "--device", "cpu")
    expected = {"passive": len(os.sched_getaffinity(0)), "active": min(8, max(1, os.cpu_count() - 1))}
    for policy, threads in expected.items():
        env = {"OMP_WAIT_POLICY": policy} if policy == "active" else {}  # the command asks for the other itself
        command = (sys.executable, "-m", "kdyolo", "train", *options, "--work-dir", policy, "plots=False", "val=False")
        run_command(*command, cwd=tmp_path, **env)
        assert yaml.safe_load((tmp_path / policy / "kdyolo.yaml").read_text())["cpu_threads"] == threads
