"""What a run ends with opens in plain Ultralytics, with kdyolo absent and with restricted loading."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, torch_safe_load

from kdyolo import KDYOLO
from tests.builders.commands import run_command
from tests.builders.training import FAST

# Loads a checkpoint in the environment without kdyolo and writes its raw output for a seeded image.
PROBE = """
import sys, torch
from ultralytics import YOLO
model = YOLO(sys.argv[1]).model.float().eval()
image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save(model(image)[0], sys.argv[2])
"""


@pytest.fixture(scope="module")
def run(checkpoint, shapes, tmp_path_factory) -> Path:
    """A finished run that froze and thawed; beside its weights, the output of the EMA just before the conversion."""
    folder = tmp_path_factory.mktemp("stock") / "run"
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model = KDYOLO(backbone=checkpoint)

    def remember(trainer):
        half = {k: v.half().float() if v.is_floating_point() else v for k, v in trainer.ema.ema.state_dict().items()}
        twin = type(trainer.ema.ema)(trainer.ema.ema.yaml, nc=3, verbose=False)
        twin.load_state_dict(half)
        with torch.no_grad():
            torch.save(twin.eval()(image)[0], folder / "trained.pt")

    model.add_callback("on_model_save", remember)
    model.train(data=str(shapes), freeze_epochs=1, work_dir=folder, save_period=1, **{**FAST, "lr0": 0.001})
    return folder


def class_modules(model: torch.nn.Module) -> set[str]:
    return {type(m).__module__.partition(".")[0] for m in model.modules()}


@pytest.mark.parametrize("name", ["best", "last", "epoch0", "epoch1"])
def test_only_stock_classes_and_a_stock_yaml(run, name):
    path = run / f"weights/{name}.pt"
    content, _ = torch_safe_load(path, safe_only=True)
    model = content["ema"] or content["model"]
    assert type(model) is DetectionModel
    assert class_modules(model) == {"ultralytics", "torch"}
    stock = YOLO("yolov8n.yaml").model.yaml
    assert {k: model.yaml[k] for k in ("backbone", "head", "scales", "scale")} == {
        k: stock[k] for k in ("backbone", "head", "scales", "scale")
    }
    json.dumps(model.yaml["kd"])  # plain data
    assert model.yaml["kd"]["injected"] == "162/162"


def test_same_detections_as_before_the_conversion(run, bare_python, tmp_path):
    run_command(bare_python, "-c", PROBE, run / "weights/last.pt", tmp_path / "stock.pt", cwd=tmp_path)
    trained, stock = torch.load(run / "trained.pt"), torch.load(tmp_path / "stock.pt")
    assert float((trained - stock).abs().max() / trained.abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_stock_rebuild_computes_the_same(run, name):
    model = YOLO(run / f"weights/{name}.pt").model.float().eval()
    rebuilt = DetectionModel(model.yaml, nc=3, verbose=False).eval()
    rebuilt.load_state_dict(model.state_dict())
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = model(image)[0], rebuilt(image)[0]
    assert float((a - b).abs().max() / a.abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["best", "epoch0"])
def test_as_weights_it_computes_the_same(run, shapes, tmp_path, name):
    """Also where the epsilon is still that of the distillation."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    stock, outputs = YOLO(run / f"weights/{name}.pt").model.float().eval(), []

    def look(trainer):
        outputs.append(trainer.ema.ema(image)[0])
        epsilons = {m.eps for m in trainer.ema.ema.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)}
        assert epsilons == {stock.model[0].bn.eps}  # a nearly untrained head hardly shows it in the outputs

    model = KDYOLO(weights=run / f"weights/{name}.pt")
    model.add_callback("on_train_start", look)
    model.train(data=str(shapes), work_dir=tmp_path / "again", **{**FAST, "epochs": 1})
    with torch.no_grad():
        expected = stock(image)[0]
    assert float((outputs[0] - expected).abs().max() / expected.abs().max()) < 1e-5


def test_yolo_val_predict_export_and_train_without_kdyolo(run, shapes, bare_python, tmp_path):
    best = run / "weights/best.pt"
    image = next((shapes.parent / "images/val").iterdir())
    lines = (
        f"val data={shapes} imgsz=64",
        f"predict source={image} imgsz=64",
        "export format=onnx imgsz=64",
        f"train data={shapes} imgsz=64 epochs=1 batch=4 plots=False project=tuned",
    )
    code = "import sys; from ultralytics.cfg import entrypoint; [entrypoint(line) for line in sys.argv[1:]]"
    commands = [f"yolo {line} model={best} device=cpu" for line in lines]
    done = run_command(bare_python, "-c", code, *commands, cwd=tmp_path, ULTRALYTICS_SAFE_LOAD="1")
    assert "all          4          7" in done.stdout  # images and objects of the validation split
    assert f"image 1/1 {image}" in done.stdout
    assert "Transferred 355/355 items" in done.stdout
    assert best.with_suffix(".onnx").is_file()


def test_python_face_after_training(checkpoint, shapes, tmp_path):
    model = KDYOLO(backbone=checkpoint)
    image = str(next((shapes.parent / "images/val").iterdir()))
    assert len(model.predict(image, imgsz=64, device="cpu", verbose=False)) == 1  # also before training
    model.train(data=str(shapes), work_dir=tmp_path / "run", **{**FAST, "epochs": 1})
    metrics = model.val(data=str(shapes), imgsz=64, device="cpu", plots=False, save_dir=str(tmp_path / "val"))
    assert 0 <= metrics.box.map <= 1
    assert len(model.predict(image, imgsz=64, device="cpu", verbose=False)) == 1
    assert Path(model.export(format="onnx", imgsz=64)).is_file()


def test_metrics_equal_those_of_stock_ultralytics(run, shapes, tmp_path):
    options = {"data": str(shapes), "imgsz": 64, "device": "cpu", "plots": False}
    ours = KDYOLO(run / "weights/best.pt").val(**options, save_dir=str(tmp_path / "ours"))
    stock = YOLO(run / "weights/best.pt").val(**options, save_dir=str(tmp_path / "stock"))
    assert ours.results_dict == stock.results_dict


def test_uncapped_widths_train_and_come_out_stock(shapes, tmp_path):
    model = KDYOLO("kdyolov8m.yaml")
    assert model.model.backbone.channels == (192, 384, 768)
    model.train(data=str(shapes), work_dir=tmp_path / "run", **{**FAST, "epochs": 1})
    content, _ = torch_safe_load(tmp_path / "run/weights/best.pt", safe_only=True)
    assert content["model"].model[9].cv2.conv.out_channels == 768
    rebuilt = DetectionModel(content["model"].yaml, nc=3, verbose=False)
    rebuilt.load_state_dict(content["model"].float().state_dict())


def test_a_data_set_that_is_not_coco_is_not_scored_as_coco(run, checkpoint, tmp_path):
    """Ultralytics takes the list's name for COCO's, and would renumber the classes to COCO's ids."""
    from kdyolo import convert_coco, score_coco
    from kdyolo.data.synthetic import draw_dataset

    data = convert_coco(
        draw_dataset(tmp_path / "root", {"train2017": 8, "val2017": 4}, imgsz=64), tmp_path / "coco"
    ).yaml
    assert yaml.safe_load(data.read_text())["val"] == "val2017.txt"
    model = KDYOLO(run / "weights/best.pt")
    metrics = model.val(data=str(data), imgsz=64, device="cpu", plots=False, save_dir=str(tmp_path / "val"))
    predictions, annotations = tmp_path / "val/predictions.json", tmp_path / "root/annotations/instances_val2017.json"
    assert {d["category_id"] for d in json.loads(predictions.read_text())} <= {3, 17, 44}
    assert metrics.coco.metrics == pytest.approx(score_coco(predictions, annotations).metrics, abs=1e-9)


def test_results_csv_has_map_of_each_epoch(run):
    with (run / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["metrics/mAP50-95(B)"]) <= 1 for row in rows)
