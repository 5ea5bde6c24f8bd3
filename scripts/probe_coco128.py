"""Probe of backbones on coco128: random, half trained and trained, in one run, as kdyolo prints it.

Usage:
    python scripts/probe_coco128.py ../shared
    python scripts/probe_coco128.py ../shared --epochs 70 --imgsz 256 --split val

"Half trained" is the backbone of a yolov8n that is trained from random on the same images for --epochs epochs; the
trained one had 140. Ends with an error unless the linear classifier on the joined levels orders the three with both
paired intervals on one side of 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from kdyolo import KDYOLO, convert_coco, extract_backbone, probe


def main() -> None:
    """Train the half, probe all, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path, help="folder with coco128/ and checkpoints/")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--split", default="train")
    options = parser.parse_args()
    trained = options.shared.resolve() / "checkpoints/trained_n_clean.pth"
    with tempfile.TemporaryDirectory() as folder:
        data = convert_coco(options.shared.resolve() / "coco128", Path(folder) / "coco").yaml
        run = Path(folder) / "run"
        KDYOLO("kdyolov8n.yaml", random_init=True).train(
            data=str(data), epochs=options.epochs, imgsz=256, val=False, plots=False, device="cpu", work_dir=str(run),
            exist_ok=True,
        )  # fmt: skip
        half = extract_backbone(run / "weights/last.pt", Path(folder) / "half.safetensors")
        began = time.monotonic()
        result = probe([half, trained], data, split=options.split, imgsz=options.imgsz)
        print(result, f"\n{time.monotonic() - began:.1f} s", sep="")
    above = result.score(trained.name).difference
    below = result.score("random yolov8n").difference
    if not (above and below and above.low > 0 > below.high):
        sys.exit("not ordered beyond the intervals by the linear classifier on the joined levels")


if __name__ == "__main__":
    main()
