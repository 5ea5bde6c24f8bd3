"""Declaration of every option of a distillation: name, default, flag and help. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kdyolo.runs.lifecycle.options import HOW_READ, how_read, option

RESIZES = ("letterbox", "stretch")
LOSS_NAMES = ("cosine", "mse", "pkd", "relation")
CACHE_PRECISIONS = ("fp16", "int8")
HEAD_NAMES = ("linear", "two-layer")


@dataclass(frozen=True)
class DistillOptions:
    """Options of a distillation, in the order in which the command lists them."""

    model: str | None = field(
        default=None, metadata=option(group="start", help="Student, e.g. yolov8s or kdyolov8m.yaml.")
    )
    backbone: str | None = field(
        default=None,
        metadata=option(group="start", help="Checkpoint that the student starts from. Default: random.", kind="path"),
    )
    val_images: str | None = field(
        default=None,
        metadata=option(group="start", help="Folder or list of images to hold out, in place of a share.", kind="path"),
    )
    held_out: float = field(
        default=0.05,
        metadata=option(
            group="start", help="Share (or, from 1 on, number) of images held out (default 0.05).", kind="number"
        ),
    )
    taps: str | None = field(
        default=None,
        metadata=option(
            group="teaching", help="What teaches which level, e.g. p3:blocks.2,p4:3,p5:-1: a map's name or index."
        ),
    )
    loss: str = field(
        default="cosine", metadata=option(group="teaching", help="Loss of a map (default cosine).", choices=LOSS_NAMES)
    )
    head: str = field(
        default="linear",
        metadata=option(group="teaching", help="Heads to the teacher's channels (default linear).", choices=HEAD_NAMES),
    )
    epochs: int = field(
        default=30, metadata=option(group="recipe", help="Number of epochs (default 30).", kind="integer")
    )
    batch: int = field(
        default=64, metadata=option(group="recipe", help="Images to a batch of all ranks (default 64).", kind="integer")
    )
    accumulate: int = field(
        default=1,
        metadata=option(group="recipe", help="Batches to a step of the optimizer (default 1).", kind="integer"),
    )
    imgsz: int = field(
        default=640, metadata=option(group="recipe", help="Side of the student's images (default 640).", kind="integer")
    )
    teacher_size: int | None = field(
        default=None,
        metadata=option(group="teaching", help="Side of the teacher's images. Default: the student's.", kind="integer"),
    )
    resize: str = field(
        default="letterbox",
        metadata=option(group="views", help="Keep the aspect ratio (default letterbox) or not.", choices=RESIZES),
    )
    lr: float = field(
        default=4e-3, metadata=option(group="recipe", help="Highest learning rate (default 0.004).", kind="number")
    )
    weight_decay: float = field(
        default=0.05, metadata=option(group="recipe", help="Weight decay (default 0.05).", kind="number")
    )
    warmup: float = field(
        default=0.3,
        metadata=option(
            group="recipe", help="Share of the steps in which the rate rises (default 0.3).", kind="number"
        ),
    )
    clip: float = field(
        default=1.0,
        metadata=option(group="recipe", help="Largest norm of a gradient; 0: any (default 1).", kind="number"),
    )
    crop: float = field(
        default=0.5, metadata=option(group="views", help="How often a part is cropped (default 0.5).", kind="number")
    )
    flip: float = field(
        default=0.5, metadata=option(group="views", help="How often a view is mirrored (default 0.5).", kind="number")
    )
    colour: float = field(
        default=0.5, metadata=option(group="views", help="How often colours change (default 0.5).", kind="number")
    )
    mixup: float = field(
        default=0.1, metadata=option(group="views", help="How often a batch is mixed (default 0.1).", kind="number")
    )
    cache: str | None = field(
        default=None,
        metadata=option(
            group="teaching", help="Folder that keeps the teacher's features of whole and mirrored images.", kind="path"
        ),
    )
    cache_precision: str = field(
        default="fp16",
        metadata=option(group="teaching", help="Precision of kept features (default fp16).", choices=CACHE_PRECISIONS),
    )
    cache_pca: int = field(
        default=0,
        metadata=option(
            group="teaching",
            help="Channels that each kept map is projected to by a PCA; 0 (default): all of them.",
            kind="count",
        ),
    )
    amp: bool = field(
        default=False, metadata=option(group="recipe", help="Mixed precision of the student, on a GPU.", kind="flag")
    )
    compile: bool = field(default=False, metadata=option(group="recipe", help="Compile the student.", kind="flag"))
    device: str | None = field(
        default=None, metadata=option(group="recipe", help="cpu, 0, … Default: the first GPU, else cpu.")
    )
    workers: int = field(
        default=0, metadata=option(group="recipe", help="Processes that load images (default 0).", kind="integer")
    )
    seed: int = field(default=0, metadata=option(group="recipe", help="Random seed (default 0).", kind="integer"))
    work_dir: str | None = field(
        default=None, metadata=option(help="The run folder itself. Default: runs/distill/NAME.", kind="path")
    )
    exist_ok: bool = field(default=False, metadata=option(help="Allow a work dir that is not empty.", kind="flag"))
    bn_eps: float | None = field(default=None, metadata=how_read("bn_eps"))
    input_norm: str | None = field(default=None, metadata=how_read("input_norm"))
    key_map: str | None = field(default=None, metadata=how_read("key_map"))

    def how_read(self) -> dict[str, Any]:
        """How the checkpoint that the student starts from is read."""
        return {name: getattr(self, name) for name in HOW_READ}

    def to_dict(self) -> dict[str, Any]:
        """Every option with its value, as plain data."""
        return asdict(self)
