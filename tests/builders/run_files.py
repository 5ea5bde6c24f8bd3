"""Run folders as training leaves them, without the training: for tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

COLUMNS = {
    "mAP50-95": "metrics/mAP50-95(B)",
    "mAP50": "metrics/mAP50(B)",
    "box": "train/box_loss",
    "memory": "memory/GB",
}
# What Ultralytics writes for every run; the rest of its settings would say nothing here.
ARGS: dict[str, Any] = {
    "task": "detect",
    "mode": "train",
    "model": "kdyolov8n.yaml",
    "batch": 16,
    "imgsz": 64,
    "patience": 100,
    "device": "cpu",
    "workers": 8,
    "seed": 0,
    "single_cls": False,
    "fraction": 1.0,
    "split": "val",
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
    freeze: int = 0,
    settings: Mapping[str, Any] | None = None,
    stock: bool = False,
    ap: float | None = None,
    per_class: Mapping[str, float] | None = None,
    **args: Any,
) -> Path:
    """A run folder with these mAP50-95, one for each finished epoch.

    Args:
        folder: To write.
        curve: mAP50-95 of each epoch; mAP50 is half as much again.
        seed: Recorded.
        planned: Epochs asked for; as many as there are values, if not given.
        seconds: Duration of each epoch.
        freeze: Frozen epochs.
        settings: Of kdyolo, beside ``freeze_epochs``.
        stock: Whether plain Ultralytics ran it: no ``kdyolo.yaml``.
        ap: Official AP of ``best.pt``.
        per_class: Name → official AP, each with 10 objects.
        args: Of Ultralytics; ``data`` among them.
    """
    epochs = len(curve) if planned is None else planned
    weights = folder / "weights"
    weights.mkdir(parents=True)
    arguments = {**ARGS, "data": "coco8.yaml", "epochs": epochs, "seed": seed, "save_dir": str(folder), **args}
    (folder / "args.yaml").write_text(yaml.safe_dump(arguments, sort_keys=False))
    header = ["epoch", "time", *COLUMNS.values()]
    rows = [[e, e * seconds, value, value * 1.5, 4 / e, 1.5] for e, value in enumerate(curve, start=1)]
    (folder / "results.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in [header, *rows]))
    if len(curve) >= epochs:
        (weights / "best.pt").touch()
    elif not stock:
        (weights / "resume.pt").touch()
    if not stock:
        own = {"backbone": None, "random_init": True, "resize": "letterbox", "freeze_epochs": freeze}
        record = {
            "versions": {"kdyolo": "0.1.0", "ultralytics": "8.4.190"},
            "command": "kdyolo train …",
            "git_commit": None,
            "settings": {**own, **(settings or {}), "work_dir": str(folder)},
            "schedule": {"freeze_epochs": freeze, "epochs": epochs, "thaws": {}},
            "seed": seed,
        }
        (folder / "kdyolo.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    if ap is not None:
        write_scores(folder, ap, per_class or {})
    return folder


def write_scores(folder: Path, ap: float, per_class: Mapping[str, float], images: int = 4) -> None:
    """``coco_metrics.json`` as a run ends with it."""
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
