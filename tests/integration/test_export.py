"""Out again: stock checkpoints from anywhere in a run, and backbones that can be injected again, bit for bit."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from ultralytics import YOLO
from ultralytics.nn.tasks import torch_safe_load

from kdyolo import KDYOLO, export_stock, extract_backbone, load_backbone, read_checkpoint
from kdyolo.checkpoints.loading import changed_tensors
from kdyolo.errors import CheckpointError, ConfigError, RunError
from kdyolo.models.bn_folding import output_difference, sample_outputs
from tests.builders.commands import run_command
from tests.builders.training import FAST


@pytest.fixture(scope="module")
def interrupted(checkpoint, shapes, tmp_path_factory) -> Path:
    """A run that ended in its third epoch of four, thawed in the second: last.pt, epoch0.pt, epoch1.pt."""
    run = tmp_path_factory.mktemp("interrupted") / "run"

    def stop(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt

    model = KDYOLO(backbone=checkpoint)
    model.add_callback("on_train_epoch_start", stop)
    with pytest.raises(KeyboardInterrupt):
        model.train(**{**FAST, "data": str(shapes), "work_dir": run, "epochs": 4, "freeze_epochs": 1, "save_period": 1})
    (run / "weights/best.pt").unlink()
    return run


@pytest.fixture(scope="module")
def finished(checkpoint, shapes, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    KDYOLO(backbone=checkpoint).train(**{**FAST, "data": str(shapes), "work_dir": run, "lr0": 0.001})
    return run


def detector(path: Path) -> torch.nn.Module:
    content, _ = torch_safe_load(path, safe_only=True)
    return content["ema"] or content["model"]


def test_a_checkpoint_from_the_middle_of_a_run_becomes_stock(interrupted, shapes, bare_python, tmp_path):
    done = run_command(sys.executable, "-m", "kdyolo", "export-stock", interrupted, "--out", "stock.pt", cwd=tmp_path)
    assert done.stdout.strip().endswith("stock.pt")
    content, _ = torch_safe_load(tmp_path / "stock.pt", safe_only=True)
    assert (content["optimizer"], content["ema"], content["epoch"]) == (None, None, -1)
    assert content["train_args"]["epochs"] == 4
    model, source = content["model"], detector(interrupted / "weights/last.pt")
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}
    assert {m.eps for m in source.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3, 1e-5}
    assert output_difference(sample_outputs(source), sample_outputs(model)) < 1e-5
    assert model.yaml["kd"]["injected"] == "162/162"
    code = (
        "from ultralytics import YOLO; m = YOLO('stock.pt'); m.val(data=%r, imgsz=64, plots=False, device='cpu'); "
        "m.train(data=%r, imgsz=64, epochs=1, batch=4, plots=False, device='cpu', optimizer='SGD')"
    )
    run_command(bare_python, "-c", code % (str(shapes), str(shapes)), cwd=tmp_path)


def test_the_default_name_stands_beside_and_nothing_is_replaced_unasked(finished):
    path = export_stock(finished)
    assert path == finished / "weights/best-stock.pt"
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        export_stock(finished)
    with pytest.raises(ConfigError, match="the checkpoint itself"):
        export_stock(finished / "weights/best.pt", finished / "weights/best.pt", exist_ok=True)
    assert path.read_bytes() == before
    export_stock(finished, exist_ok=True)
    best, exported = (sample_outputs(detector(file)) for file in (finished / "weights/best.pt", path))
    assert output_difference(best, exported) == 0.0
    assert {p.name for p in (finished / "weights").iterdir()} == {"best.pt", "last.pt", "best-stock.pt"}


@pytest.mark.parametrize(("name", "eps"), [("epoch0", 1e-5), ("epoch1", 1e-5), ("last", 1e-5)])
def test_an_extracted_backbone_goes_in_again_bit_for_bit(interrupted, checkpoint, tmp_path, name, eps):
    source = interrupted / f"weights/{name}.pt"
    path = extract_backbone(source, tmp_path / "backbone.safetensors")
    back = read_checkpoint(path)
    assert back.bn_eps == eps
    stored = {n.partition(".")[2]: t for n, t in detector(source).state_dict().items()}
    assert len(back.tensors) == 162
    assert all(torch.equal(tensor.float(), stored[n].float()) for n, tensor in back.tensors.items())
    model = KDYOLO(backbone=path)
    assert model.report is not None
    assert model.report.complete
    assert changed_tensors(model.model.backbone, {n: t.float() for n, t in back.tensors.items()}) == []
    # and while it was frozen, it is still the file that went in, as far as fp16 can hold it
    first = read_checkpoint(checkpoint).tensors
    assert all(torch.equal(t.half(), back.tensors[n].half()) for n, t in first.items()) is (name == "epoch0")


def test_a_finished_backbone_computes_the_same_features(finished, tmp_path):
    path = extract_backbone(finished, tmp_path / "backbone.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert (metadata["arch"], metadata["bn_eps"], metadata["extracted_from"]) == ("yolov8n", "0.001", "best.pt")
    assert json.loads(metadata["kd"])["injected"] == "162/162"
    layers, x = detector(finished / "weights/best.pt").float().eval().model[:10], torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = load_backbone(path)(x)
        for i, layer in enumerate(layers):
            x = layer(x)
            if i in (4, 6, 9):
                assert torch.equal(features.pop(0), x)


def test_a_stock_detector_gives_its_backbone_too(tmp_path):
    YOLO("yolov8n.yaml").save(tmp_path / "stock.pt")
    path = extract_backbone(tmp_path / "stock.pt", tmp_path / "backbone.safetensors")
    assert read_checkpoint(path).bn_eps == 1e-3


@pytest.mark.parametrize(
    ("source", "out", "error", "words"),
    [
        ("nowhere", "b.safetensors", CheckpointError, "expected a checkpoint, or a run folder"),
        ("text.pt", "b.safetensors", CheckpointError, "not a weights file"),
        ("tensors.pt", "b.safetensors", CheckpointError, "expected an Ultralytics checkpoint"),
        ("tensors.pt", "b.pth", ConfigError, "ends in .safetensors"),
        ("tensors.pt", "no/b.safetensors", ConfigError, "there is no folder"),
    ],
)
def test_mistakes_leave_nothing(tmp_path, source, out, error, words):
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"model": torch.zeros(3)}, tmp_path / "tensors.pt")
    with pytest.raises(error, match=words):
        extract_backbone(tmp_path / source, tmp_path / out)
    assert {p.name for p in tmp_path.iterdir()} == {"text.pt", "tensors.pt"}


def test_settings_that_are_damaged_are_named_and_nothing_is_written(interrupted, tmp_path):
    run = Path(shutil.copytree(interrupted, tmp_path / "run"))
    for text, words in (("epochs: .inf", "epochs"), ("epochs: many", "epochs"), ("- 1", "list"), ("a: [", "parsing")):
        (run / "args.yaml").write_text(text)
        with pytest.raises(RunError, match=rf"args\.yaml: damaged.*{words}"):
            export_stock(run, tmp_path / "stock.pt")
    assert not (tmp_path / "stock.pt").exists()
    assert not list(tmp_path.glob("*partial*"))
    extract_backbone(run, tmp_path / "backbone.safetensors")  # which needs the checkpoint alone
