"""Run folders with everything that a training leaves: all columns, official metrics, detections."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdyolo.metrics.coco_metrics import score_coco
from kdyolo.models.freeze_schedule import FreezeSchedule

LOSSES = {"box_loss": 2.0, "cls_loss": 3.0, "dfl_loss": 1.4}


def write_run(
    folder: Path,
    *,
    data: str | Path = "coco.yaml",
    seed: int = 0,
    epochs: int = 20,
    done: int | None = None,
    freeze: int | str = 0,
    final: float = 0.4,
    stock: bool = False,
    seconds: float = 60.0,
    args: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """A run whose mAP50-95 rises to about ``final``; ``done`` epochs of it, where it is still going on."""
    (folder / "weights").mkdir(parents=True)
    done = epochs if done is None else done
    given = {"data": str(data), "epochs": epochs, "imgsz": 64, "batch": 4, "seed": seed, "save_dir": str(folder)}
    (folder / "args.yaml").write_text(yaml.safe_dump({**given, "lr0": 0.01, "val": True, **(args or {})}))
    schedule = FreezeSchedule(freeze_epochs=freeze, epochs=epochs)
    if not stock:
        _write_record(folder / "kdyolo.yaml", schedule, seed, data, settings or {})
    rows = _rows(schedule, done, seed, final, seconds, stock)
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["epoch"])
        writer.writeheader()
        writer.writerows(rows)
    if done:
        (folder / "weights" / "best.pt").touch()
    if done < epochs and not stock:
        (folder / "weights" / "resume.pt").touch()
    return folder


def write_scores(run: Path, annotations: Path, detections: list[dict[str, Any]]) -> None:
    """``predictions.json`` and ``coco_metrics.json``, as the evaluation at the end of a run writes them."""
    truth = json.loads(annotations.read_text())
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    (run / "predictions.json").write_text(json.dumps([{**d, "file_name": names[d["image_id"]]} for d in detections]))
    scores = score_coco(run / "predictions.json", annotations).to_dict()
    content = {"annotations": str(annotations.resolve()), "resize": "letterbox", **scores}
    (run / "coco_metrics.json").write_text(json.dumps(content))


def detect(annotations: Path, seed: int, skill: float) -> list[dict[str, Any]]:
    """Detections that find a share ``skill`` of the objects, a little shifted, and some of nothing."""
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
    path: Path, schedule: FreezeSchedule, seed: int, data: str | Path, settings: Mapping[str, Any]
) -> None:
    plan = {"freeze_epochs": schedule.freeze_epochs, "epochs": schedule.epochs, "unfreeze_stages": None}
    record = {
        "versions": {"kdyolo": "0.1.0", "ultralytics": "8.4.190", "torch": "2.15.0", "python": "3.11.7"},
        "command": f"kdyolo train --data {data} --seed {seed}",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "settings": {"freeze_epochs": schedule.freeze_epochs, "resize": "letterbox", "recipe": "coco", **settings},
        "started_from": None,
        "backbone": None,
        "schedule": {**plan, "thaws": {e + 1: list(parts) for e, parts in schedule.thaws.items()}},
        "data": str(data),
        "seed": seed,
        "model": "kdyolov8n.yaml",
    }
    path.write_text(yaml.safe_dump(record, sort_keys=False))


def _rows(
    schedule: FreezeSchedule, done: int, seed: int, final: float, seconds: float, stock: bool
) -> list[dict[str, float]]:
    rng = np.random.default_rng(seed)
    luck = rng.normal(0, 0.005)  # the same for every arm of the seed: paired runs vary together
    rows, clock = [], 0.0
    for epoch in range(done):
        frozen = schedule.is_frozen(epoch)
        progress = (epoch + 1) / schedule.epochs
        ap = max(0.0, (final + luck) * (1 - math.exp(-4 * progress)) / (1 - math.exp(-4)) + rng.normal(0, 0.003))
        clock += seconds * (0.6 if frozen else 1.0) * rng.uniform(0.95, 1.05)
        fall = {name: start * (0.4 + 0.6 * math.exp(-3 * progress)) for name, start in LOSSES.items()}
        rate = 0.01 * (1 - 0.99 * progress)
        rates = (
            {f"lr/pg{i}": rate for i in range(3)}
            if stock or schedule.is_plain
            else {
                f"lr/{part}/{group}": 0.0 if frozen and part == "backbone" else rate
                for group in ("weight", "bn", "bias")
                for part in ("backbone", "head")
            }
        )
        row = {
            "epoch": epoch + 1,
            "time": clock,
            **{f"train/{name}": value + rng.normal(0, 0.02) for name, value in fall.items()},
            "metrics/precision(B)": 1.4 * ap,
            "metrics/recall(B)": 1.3 * ap,
            "metrics/mAP50(B)": min(1.0, 1.5 * ap),
            "metrics/mAP50-95(B)": ap,
            **{f"val/{name}": 1.1 * value + rng.normal(0, 0.03) for name, value in fall.items()},
            **rates,
        }
        rows.append({**row, "memory/GB": 3.1 if frozen else 5.2} if not stock else row)
    return [{name: round(value, 5) for name, value in row.items()} for row in rows]
