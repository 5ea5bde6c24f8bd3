"""Command kdyolo distill: from images and a frozen teacher to a backbone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kdyolo.cli.base import GroupedOption, command, json_option, note, plain_data, print_if_quiet, print_result
from kdyolo.cli.jobs import CONTROL, detach_option, run_detached
from kdyolo.cli.parsing.next_steps import after_distillation
from kdyolo.cli.parsing.output import is_later_rank
from kdyolo.cli.train import declared_options
from kdyolo.distillation.options import DistillOptions
from kdyolo.errors import ConfigError, collect_mistakes
from kdyolo.runs.lifecycle.devices import read_rank
from kdyolo.runs.lifecycle.options import Group, declared
from kdyolo.runs.process_control import ended_by_signals
from kdyolo.utils.text import short_path

TITLES: dict[Group, str] = {
    "start": "What it starts from",
    "teaching": "What the teacher teaches",
    "recipe": "Training",
    "views": "Views of the images",
    "reading": "Reading the checkpoint that it starts from",
}
START: dict[str, Any] = {"cls": GroupedOption, "group": TITLES["start"]}
CONTROLLING: dict[str, Any] = {"cls": GroupedOption, "group": CONTROL}


def _check_others(given: Mapping[str, Any]) -> None:
    """Find the mistakes in images, teacher, config file and options of a command line that has others already."""
    names = declared(DistillOptions)
    options = {key: value for key, value in given.items() if key in names and value is not None and value is not False}
    if given.get("resume") is None:
        _checked(given.get("images") or (), given.get("teacher"), given.get("config"), options, others=True)


@command(
    "  kdyolo distill --images COCO2017/train2017 --teacher vit_small_patch16_dinov3 --model yolov8s\n"
    "  kdyolo distill --images COCO2017/train2017 --teacher sam2_hiera_tiny:sam2.1_hiera_tiny.pt --model yolov8s\n"
    "  kdyolo distill --images photos/ --teacher yolov8x.pt --model yolov8n --epochs 100 --imgsz 320 --dry-run\n"
    "  kdyolo distill --config runs/distill/sam2-s/kdyolo.yaml seed=1\n"
    "  kdyolo distill --resume runs/distill/sam2-s --detach",
    check=_check_others,
)
@click.option(
    "--images", multiple=True, type=click.Path(), **START, help="Folder of images or a list; may be repeated."
)
@click.option("--teacher", **START, help="Name in timm, NAME:FILE with local weights, or a YOLO's .pt.")
@declared_options(declared(DistillOptions), TITLES)
@click.option("--config", type=click.Path(), metavar="FILE", **CONTROLLING,
              help="YAML file of options, or a run's kdyolo.yaml; options beside it win.")  # fmt: skip
@click.option("--resume", type=click.Path(), metavar="RUN", **CONTROLLING,
              help="Continue an interrupted run: its folder.")  # fmt: skip
@click.option("--dry-run", is_flag=True, **CONTROLLING,
              help="Check everything, measure some steps, print the plan; train nothing.")  # fmt: skip
@detach_option
@json_option
def distill(
    images: Sequence[str],
    teacher: str | None,
    config: str | None,
    resume: str | None,
    dry_run: bool,
    detach: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Distil a frozen teacher into a YOLO backbone, on images without labels.

    The result, backbone.safetensors in the run folder, is what kdyolo train takes as --backbone.
    """
    if detach:
        run_detached(dry_run, as_json)
        return
    read_rank(os.environ)  # Ultralytics reads the same when it is imported, and says less about what is wrong
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    if resume is None:
        images, teacher, given = _checked(images, teacher, config, given)
    elif images or teacher or dry_run or config:
        raise ConfigError("--resume continues with the images, teacher and options of the run: leave out the others.")
    from kdyolo.distillation import distill as distillation

    with ended_by_signals():
        if resume is not None:
            result = distillation.resume(resume, **given)
        elif dry_run:
            found = distillation.preview(list(images), str(teacher), given)
            print_result({"plan": found.splitlines()} if as_json else found)
            return
        else:
            result = distillation.distill(list(images), teacher=str(teacher), **given)
    if as_json:
        print_result(plain_data(result))
    else:
        print_if_quiet(short_path(result.backbone))
        if not is_later_rank():
            note(after_distillation(result.backbone))


def _checked(
    images: Sequence[str], teacher: str | None, config: str | None, given: dict[str, Any], others: bool = False
) -> tuple[Sequence[str], str | None, dict[str, Any]]:
    """Images, teacher and options, those of a config file below those given, all of them there.

    Args:
        images: Images that were given.
        teacher: Teacher that was given.
        config: Config file.
        given: Options that were given.
        others: Whether the command line has mistakes already, so that all others are looked for.

    Raises:
        KDYOLOError: Every mistake found, at once; of a single one the kind that it is.
    """
    from kdyolo.cli.parsing.config_file import read_config, teacher_of
    from kdyolo.distillation.plan import check_beside_others
    from kdyolo.runs.lifecycle.devices import Machine, read_devices

    with collect_mistakes() as mistakes:
        if config is not None:
            known = {**DistillOptions().to_dict(), "images": None, "teacher": None}
            if (asked := mistakes.result(lambda: read_config(config, known))) is not None:
                images = images or _images_of(asked.pop("images", None) or asked.get("data"))
                teacher = teacher or mistakes.result(lambda: teacher_of(config)) or asked.get("teacher")
                given = {**{key: value for key, value in asked.items() if key not in ("data", "teacher")}, **given}
        unreadable = bool(config and mistakes)  # of such a file nobody knows what it names
        if not images and not unreadable:
            mistakes.add("no images. Expected --images with a folder of them.")
        if not teacher and not unreadable:
            mistakes.add("no teacher. Expected --teacher with a name of timm, NAME:FILE, or a YOLO's .pt.")
        if (device := given.get("device")) and "RANK" not in os.environ:
            mistakes.result(lambda: read_devices(device, Machine.here(), {}))
        if mistakes or others:  # else the plan finds the rest
            mistakes.result(lambda: check_beside_others(images, teacher, given, not unreadable))
    return images, teacher, given


def _images_of(found: Any) -> tuple[str, ...]:
    """Folders in a config file: a list, or the text of a record, where commas stand between them."""
    if isinstance(found, list):
        return tuple(map(str, found))
    text = str(found or "")
    return (text,) if text and Path(text).exists() else tuple(filter(None, text.split(", ")))
