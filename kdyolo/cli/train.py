"""Commands ``kdyolo train`` and ``doctor``: training, and what is checked before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kdyolo.cli.base import command, key_values
from kdyolo.cli.jobs import detach_option, run_detached
from kdyolo.errors import ConfigError
from kdyolo.runs.files import LAST_NAME, weights_file


@command(
    "  kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --freeze 50\n"
    "  kdyolo train --data datasets/coco/coco.yaml --model kdyolov8s.yaml --random-init\n"
    "  kdyolo train --data datasets/coco/coco.yaml --weights yolov8s.pt --backbone ckpt.pth --recipe coco-mosaic\n"
    "  kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --epochs 12 lr0=0.02 hsv_h=0\n"
    "  kdyolo train --resume runs/detect/train --detach"
)
@click.option("--data", type=click.Path(), help="Data set YAML, e.g. the one that 'kdyolo convert' printed.")
@click.option("--backbone", type=click.Path(), help="Distillation checkpoint (.pt, .pth, .safetensors) to inject.")
@click.option("--model", help="Model YAML, e.g. kdyolov8s.yaml. Default: the scale that the backbone fits.")
@click.option("--weights", type=click.Path(), help="Ultralytics .pt the detector starts from, e.g. yolov8s.pt.")
@click.option("--random-init", is_flag=True, help="Say explicitly that the run starts random: a baseline.")
@click.option(
    "--freeze",
    "--freeze-epochs",
    "freeze_epochs",
    metavar="N|all",
    help="Freeze the backbone in epochs 1…N and train it from N+1 on; 0 (default) never, 'all' to the end.",
)
@click.option("--unfreeze-stages", metavar="PLAN", help='Thaw part by part, deepest first: "10:p5,20:p4,30:all".')
@click.option("--backbone-lr", type=float, help="Learning rate of the backbone as a factor of the head's (default 1).")
@click.option(
    "--thaw-warmup", type=float, metavar="E", help="Epochs in which a thawed part reaches its rate (default 1)."
)
@click.option("--freeze-bn", type=click.Choice(["with-backbone", "always"]), help="Until when BatchNorm stands still.")
@click.option("--recipe", metavar="NAME|FILE", help="Training recipe: coco (default), coco-mosaic, or a YAML file.")
@click.option("--epochs", type=int, help="Number of epochs.")
@click.option("--batch", help="Images per batch.")
@click.option("--imgsz", type=int, help="Image size in pixels: the side of the square that the network sees.")
@click.option("--resize", type=click.Choice(["letterbox", "stretch"]), help="Keep the aspect ratio (default) or not.")
@click.option("--device", help="cpu, 0, mps, …")
@click.option("--workers", type=int, help="Data loader workers.")
@click.option("--seed", type=int, help="Random seed.")
@click.option("--save-period", type=int, help="Keep a checkpoint every N epochs.")
@click.option(
    "--coco-eval-period",
    type=click.IntRange(min=0),
    metavar="N",
    help="Official COCO metrics in results.csv every N epochs. Default: 0, at the end only.",
)
@click.option("--work-dir", type=click.Path(), help="The run folder itself. Default: runs/detect/train, train-2, …")
@click.option("--exist-ok", is_flag=True, help="Allow a work dir that is not empty.")
@click.option("--allow-partial", is_flag=True, help="Accept a checkpoint that does not fill the backbone.")
@click.option("--bn-eps", type=float, help="BatchNorm epsilon of the backbone, if the recognised one is wrong.")
@click.option("--input-norm", metavar="NORM", help="Images the backbone knows: 0-1, imagenet, or MEANS/STDS.")
@click.option("--key-map", type=click.Path(), metavar="FILE", help="YAML with the names of an unknown checkpoint.")
@click.option("--trust", is_flag=True, help="Unpickle checkpoints completely: RUNS ANY CODE that they bring.")
@click.option("--resume", type=click.Path(), metavar="RUN", help="Continue an interrupted run: its folder or last.pt.")
@click.option("--dry-run", is_flag=True, help="Check everything, measure one batch, print the plan; train nothing.")
@detach_option
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def train(settings: Sequence[str], resume: str | None, dry_run: bool, detach: bool, **options: Any) -> None:
    """Train a detector on a distilled backbone.

    Any Ultralytics setting can follow the options as KEY=VALUE; options left out take the recipe's values.
    """
    if detach:
        if dry_run:
            raise ConfigError("--detach and --dry-run exclude each other: a dry run is for reading what it prints.")
        run_detached()
        return
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    given.update(key_values(settings, taken=given))
    if resume is not None:
        if dry_run:
            raise ConfigError("--dry-run is for a new run: one to resume has been checked already.")
        _resume(Path(resume), given)
        return
    if not given.get("data"):
        raise ConfigError("no data set. Expected --data with a YAML such as the one 'kdyolo convert' printed.")
    if dry_run:
        from kdyolo.engine.preflight import preflight

        preflight(given)
        return
    from kdyolo.engine.plan import plan_run
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

    click.echo(environment())
    if found := check_parts(**options):
        click.echo(found)
