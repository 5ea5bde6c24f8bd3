"""Before a run: every mistake at once, and what the run would take, with nothing trained and nothing left behind."""

from __future__ import annotations

import weakref

import cv2
import pytest
import torch
from ultralytics import YOLO

from kdyolo.cli import main
from kdyolo.engine.memory.fitting_batch import gradient_buckets
from kdyolo.engine.preflight import preflight
from kdyolo.errors import ConfigError
from kdyolo.models.backbone import DistilledBackbone
from tests.builders.commands import tree
from tests.builders.training import FAST


def test_a_run_is_measured_in_every_phase_and_not_trained(checkpoint, shapes, tmp_path, monkeypatch, capsys):
    def never(*_, **__):
        raise AssertionError("the optimizer stepped")

    monkeypatch.setattr(torch.optim.SGD, "step", never)
    before = tree(shapes.parent)
    options = {**FAST, "data": str(shapes), "backbone": str(checkpoint), "epochs": 9, "unfreeze_stages": "2:p5,5:all"}
    phases = preflight({**options, "work_dir": str(tmp_path / "run")}, tmp_path / "preflight")
    assert [(phase.name, phase.epochs) for phase in phases] == [
        ("backbone frozen", 2),
        ("stem–p4 frozen", 3),
        ("all train", 4),
    ]
    assert all(phase.seconds > 0 and phase.memory > 1 << 20 for phase in phases)
    assert not (tmp_path / "run").exists()
    assert {n: d for n, d in tree(shapes.parent).items() if not n.endswith(".cache")} == {
        n: d for n, d in before.items() if not n.endswith(".cache")
    }
    picture = cv2.imread(str(tmp_path / "preflight/labels.jpg"))
    assert picture is not None
    assert picture.std() > 5


def test_what_several_devices_exchange_is_part_of_the_memory(checkpoint, shapes, tmp_path, monkeypatch):
    """The copy of the gradients of all that trains, by which each of them has more to hold than one alone."""
    held: list[weakref.ref[torch.Tensor]] = []

    def seen(parameters):
        found = gradient_buckets(parameters)
        held.extend(map(weakref.ref, found))
        return found

    monkeypatch.setattr("kdyolo.engine.preflight.gradient_buckets", seen)
    alive = lambda self: sum(t.nbytes for found in held if (t := found()) is not None)  # noqa: E731
    monkeypatch.setattr("kdyolo.engine.memory.meter.ProcessMemory.peak", alive)
    options = {**FAST, "data": str(shapes), "backbone": str(checkpoint), "freeze_epochs": 1, "epochs": 2}
    assert [phase.memory for phase in preflight({**options, "device": "cpu"}, tmp_path / "one")] == [0, 0]
    frozen, thawed = (phase.memory for phase in preflight({**options, "device": "cpu,cpu"}, tmp_path / "two"))
    backbone = sum(p.nbytes for p in DistilledBackbone("yolov8n").parameters())
    assert frozen > 1 << 20
    assert thawed - frozen == backbone
    assert alive(None) == 0


def test_the_command_says_what_would_happen(checkpoint, shapes, tmp_path, caplog, monkeypatch):
    lines = []
    monkeypatch.setattr("ultralytics.utils.LOGGER.info", lambda text, *_: lines.append(str(text)))
    fast = ("--epochs", "3", "--imgsz", "64", "--batch", "4", "--device", "cpu", "--freeze", "1", "plots=False")
    main(["train", "--data", str(shapes), "--backbone", str(checkpoint), "--dry-run", *fast])
    text = "\n".join(lines)
    for words in (
        "ultralytics 8.",
        "162/162 tensors",
        "plan: epoch 1: backbone frozen",
        "train   8 images, 0 of them without objects",
        "backbone frozen     1 epoch × 2 steps × ",
        "nothing was trained",
    ):
        assert words in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["preflight"]


def test_every_mistake_is_told_at_once(checkpoint, tmp_path):
    work_dir = tmp_path / "full"
    work_dir.mkdir()
    (work_dir / "file").touch()
    options = {
        "data": str(tmp_path / "nowhere.yaml"),
        "backbone": str(checkpoint),
        "model": "kdyolov8s.yaml",
        "work_dir": str(work_dir),
    }
    with pytest.raises(ConfigError) as error:
        preflight(options, tmp_path / "preflight")
    for words in ("nowhere.yaml", "exists and is not empty", "use --model kdyolov8n.yaml"):
        assert sum(words in mistake for mistake in error.value.mistakes) == 1
    assert len(error.value.mistakes) == 3
    assert not (tmp_path / "preflight").exists()


def test_doctor(checkpoint, shapes, tmp_path, capsys):
    main(["doctor"])
    assert "GPU" in capsys.readouterr().out
    main(["doctor", "--data", str(shapes), "--backbone", str(checkpoint)])
    out = capsys.readouterr().out
    assert "3 classes" in out
    assert "kdyolov8n.yaml" in out
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(SystemExit):
        main(["doctor", "--data", "nowhere.yaml", "--backbone", str(tmp_path / "text.pth")])
    assert "2 mistakes" in capsys.readouterr().err


def test_a_whole_detector_can_be_checked_too(shapes, tmp_path):
    YOLO("yolov8n.yaml").save(tmp_path / "stock.pt")
    phases = preflight({**FAST, "data": str(shapes), "weights": str(tmp_path / "stock.pt"), "epochs": 2})
    assert [(phase.name, phase.epochs) for phase in phases] == [("all train", 2)]


def test_what_only_shows_once_the_run_is_set_up_is_one_error_too(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--data", shapes, "--random-init", "--imgsz", 32, "--device", "cpu", "--dry-run", "workers=0"]
    for more, said in (
        (["--batch", 1], "batch=1 at imgsz=32 gives BatchNorm one value per channel"),
        (["--batch", 4, "optimizer=evil"], "optimizer='evil' is none that Ultralytics knows. Expected one of"),
        (["--batch", 4, "seed=99999999999"], "seed must lie between 0 and 2³² - 1; found 99999999999"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["train", *map(str, [*small, *more])])
        assert ended.value.code == 2
        assert f"Error: {said}" in capsys.readouterr().err
