"""What a stock command loses on a model that was trained on stretched images, because it letterboxes.

Usage:
    python scripts/stretch_vs_letterbox.py --coco ../shared/coco128 --backbone ../shared/checkpoints/trained_n_clean.pth
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import yaml
from ultralytics import YOLO
from ultralytics.utils import LOGGER

from kdyolo import KDYOLO, convert_coco


def main() -> None:
    """Train with each resize, evaluate each with kdyolo and with plain Ultralytics on the training images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True, help="folder in the official layout")
    parser.add_argument("--backbone", type=Path, required=True, help="checkpoint of scale n")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--imgsz", type=int, default=192)
    options = parser.parse_args()
    LOGGER.setLevel("ERROR")
    with tempfile.TemporaryDirectory() as folder:
        data = convert_coco(options.coco, Path(folder) / "coco").yaml
        content = yaml.safe_load(data.read_text())
        content["val"] = content["train"]  # enough images learned by heart for a difference to show
        data.write_text(yaml.safe_dump(content))
        print(f"{'trained with':<13} {'kdyolo val':>11} {'yolo val':>9}   (mAP50-95)")
        for resize in ("letterbox", "stretch"):
            run = Path(folder) / resize
            KDYOLO(backbone=options.backbone).train(
                data=str(data),
                epochs=options.epochs,
                imgsz=options.imgsz,
                resize=resize,
                work_dir=run,
                optimizer="AdamW",
                lr0=0.002,
                warmup_epochs=1,
                device="cpu",
                plots=False,
                val=False,
            )
            scores = []
            for model in (KDYOLO(run / "weights/best.pt"), YOLO(run / "weights/best.pt")):
                keywords = {"imgsz": options.imgsz, "device": "cpu", "plots": False, "save_dir": str(run / "val")}
                scores.append(float(model.val(data=str(data), **keywords).box.map))
            print(f"{resize:<13} {scores[0]:>11.3f} {scores[1]:>9.3f}", flush=True)


if __name__ == "__main__":
    main()
