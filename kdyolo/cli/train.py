"""Commands ``kdyolo train`` and ``doctor``: training, and what is checked before it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from kdyolo.cli.base import F, command, echo, key_values
from kdyolo.cli.jobs import detach_option, run_detached
from kdyolo.engine.options.train_options import command_options
from kdyolo.engine.ranks.devices import read_rank
from kdyolo.errors import ConfigError
from kdyolo.runs.files import LAST_NAME, weights_file
from kdyolo.runs.lifecycle.options import Kind, Option
from kdyolo.runs.process_control import ended_by_signals

TYPES: dict[Kind, Any] = {
    "text": None,
    "path": click.Path(),
    "flag": None,
    "integer": int,
    "number": float,
    "count": click.IntRange(min=0),
}


def declared_options(options: Mapping[str, Option]) -> Callable[[F], F]:
    """Give a command the options that are declared elsewhere, in the order of the declaration."""

    def decorate(function: F) -> F:
        for name, found in reversed(list(options.items())):
            kind = click.Choice(found.choices) if found.choices else TYPES[found.kind]
            function = click.option(
                *found.flags_of(name),
                name,
                type=kind,
                is_flag=found.kind == "flag",
                metavar=found.metavar,
                help=found.help,
            )(function)
        return function

    return decorate


@command(
    "  kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --freeze 50\n"
    "  kdyolo train --data datasets/coco/coco.yaml --model kdyolov8s.yaml --random-init\n"
    "  kdyolo train --data datasets/coco/coco.yaml --weights yolov8s.pt --backbone ckpt.pth --recipe coco-mosaic\n"
    "  kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --epochs 12 lr0=0.02 hsv_h=0\n"
    "  kdyolo train --resume runs/detect/train --detach"
)
@declared_options(command_options())
@detach_option
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def train(settings: Sequence[str], resume: str | None, dry_run: bool, detach: bool, **options: Any) -> None:
    """Train a detector on a distilled backbone.

    Any Ultralytics setting can follow the options as KEY=VALUE; options left out take the recipe's values.
    """
    if detach:
        run_detached(dry_run)
        return
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    given.update(key_values(settings, taken=given))
    read_rank(os.environ)  # Ultralytics reads the same when it is imported, and says less about what is wrong
    if resume is not None:
        if dry_run:
            raise ConfigError("--dry-run is for a new run: one to resume has been checked already.")
    elif not given.get("data"):
        raise ConfigError("no data set. Expected --data with a YAML such as the one 'kdyolo convert' printed.")
    with ended_by_signals():
        if resume is not None:
            _resume(Path(resume), given)
        elif dry_run:
            from kdyolo.engine.preflight import preflight

            preflight(given)
        else:
            _start(given)


def _start(given: dict[str, Any]) -> None:
    from kdyolo.engine.start.plan import plan_run
    from kdyolo.engine.trainer import KDTrainer

    KDTrainer(plan=plan_run(given)).train()


def _resume(run: Path, given: dict[str, Any]) -> None:
    from kdyolo.engine.trainer import KDTrainer

    last = str(run if run.suffix == ".pt" else weights_file(run, LAST_NAME))
    KDTrainer(overrides={**given, "task": "detect", "mode": "train", "model": last, "resume": last}).train()


@command("  kdyolo doctor\n  kdyolo doctor --data datasets/coco/coco.yaml --backbone ckpt.pth")
@click.option("--data", type=click.Path(), help="Data set YAML to check.")
@click.option("--backbone", type=click.Path(), help="Distillation checkpoint to check.")
@click.option("--model", help="Model YAML that the checkpoint should fit.")
def doctor(**options: Any) -> None:
    """Show versions, processor, GPUs and free space, and check a data set and a checkpoint."""
    from kdyolo.engine.preflight import check_parts, environment

    echo(environment())
    if found := check_parts(**options):
        echo(found)
