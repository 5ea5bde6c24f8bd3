"""Command kdyolo distill: from images and a frozen teacher to a backbone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kdyolo.cli.base import command, echo
from kdyolo.cli.jobs import detach_option, run_detached
from kdyolo.cli.train import declared_options
from kdyolo.distillation.options import DistillOptions
from kdyolo.errors import ConfigError, collect_mistakes
from kdyolo.runs.lifecycle.options import declared
from kdyolo.runs.process_control import ended_by_signals


@command(
    "  kdyolo distill --images COCO2017/train2017 --teacher vit_small_patch16_dinov3 --model yolov8s\n"
    "  kdyolo distill --images COCO2017/train2017 --teacher sam2_hiera_tiny:sam2.1_hiera_tiny.pt --model yolov8s\n"
    "  kdyolo distill --images photos/ --teacher yolov8x.pt --model yolov8n --epochs 100 --imgsz 320 --dry-run\n"
    "  kdyolo distill --resume runs/distill/sam2-s --detach"
)
@click.option("--images", multiple=True, type=click.Path(), help="Folder of images or a list; may be repeated.")
@click.option("--teacher", help="Name in timm, NAME:FILE with local weights, or a YOLO's .pt.")
@declared_options(declared(DistillOptions))
@click.option("--resume", type=click.Path(), metavar="RUN", help="Continue an interrupted run: its folder.")
@click.option("--dry-run", is_flag=True, help="Check everything, measure some steps, print the plan; train nothing.")
@detach_option
def distill(
    images: Sequence[str], teacher: str | None, resume: str | None, dry_run: bool, detach: bool, **options: Any
) -> None:
    """Distil a frozen teacher into a YOLO backbone, on images without labels.

    The result, backbone.safetensors in the run folder, is what kdyolo train takes as --backbone.
    """
    if detach:
        run_detached(dry_run)
        return
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    if resume is None:
        _check_start(images, teacher)
    elif images or teacher or dry_run:
        raise ConfigError("--resume continues with the images, teacher and options of the run: leave out the others.")
    from kdyolo.distillation import distill as distillation

    with ended_by_signals():
        if resume is not None:
            distillation.resume(resume, **given)
        elif dry_run:
            echo(distillation.preview(list(images), str(teacher), given))
        else:
            distillation.distill(list(images), teacher=str(teacher), **given)


def _check_start(images: Sequence[str], teacher: str | None) -> None:
    with collect_mistakes() as mistakes:
        if not images:
            mistakes.add("no images. Expected --images with a folder of them.")
        if not teacher:
            mistakes.add("no teacher. Expected --teacher with a name of timm, NAME:FILE, or a YOLO's .pt.")
        missing = [path for path in images if not Path(os.path.expanduser(path)).exists()]  # noqa: PTH111
        if missing:
            mistakes.add(f"--images: there is no {', '.join(missing)}.")
