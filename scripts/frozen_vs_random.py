"""Does a backbone that learned, frozen, beat a random one that trains? Both arms side by side, several seeds.

Usage:
    python scripts/frozen_vs_random.py --coco ../shared/coco128 --backbone ../shared/checkpoints/trained_n_clean.pth
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import yaml
from ultralytics.utils import LOGGER

from kdyolo import KDYOLO, convert_coco


def main() -> None:
    """Train both arms on the training images, evaluate on the same images, print mAP50-95 per arm and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True, help="folder in the official layout")
    parser.add_argument("--backbone", type=Path, required=True, help="checkpoint of scale n")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--imgsz", type=int, default=192)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    LOGGER.setLevel("ERROR")
    arms = {
        "distilled, frozen": ({"backbone": options.backbone}, {"freeze_epochs": "all"}),
        "random, training": ({"model": "kdyolov8n.yaml", "random_init": True}, {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        data = convert_coco(options.coco, Path(folder) / "coco").yaml
        content = yaml.safe_load(data.read_text())
        content["val"] = content["train"]  # the images that the backbone has seen
        data.write_text(yaml.safe_dump(content))
        for name, (start, keywords) in arms.items():
            scores = []
            for seed in options.seeds:
                metrics = KDYOLO(**start).train(
                    data=str(data),
                    epochs=options.epochs,
                    imgsz=options.imgsz,
                    seed=seed,
                    work_dir=Path(folder) / f"{name}-{seed}",
                    optimizer="AdamW",
                    lr0=0.002,
                    warmup_epochs=1,
                    device="cpu",
                    plots=False,
                    val=False,
                    **keywords,
                )
                scores.append(float(metrics.box.map))
            values = " ".join(f"{score:.4f}" for score in scores)
            print(f"{name:<18} mAP50-95 median {statistics.median(scores):.4f} ({values})", flush=True)


if __name__ == "__main__":
    main()
