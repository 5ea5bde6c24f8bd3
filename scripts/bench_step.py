"""One training step, ours beside stock Ultralytics, frozen and not: medians in one run, and their ratios.

Usage:
    python scripts/bench_step.py                       # yolov8s, 320 px, batch 8, on CPU
    python scripts/bench_step.py --device 0 --imgsz 640 --batch 16

Every arm trains on the same drawn images in a process of its own, so that peak memory is its own; arms take turns,
round by round, so that a busy machine is busy for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ARMS = ("stock unfrozen", "stock freeze=10", "kdyolo unfrozen", "kdyolo frozen", "kdyolo thawed")
WARM_UP = 2  # first steps of a run, not counted


def main() -> None:
    """Run every arm in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="s", choices=list("nsmlx"))
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options)))
        return
    from kdyolo.data.coco_to_yolo import convert_coco
    from kdyolo.data.synthetic import draw_dataset

    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        count = options.batch * options.steps
        root = draw_dataset(Path(folder) / "root", {"train": count, "val": options.batch}, imgsz=options.imgsz)
        data = convert_coco(root, Path(folder) / "data").yaml
        for _ in range(options.rounds):
            for arm in ARMS:
                command = [sys.executable, __file__, *sys.argv[1:], "--arm", arm, "--data", str(data)]
                env = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # as the kdyolo command has it
                done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
                runs[arm].append(json.loads(done.stdout.splitlines()[-1]))
    report(runs, options)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train one arm for one epoch (the thawed one for two) and return step times, memory and the time of the thaw."""
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils import LOGGER

    from kdyolo import KDTrainer

    LOGGER.setLevel("ERROR")
    times: list[float] = []
    thaw: list[float] = []
    ours = options.arm.startswith("kdyolo")
    base: type[Any] = KDTrainer if ours else DetectionTrainer

    class Timed(base):  # type: ignore[misc, valid-type]
        def _model_train(self) -> None:
            began = time.perf_counter()
            super()._model_train()
            thaw.append(time.perf_counter() - began)

    keywords = {
        "stock freeze=10": {"freeze": 10},
        "kdyolo frozen": {"freeze_epochs": "all"},
        "kdyolo thawed": {"freeze_epochs": 1, "epochs": 2},
    }.get(options.arm, {})
    overrides = {
        "model": f"yolov8{options.scale}.yaml",
        "data": options.data,
        "imgsz": options.imgsz,
        "batch": options.batch,
        "nbs": options.batch,
        "device": options.device,
        "amp": options.device != "cpu",
        "epochs": 1,
        "optimizer": "SGD",
        "cos_lr": True,
        "mosaic": 0.0,
        "close_mosaic": 0,
        "val": False,
        "plots": False,
        "exist_ok": True,
        "save_dir": tempfile.mkdtemp(),
    }
    trainer = Timed(overrides={**overrides, **keywords})

    def start(trainer: Any) -> None:
        trainer.began = time.perf_counter()

    def end(trainer: Any) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - trainer.began)

    trainer.add_callback("on_train_batch_start", start)
    trainer.add_callback("on_train_batch_end", end)
    trainer.train()
    steps = times[options.steps :] if options.arm == "kdyolo thawed" else times
    memory = torch.cuda.max_memory_allocated() if trainer.device.type == "cuda" else peak_rss()
    return {"seconds": steps[WARM_UP:], "memory": memory, "thaw": thaw[-1]}


def peak_rss() -> int:
    """Peak memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def report(runs: dict[str, list[dict[str, Any]]], options: argparse.Namespace) -> None:
    """Print medians over all rounds, and each arm's ratio to stock unfrozen."""
    median = {arm: statistics.median(t for run in of for t in run["seconds"]) for arm, of in runs.items()}
    print(
        f"yolov8{options.scale}, {options.imgsz} px, batch {options.batch}, {options.device}, {options.rounds} rounds"
    )
    print(f"{'arm':<17} {'ms/step':>8} {'images/s':>9} {'peak GB':>8} {'time / stock':>13}")
    for arm, of in runs.items():
        memory = statistics.median(run["memory"] for run in of) / 1e9
        ratio = median[arm] / median["stock unfrozen"]
        print(f"{arm:<17} {median[arm] * 1e3:>8.0f} {options.batch / median[arm]:>9.1f} {memory:>8.2f} {ratio:>13.3f}")
    thaw = statistics.median(run["thaw"] for run in runs["kdyolo thawed"]) * 1e3
    print(f"the thaw itself: {thaw:.1f} ms")
    print(f"kdyolo unfrozen / stock unfrozen:  {median['kdyolo unfrozen'] / median['stock unfrozen']:.3f} of the time")
    print(f"kdyolo frozen / stock freeze=10:   {median['kdyolo frozen'] / median['stock freeze=10']:.3f} of the time")
    print(f"kdyolo unfrozen / kdyolo frozen:   {median['kdyolo unfrozen'] / median['kdyolo frozen']:.2f} × as fast")


if __name__ == "__main__":
    main()
