"""``kdyolo demo``: the whole way once, on a synthetic COCO data set that is drawn here.

Everything after the drawing is the code of real use: a small detector is trained on the shapes in place of the
distillation, its backbone is saved in the old system's layout, and a detector is trained on that backbone, frozen at
first and then not.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torchvision.io import read_image, write_png
from torchvision.utils import draw_bounding_boxes, make_grid
from ultralytics.utils import LOGGER

from kdyolo.checkpoints.key_naming import STAGES
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.engine.model import KDYOLO
from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.history import MAP, read_run

# Sparse ids in no order, as real annotation files have them.
CATEGORIES = {3: "disc", 17: "square", 44: "triangle"}
IMGSZ = 128  # pixels: images are drawn and trained at this size
SPLITS = {"train": 240, "val": 48}
# One optimizer step per batch and a brisk Adam: hundreds of images, not COCO's hundred thousand.
RECIPE: dict[str, Any] = {
    "optimizer": "AdamW",
    "lr0": 0.002,
    "warmup_epochs": 1.0,
    "batch": 8,
    "imgsz": IMGSZ,
    "device": "cpu",
    "scale": 0.2,
    "plots": False,
}
TEACHING_EPOCHS, FROZEN_EPOCHS, EPOCHS = 15, 6, 20


def run_demo(out: Path, splits: dict[str, int] | None = None) -> dict[str, Any]:
    """Draw, distil, convert, train frozen and thawed, evaluate; print where everything is.

    Args:
        out: Folder to write; must not exist or be empty.
        splits: Split name → number of images.

    Returns:
        ``map``: mAP50-95 after each epoch, ``final``: that of ``best.pt``, ``predictions``: the saved picture.

    Raises:
        ConfigError: ``out`` is not empty.
        RunError: mAP stayed near zero or did not rise: the installation does not train properly.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not empty. Choose another folder with --out, or remove it.")
    began = time.monotonic()
    _say(1, f"drawing a COCO data set of shapes in {out / 'shapes'}")
    root = draw_dataset(out / "shapes", splits)
    _say(2, "converting it: kdyolo convert")
    summary = convert_coco(root, out / "coco")
    LOGGER.info(summary.table())
    _say(3, f"teaching a backbone for {TEACHING_EPOCHS} epochs, and saving it as a distillation would")
    checkpoint = make_checkpoint(out, summary.yaml)
    _say(4, f"training on it: kdyolo train --freeze {FROZEN_EPOCHS} --epochs {EPOCHS}")
    run = out / "run"
    model = KDYOLO(backbone=checkpoint)
    model.train(data=str(summary.yaml), freeze_epochs=FROZEN_EPOCHS, epochs=EPOCHS, work_dir=run, **RECIPE)
    _say(5, "evaluating: kdyolo val")
    metrics = model.val(data=str(summary.yaml), imgsz=IMGSZ, device="cpu", plots=False, save_dir=str(out / "val"))
    final = float(metrics.box.map)
    picture = save_predictions(model, out)
    curve = read_run(run).column(MAP)
    frozen, best = max(curve[:FROZEN_EPOCHS]), max(curve)
    LOGGER.info(
        f"\nDone in {(time.monotonic() - began) / 60:.1f} min. mAP50-95 by epoch: "
        f"{' '.join(f'{x:.3f}' for x in curve)}\n"
        f"  frozen until epoch {FROZEN_EPOCHS}: {frozen:.3f}; after the thaw: {max(curve[FROZEN_EPOCHS:]):.3f}; "
        f"best.pt: {final:.3f}\n"
        f"Look at\n"
        f"  {picture}  predictions on images it has not seen\n"
        f"  {run / 'results.csv'}  losses and mAP of each epoch\n"
        f"  {run / 'kdyolo.yaml'}  what was trained, from what\n"
        f"  {run / 'weights' / 'best.pt'}  a plain Ultralytics checkpoint: yolo predict model=…"
    )
    if not (best > 0.1 and best > curve[0] and final > 0.1):
        raise RunError(
            f"the demo trained, but mAP50-95 is {final:.3f} (best {best:.3f}, first epoch {curve[0]:.3f}); expected "
            "clearly above 0.1 and rising. This installation does not train properly."
        )
    return {"map": curve, "final": final, "predictions": picture}


def draw_dataset(root: Path, splits: dict[str, int] | None = None, imgsz: int = IMGSZ, seed: int = 0) -> Path:
    """Draw a small COCO data set in the official layout: sparse category ids, a crowd, and images without objects.

    Args:
        root: Folder to create.
        splits: Split name → number of images.
        imgsz: Side of the square images, in pixels.
        seed: Of shapes, colours and places.

    Returns:
        ``root``, with ``annotations/instances_<split>.json`` and ``<split>/*.jpg``.
    """
    rng = random.Random(seed)
    for split, count in (splits or SPLITS).items():
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(1, count + 1):
            name = f"{number:06d}.jpg"
            picture, objects = _draw_image(rng, imgsz, empty=number % 10 == 0)
            picture.save(root / split / name, quality=92)
            images.append({"id": number, "file_name": name, "width": imgsz, "height": imgsz})
            annotations += [
                {"id": len(annotations) + i, "image_id": number, "iscrowd": 0, "area": box[2] * box[3], **fields}
                for i, fields in enumerate(objects, start=1)
                for box in [fields["bbox"]]
            ]
        annotations.append(_crowd(len(annotations) + 1, imgsz))
        content = {
            "info": {"description": "drawn shapes"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def _draw_image(rng: random.Random, imgsz: int, empty: bool) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A noisy background with a few shapes on it, and their annotations."""
    background = tuple(rng.randrange(60, 200) for _ in range(3))
    picture = Image.new("RGB", (imgsz, imgsz), background)
    draw = ImageDraw.Draw(picture)
    for _ in range(imgsz):  # speckle, so that texture alone says nothing
        x, y = rng.randrange(imgsz), rng.randrange(imgsz)
        draw.rectangle((x, y, x + 2, y + 2), fill=tuple(c + rng.randrange(-40, 40) for c in background))
    objects: list[dict[str, Any]] = []
    for _ in range(0 if empty else rng.randrange(1, 4)):
        category = rng.choice(list(CATEGORIES))
        side = rng.randrange(imgsz // 5, imgsz // 2)
        x, y = rng.randrange(imgsz - side), rng.randrange(imgsz - side)
        _draw_shape(draw, CATEGORIES[category], (x, y, x + side, y + side), rng)
        objects.append({"category_id": category, "bbox": [x, y, side, side]})
    return picture, objects


def _draw_shape(draw: ImageDraw.ImageDraw, kind: str, box: tuple[int, int, int, int], rng: random.Random) -> None:
    colour = tuple(rng.choice((rng.randrange(0, 50), rng.randrange(205, 256))) for _ in range(3))
    x1, y1, x2, y2 = box
    if kind == "disc":
        draw.ellipse(box, fill=colour)
    elif kind == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([((x1 + x2) / 2, y1), (x2, y2), (x1, y2)], fill=colour)


def _crowd(identity: int, imgsz: int) -> dict[str, Any]:
    """One crowd region over the whole first image, as an uncompressed RLE mask."""
    return {
        "id": identity,
        "image_id": 1,
        "category_id": min(CATEGORIES),
        "iscrowd": 1,
        "bbox": [0, 0, imgsz, imgsz],
        "area": imgsz * imgsz,
        "segmentation": {"counts": [0, imgsz * imgsz], "size": [imgsz, imgsz]},
    }


def make_checkpoint(out: Path, data: Path) -> Path:
    """Train a detector on the shapes and save its backbone in the old system's clean-export layout.

    Args:
        out: Folder for the teacher's run and the checkpoint.
        data: Data set YAML.

    Returns:
        Path of the ``.pth`` file.
    """
    teacher = KDYOLO("kdyolov8n.yaml", random_init=True)
    work_dir = out / "teacher"
    teacher.train(data=str(data), epochs=TEACHING_EPOCHS, work_dir=work_dir, **{**RECIPE, "val": False})
    weights = teacher.model.float().state_dict()
    path = out / f"epoch_{TEACHING_EPOCHS}_backbone_mmdet.pth"
    state_dict = {}
    for stage, layer in STAGES.items():
        prefix = f"model.{layer}."
        state_dict.update({f"{stage}.{k[len(prefix) :]}": v for k, v in weights.items() if k.startswith(prefix)})
    meta = {"epoch": TEACHING_EPOCHS, "backbone": "yolov8", "model_size": "n", "bn_eps": 1e-3}
    torch.save({"meta": meta, "state_dict": state_dict, "adapter_state_dict": {}}, path)
    shutil.rmtree(work_dir)
    return path


def save_predictions(model: KDYOLO, out: Path, count: int = 12, columns: int = 4) -> Path:
    """Predict on validation images and save them as one picture.

    Args:
        model: Trained detector.
        out: The demo's folder; ``predictions.png`` is written there.
        count: Number of images.
        columns: Images per row.

    Returns:
        Path of the picture.
    """
    files = sorted((out / "coco" / "images" / "val").iterdir())[:count]
    results = model.predict([str(file) for file in files], imgsz=IMGSZ, device="cpu", conf=0.3, verbose=False)
    scale, pictures = 2, []
    for file, result in zip(files, results, strict=True):
        picture = read_image(str(file)).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        labels = [
            f"{result.names[int(label)]} {score:.2f}"
            for label, score in zip(result.boxes.cls, result.boxes.conf, strict=True)
        ]
        if labels:
            picture = draw_bounding_boxes(picture, result.boxes.xyxy * scale, labels, colors="white", width=2)
        pictures.append(picture)
    path = out / "predictions.png"
    write_png(make_grid(pictures, nrow=columns, padding=4, pad_value=255), str(path))
    return path


def _say(step: int, what: str) -> None:
    LOGGER.info(f"\n[{step}/5] {what}")
