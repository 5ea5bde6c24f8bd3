"""Probe of backbones on coco128: random, half trained and trained, in one run, as kdyolo prints it.

Usage:
    python scripts/probe_coco128.py ../shared
    python scripts/probe_coco128.py ../shared --epochs 70 --stop 70 --seed 1
    python scripts/probe_coco128.py ../shared --half runs/detect/train/weights/epoch70.pt --split val

The trained backbone is that of a yolov8n after 140 epochs from random on the same training images at 256 px. "Half
trained" can be two things, and both can be had: the weights (moving average) in the middle of such a training, after
--stop of the --epochs epochs, where the learning rate is still that of the whole; or, with --epochs 70, those at the
end of a training that is half as long. Ends with an error unless objectness on the joined levels orders the three, with
the paired intervals of both differences on one side of 0. Of the classes' bits it is told whether they do.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kdyolo import KDYOLO, convert_coco, extract_backbone, probe
from kdyolo.experiments.probe.result import OBJECTNESS, ProbeResult


def main() -> None:
    """Train the half, unless there is one, probe all, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, help="folder with coco128/ and checkpoints/")
    parser.add_argument("--epochs", type=int, default=140)
    parser.add_argument("--stop", type=int, default=70, help="epochs after which the training is stopped")
    parser.add_argument("--half", type=Path, help="checkpoint in the middle of a training, in place of this one")
    parser.add_argument("--seed", type=int, default=0, help="of the half's training")
    parser.add_argument("--imgsz", type=int, default=256, help="as the backbones were trained")
    parser.add_argument("--split", default="train")
    options = parser.parse_args()
    trained = options.shared.resolve() / "checkpoints/trained_n_clean.pth"
    with tempfile.TemporaryDirectory() as folder:
        data = convert_coco(options.shared.resolve() / "coco128", Path(folder) / "coco").yaml
        last = options.half or train_half(data, Path(folder) / "run", options.epochs, options.stop, options.seed)
        half = extract_backbone(last, Path(folder) / "half.safetensors")
        began = time.monotonic()
        result = probe([half, trained], data, split=options.split, imgsz=options.imgsz)
        print(result, f"\n{time.monotonic() - began:.1f} s", sep="")
    print("ordered by the bits of the classes:", "yes" if is_ordered(result, trained.name, "linear") else "no")
    if not is_ordered(result, trained.name, OBJECTNESS):
        sys.exit("not ordered beyond the intervals by objectness on the joined levels")


def is_ordered(result: ProbeResult, trained: str, classifier: str) -> bool:
    """Whether the bits on the joined levels are more for the trained one than the half, and less for the random one."""
    above = result.score(trained, classifier).information_difference
    below = result.score("random yolov8n", classifier).information_difference
    return bool(above and below and above.low > 0 > below.high)


def train_half(data: Path, run: Path, epochs: int, stop: int, seed: int) -> Path:
    """Train from random, stop in the middle, and return the last checkpoint."""

    def stop_here(trainer: Any) -> None:
        trainer.stop |= trainer.epoch + 1 >= stop

    model = KDYOLO("kdyolov8n.yaml", random_init=True)
    model.add_callback("on_fit_epoch_end", stop_here)
    how = {"imgsz": 256, "val": False, "plots": False, "device": "cpu", "exist_ok": True}
    model.train(data=str(data), epochs=epochs, seed=seed, work_dir=str(run), **how)
    return run / "weights/last.pt"


if __name__ == "__main__":
    main()
