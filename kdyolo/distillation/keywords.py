"""Keywords of Python calls with their types, so that editors complete them and type checkers check them.

Printed by scripts/print_keywords.py from the declared options and from Ultralytics' defaults, not written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypedDict


class DistillKeywords(TypedDict, total=False):
    """Options of a distillation."""

    backbone: str | Path | None  # Checkpoint that the student starts from. Default: random.
    val_images: str | Path | None  # Folder or list of images to hold out, in place of a share.
    held_out: float  # Share (or, from 1 on, number) of images held out (default 0.05).
    taps: str | None  # What teaches which level, e.g. p3:blocks.2,p4:3,p5:-1: a map's name or index.
    loss: Literal["cosine", "mse", "pkd", "relation"]  # Loss of a map (default cosine).
    head: Literal["linear", "two-layer"]  # Heads to the teacher's channels (default linear).
    epochs: int  # Number of epochs (default 30).
    batch: int  # Images to a batch of all ranks (default 64).
    accumulate: int  # Batches to a step of the optimizer (default 1).
    imgsz: int  # Side of the student's images (default 640).
    teacher_size: int | None  # Side of the teacher's images. Default: the student's.
    resize: Literal["letterbox", "stretch"]  # Keep the aspect ratio (default letterbox) or not.
    lr: float  # Highest learning rate (default 0.004).
    weight_decay: float  # Weight decay (default 0.05).
    warmup: float  # Share of the steps in which the rate rises (default 0.3).
    clip: float  # Largest norm of a gradient; 0: any (default 1).
    crop: float  # How often a part is cropped (default 0.5).
    flip: float  # How often a view is mirrored (default 0.5).
    colour: float  # How often colours change (default 0.5).
    mixup: float  # How often a batch is mixed (default 0.1).
    cache: str | Path | None  # Folder that keeps the teacher's features of whole and mirrored images.
    cache_precision: Literal["fp16", "int8"]  # Precision of kept features (default fp16).
    cache_pca: int  # Channels that each kept map is projected to by a PCA; 0 (default): all of them.
    amp: bool  # Mixed precision of the student, on a GPU.
    compile: bool  # Compile the student.
    device: int | str | None  # cpu, 0, … Default: the first GPU, else cpu.
    workers: int  # Processes that load images (default 0).
    seed: int  # Random seed (default 0).
    work_dir: str | Path | None  # The run folder itself. Default: runs/distill/NAME.
    exist_ok: bool  # Allow a work dir that is not empty.
    bn_eps: float | None  # BatchNorm epsilon of the backbone, if the recognised one is wrong.
    input_norm: str | None  # Images the backbone knows: 0-1, imagenet, or MEANS/STDS.
    key_map: str | Path | None  # YAML with the names of an unknown checkpoint.
