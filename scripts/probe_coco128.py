"""Probe of backbones on coco128: random, half trained and trained, in one run, as kdyolo prints it.

Usage:
    python scripts/probe_coco128.py ../shared
    python scripts/probe_coco128.py ../shared --epochs 140 --stop 70 --imgsz 256 --split val
    python scripts/probe_coco128.py ../shared --half runs/detect/train/weights/epoch70.pt

The trained backbone is that of a yolov8n after 140 epochs from random on the same training images at 256 px. "Half
trained" is one in the middle of such a training: the weights (moving average) after --stop of the --epochs epochs,
whose learning rate is still that of the whole. Ends with an error unless the bits that the linear classifier learns
from the joined levels order the three with both paired intervals on one side of 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from kdyolo import KDYOLO, convert_coco, extract_backbone, probe


def main() -> None:
    """Train the half, unless there is one, probe all, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, help="folder with coco128/ and checkpoints/")
    parser.add_argument("--epochs", type=int, default=140)
    parser.add_argument("--stop", type=int, default=70, help="epochs after which the training is stopped")
    parser.add_argument("--half", type=Path, help="checkpoint in the middle of a training, in place of this one")
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--split", default="train")
    options = parser.parse_args()
    trained = options.shared.resolve() / "checkpoints/trained_n_clean.pth"
    with tempfile.TemporaryDirectory() as folder:
        data = convert_coco(options.shared.resolve() / "coco128", Path(folder) / "coco").yaml
        last = options.half or train_half(data, Path(folder) / "run", options.epochs, options.stop)
        half = extract_backbone(last, Path(folder) / "half.safetensors")
        began = time.monotonic()
        result = probe([half, trained], data, split=options.split, imgsz=options.imgsz)
        print(result, f"\n{time.monotonic() - began:.1f} s", sep="")
    above = result.score(trained.name).information_difference
    below = result.score("random yolov8n").information_difference
    if not (above and below and above.low > 0 > below.high):
        sys.exit("not ordered beyond the intervals by what the linear classifier learns from the joined levels")


def train_half(data: Path, run: Path, epochs: int, stop: int) -> Path:
    """Train from random, stop in the middle, and return the last checkpoint."""

    def stop_here(trainer: Any) -> None:
        trainer.stop |= trainer.epoch + 1 >= stop

    model = KDYOLO("kdyolov8n.yaml", random_init=True)
    model.add_callback("on_fit_epoch_end", stop_here)
    model.train(
        data=str(data), epochs=epochs, imgsz=256, val=False, plots=False, device="cpu", work_dir=str(run), exist_ok=True
    )
    return run / "weights/last.pt"


if __name__ == "__main__":
    main()
