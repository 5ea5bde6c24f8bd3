"""Run folders with the files that a training leaves, without the training: for tests of what reads them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdyolo.metrics.coco_metrics import score_coco
from kdyolo.models.freeze_schedule import FreezeSchedule

LOSSES = {"box_loss": 2.0, "cls_loss": 3.0, "dfl_loss": 1.4}
# What Ultralytics writes for every run; the rest of its settings would say nothing here.
ARGS: dict[str, Any] = {
    "task": "detect",
    "mode": "train",
    "model": "kdyolov8n.yaml",
    "data": "coco8.yaml",
    "batch": 16,
    "imgsz": 64,
    "patience": 100,
    "device": "cpu",
    "workers": 8,
    "single_cls": False,
    "fraction": 1.0,
    "split": "val",
    "val": True,
    "lr0": 0.01,
    "optimizer": "SGD",
    "exist_ok": False,
    "time": None,
}


def write_run(
    folder: Path,
    curve: Sequence[float] = (0.1, 0.2, 0.3),
    *,
    seed: int = 0,
    planned: int | None = None,
    seconds: float = 10.0,
    freeze: int | str = 0,
    settings: Mapping[str, Any] | None = None,
    stock: bool = False,
    ap: float | None = None,
    per_class: Mapping[str, float] | None = None,
    all_columns: bool = False,
    **args: Any,
) -> Path:
    """Write a run folder with these mAP50-95, one for each finished epoch.

    Args:
        folder: The run folder, which is made.
        curve: mAP50-95 of each epoch; mAP50 is half as much again.
        seed: Seed that the run records, and that its noise is drawn with.
        planned: Epochs asked for; as many as there are values, if not given.
        seconds: Duration of each epoch.
        freeze: Frozen epochs, or ``"all"``.
        settings: Settings of kdyolo, beside ``freeze_epochs``.
        stock: Whether plain Ultralytics ran it, which leaves no ``kdyolo.yaml``.
        ap: Official AP of ``best.pt``; None for no ``coco_metrics.json``.
        per_class: Name → official AP, each with 10 objects.
        all_columns: Write every column of ``results.csv``, with noise, instead of the few that most readers look at.
        args: Settings of Ultralytics; ``data`` among them.
    """
    epochs = len(curve) if planned is None else planned
    (folder / "weights").mkdir(parents=True)
    arguments = {**ARGS, "epochs": epochs, "seed": seed, "save_dir": str(folder), **args}
    arguments["data"] = str(arguments["data"])
    (folder / "args.yaml").write_text(yaml.safe_dump(arguments, sort_keys=False))
    schedule = FreezeSchedule(freeze_epochs=freeze, epochs=epochs)
    rows = _all_columns(schedule, curve, seed, seconds, stock) if all_columns else _few_columns(curve, seconds)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list((rows or _few_columns([0.0], 0.0))[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if curve and (all_columns or len(curve) >= epochs):
        (folder / "weights" / "best.pt").touch()
    if len(curve) < epochs and not stock:
        (folder / "weights" / "resume.pt").touch()
    if not stock:
        own = {"backbone": None, "random_init": True, "resize": "letterbox"}
        own |= {"freeze_epochs": freeze, **(settings or {}), "work_dir": str(folder)}
        _write_record(folder / "kdyolo.yaml", schedule, arguments, own)
    if ap is not None:
        write_scores(folder, ap, per_class or {})
    return folder


def write_full_run(
    folder: Path, *, epochs: int = 20, done: int | None = None, final: float = 0.4, seed: int = 0, **how: Any
) -> Path:
    """Write a run with all columns whose mAP50-95 rises to about ``final``, after ``done`` of its epochs."""
    rng = np.random.default_rng(seed)
    luck = rng.normal(0, 0.005)  # the same for every arm of the seed: paired runs vary together
    scale = (final + luck) / (1 - math.exp(-4))
    whole = [max(0.0, scale * (1 - math.exp(-4 * e / epochs)) + rng.normal(0, 0.003)) for e in range(1, epochs + 1)]
    return write_run(folder, whole[:done], planned=epochs, seed=seed, all_columns=True, **{"seconds": 60.0, **how})


def write_scores(folder: Path, ap: float, per_class: Mapping[str, float], images: int = 4) -> None:
    """Write ``coco_metrics.json`` with these values, as a run ends with it."""
    rest = ("AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")
    areas = ("AR_small", "AR_medium", "AR_large")
    content = {
        "annotations": "/data/instances_val.json",
        "resize": "letterbox",
        "AP": ap,
        **dict.fromkeys((*rest, *areas), ap),
        "AP_small": -1.0,
        "images": images,
        "objects": 10 * len(per_class),
        "per_class": [
            {"category_id": i, "name": name, "objects": 10, "ap": value, "ap50": value, "ap75": value}
            for i, (name, value) in enumerate(per_class.items())
        ],
    }
    (folder / "coco_metrics.json").write_text(json.dumps(content))


def write_predictions(run: Path, annotations: Path, detections: list[dict[str, Any]]) -> None:
    """Write ``predictions.json`` and the scores of it, as the evaluation at the end of a run does."""
    truth = json.loads(annotations.read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    (run / "predictions.json").write_text(json.dumps([{**d, "file_name": names[d["image_id"]]} for d in detections]))
    scores = score_coco(run / "predictions.json", annotations).to_dict()
    content = {"annotations": str(annotations.resolve()), "resize": "letterbox", **scores}
    (run / "coco_metrics.json").write_text(json.dumps(content))


def detect(annotations: Path, seed: int, skill: float) -> list[dict[str, Any]]:
    """Detections that find a fraction ``skill`` of the objects, a little shifted, and some of nothing."""
    truth = json.loads(annotations.read_text())
    rng = np.random.default_rng(seed)
    found = []
    for a in truth["annotations"]:
        x, y, w, h = a["bbox"]
        shift = rng.normal(0, 0.15 * (1 - skill), 2)
        if rng.random() < skill:
            box = [x + w * shift[0], y + h * shift[1], w, h]
            found.append(_detection(a["image_id"], a["category_id"], box, rng.uniform(0.5, 0.99)))
    for image in truth["images"]:
        if rng.random() > skill:
            category = int(rng.choice([c["id"] for c in truth["categories"]]))
            found.append(_detection(image["id"], category, [5.0, 5.0, 20.0, 20.0], rng.uniform(0.2, 0.7)))
    return found


def _detection(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [round(v, 3) for v in box], "score": round(score, 4)}


def _write_record(
    path: Path, schedule: FreezeSchedule, arguments: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    plan = {"freeze_epochs": schedule.freeze_epochs, "epochs": schedule.epochs, "unfreeze_stages": None}
    record = {
        "versions": {"kdyolo": "0.1.0", "ultralytics": "8.4.190"},
        "command": f"kdyolo train --data {arguments['data']} --seed {arguments['seed']}",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "settings": dict(settings),
        "started_from": None,
        "backbone": None,
        "schedule": {**plan, "thaws": {e + 1: list(parts) for e, parts in schedule.unfreezes.items()}},
        "data": arguments["data"],
        "seed": arguments["seed"],
        "model": arguments["model"],
    }
    path.write_text(yaml.safe_dump(record, sort_keys=False))


def _few_columns(curve: Sequence[float], seconds: float) -> list[dict[str, float]]:
    return [
        {
            "epoch": epoch,
            "time": epoch * seconds,
            "metrics/mAP50-95(B)": value,
            "metrics/mAP50(B)": value * 1.5,
            "train/box_loss": 4 / epoch,
            "memory/GB": 1.5,
        }
        for epoch, value in enumerate(curve, start=1)
    ]


def _all_columns(
    schedule: FreezeSchedule, curve: Sequence[float], seed: int, seconds: float, stock: bool
) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    rows, clock = [], 0.0
    for epoch, value in enumerate(curve):
        frozen = schedule.is_frozen(epoch)
        progress = (epoch + 1) / schedule.epochs
        clock += seconds * (0.6 if frozen else 1.0) * rng.uniform(0.95, 1.05)
        fall = {name: start * (0.4 + 0.6 * math.exp(-3 * progress)) for name, start in LOSSES.items()}
        rate = 0.01 * (1 - 0.99 * progress)
        row = {
            "epoch": epoch + 1,
            "time": clock,
            **{f"train/{name}": loss + rng.normal(0, 0.02) for name, loss in fall.items()},
            "metrics/precision(B)": 1.4 * value,
            "metrics/recall(B)": 1.3 * value,
            "metrics/mAP50(B)": min(1.0, 1.5 * value),
            "metrics/mAP50-95(B)": value,
            **{f"val/{name}": 1.1 * loss + rng.normal(0, 0.03) for name, loss in fall.items()},
            **_rates(rate, frozen, in_parts=not stock and not schedule.is_plain),
        }
        rows.append(row if stock else {**row, "memory/GB": 3.1 if frozen else 5.2})
    return [{name: round(value, 5) for name, value in row.items()} for row in rows]


def _rates(rate: float, frozen: bool, in_parts: bool) -> dict[str, float]:
    """Learning rates under the columns of a run of kdyolo, or of one with the same rate for the whole detector."""
    if not in_parts:
        return {f"lr/pg{i}": rate for i in range(3)}
    return {
        f"lr/{part}/{group}": 0.0 if frozen and part == "backbone" else rate
        for group in ("weight", "bn", "bias")
        for part in ("backbone", "head")
    }
