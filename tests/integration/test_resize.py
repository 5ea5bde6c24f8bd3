"""Stretched images: in training, evaluation and prediction, remembered by the checkpoint, and boxes come back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import ops

from kdyolo import KDYOLO, convert_coco
from kdyolo.engine.predictor import StretchPredictor, resize_of
from kdyolo.engine.trainer import KDTrainer
from kdyolo.errors import ConfigError
from tests.builders.commands import run_command
from tests.builders.training import FAST

WIDE = (48, 128)  # height and width of the images


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """YAML of a data set of wide images, each with a rectangle of its own colour."""
    folder = tmp_path_factory.mktemp("wide")
    random, (height, width) = np.random.default_rng(0), WIDE
    for split, count in (("train", 8), ("val", 4)):
        images, annotations = [], []
        (folder / "root" / f"{split}2017").mkdir(parents=True)
        for number in range(1, count + 1):
            x, y = random.uniform((4, 4), (70, 20))
            w, h = random.uniform((12, 8), (50, 24))
            picture = random.integers(0, 60, (height, width, 3), dtype=np.uint8)
            cv2.rectangle(picture, (round(x), round(y)), (round(x + w), round(y + h)), (200, 220, 90), -1)
            cv2.imwrite(str(folder / "root" / f"{split}2017/{number:03}.png"), picture)
            images.append({"id": number, "file_name": f"{number:03}.png", "height": height, "width": width})
            box = {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0, "category_id": 1}
            annotations.append({"id": number, "image_id": number, **box})
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
        (folder / "root/annotations").mkdir(exist_ok=True)
        (folder / f"root/annotations/instances_{split}2017.json").write_text(json.dumps(content))
    return convert_coco(folder / "root", folder / "data").yaml


@pytest.fixture(scope="module")
def stretched(wide, tmp_path_factory):
    """A model trained on stretched wide images, its best checkpoint, and the image batches that it saw."""
    seen, run = [], tmp_path_factory.mktemp("stretched") / "run"
    model = KDYOLO("kdyolov8n.yaml")
    model.add_callback("on_train_batch_end", lambda trainer: seen.append(trainer.train_loader.dataset))
    model.train(**{**FAST, "data": str(wide), "work_dir": run, "resize": "stretch", "epochs": 1})
    return SimpleNamespace(model=model, best=run / "weights/best.pt", dataset=seen[-1])


def test_boxes_come_back_to_their_pixels(wide, tmp_path):
    """Labels → stretched image → pixels of the original, as evaluation does it: within 1e-4 px."""
    trainer = KDTrainer(
        overrides={
            **FAST,
            "model": "kdyolov8n.yaml",
            "data": str(wide),
            "resize": "stretch",
            "work_dir": tmp_path / "run",
        }
    )
    trainer.setup_model()
    dataset = trainer.build_dataset(trainer.data["val"], "val", 4)
    trainer.log.close()
    height, width = WIDE
    for sample, label in zip(dataset, dataset.labels, strict=True):
        assert sample["img"].shape == (3, 64, 64)
        assert sample["ratio_pad"] == ((64 / height, 64 / width), (0, 0))
        boxes = ops.xywh2xyxy(sample["bboxes"].double()) * 64
        boxes = ops.scale_boxes((64, 64), boxes, sample["ori_shape"], sample["ratio_pad"])
        expected = ops.xywh2xyxy(label["bboxes"].astype(float)) * (width, height, width, height)
        assert np.abs(boxes.numpy() - expected).max() < 1e-4


def test_training_sees_stretched_images(stretched):
    image, original, resized = stretched.dataset.load_image(0)
    assert (original, resized) == (WIDE, (64, 64))
    whole = cv2.imread(stretched.dataset.im_files[0])
    assert np.array_equal(image, cv2.resize(whole, (64, 64), interpolation=cv2.INTER_LINEAR))


def test_the_checkpoint_remembers_and_stock_code_still_reads_it(stretched):
    assert resize_of(KDYOLO(stretched.best).model) == resize_of(YOLO(stretched.best).model) == "stretch"
    assert resize_of(KDYOLO("kdyolov8n.yaml").model) == "letterbox"


def test_val_stretches_without_being_asked(stretched, wide, tmp_path):
    """The network gets the same batches as in training's own evaluation; plain Ultralytics letterboxes."""
    shapes = {}
    for name, cls in (("kdyolo", KDYOLO), ("stock", YOLO)):
        model = cls(stretched.best)
        model.add_callback(
            "on_val_batch_end",
            lambda v, name=name: shapes.update({name: v.dataloader.dataset[0]["ratio_pad"][0]}),
        )
        model.val(data=str(wide), imgsz=64, device="cpu", plots=False, save_dir=str(tmp_path / name))
    assert shapes["kdyolo"] == (64 / WIDE[0], 64 / WIDE[1])
    assert shapes["stock"] == pytest.approx((0.5, 0.5))


def test_predict_stretches_and_boxes_are_in_original_pixels(stretched, wide, monkeypatch):
    """The network sees the stretched image, and what it finds in the square is mapped back along each axis."""
    image = next(Path(check_det_dataset(str(wide))["path"]).glob("images/val*/*.png"))
    model, seen = KDYOLO(stretched.best), []

    def find_one(self, pixels, *_, **__):
        seen.append(pixels)
        box = torch.tensor([32.0, 16.0, 32.0, 8.0, 0.9])  # xywh in the square, and a score
        return box.reshape(1, 5, 1)

    monkeypatch.setattr(StretchPredictor, "inference", find_one)
    (found,) = model.predict(image, imgsz=64, device="cpu", verbose=False)
    whole = cv2.resize(cv2.imread(str(image)), (64, 64), interpolation=cv2.INTER_LINEAR)
    assert torch.equal((seen[-1][0] * 255).round().permute(1, 2, 0), torch.from_numpy(whole[..., ::-1].copy()).float())
    (height, width), (x, y) = WIDE, (128 / 64, 48 / 64)
    assert found.boxes.orig_shape == (height, width)
    assert torch.allclose(found.boxes.xyxy, torch.tensor([[16 * x, 12 * y, 48 * x, 20 * y]]))


def test_the_commands(wide, tmp_path):
    images = Path(check_det_dataset(str(wide))["path"]) / "images/val2017"
    fast = ("--epochs", "1", "--imgsz", "64", "--batch", "4", "--device", "cpu", "plots=False")
    run_command(
        sys.executable,
        "-m",
        "kdyolo",
        "train",
        "--data",
        wide,
        "--work-dir",
        "run",
        "--resize",
        "stretch",
        *fast,
        cwd=tmp_path,
    )
    predict = (sys.executable, "-m", "kdyolo", "predict", "--model", "run/weights/best.pt", "--source", images)
    done = run_command(*predict, "--device", "cpu", f"save_dir={tmp_path / 'out'}", cwd=tmp_path)
    assert done.stdout.count("64x64") == 4
    assert len(list(tmp_path.glob("out/*.jpg"))) == 4


@pytest.mark.parametrize(
    ("options", "words"),
    [({"resize": "squash"}, "letterbox or stretch"), ({"resize": "stretch", "rect": True}, "exclude each other")],
)
def test_mistakes(wide, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        KDYOLO("kdyolov8n.yaml").train(data=str(wide), work_dir=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
