"""``kdyolo probe``: checkpoints side by side, before a detector is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from kdyolo.cli.base import command, json_option, note, print_result, require_files
from kdyolo.errors import CheckpointError, ConfigError, DatasetError, collect_mistakes

PICTURES = (".png", ".svg", ".pdf")


def _seeds(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    """Numbers between commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"expected numbers between commas, such as 0,1,2; found {text!r}.") from None


def _check_plot(file: Path) -> None:
    """Refuse a place where no picture can be drawn, before hours are spent on it."""
    if file.suffix.lower() not in PICTURES or not file.absolute().parent.is_dir():
        raise ConfigError(f"--plot {file}: expected a {', '.join(PICTURES)} in a folder that is there.")


def _check_files(given: Mapping[str, Any]) -> None:
    """Refuse files that are not there, and what else can be judged before anything is read, all at once.

    Args:
        given: Options and arguments of the command; those that are wrong in themselves are None.

    Raises:
        KDYOLOError: Every mistake found; of a single one the kind that it is.
    """
    from kdyolo.runs.lifecycle.devices import Machine, one_torch_device

    with collect_mistakes() as mistakes:
        for file in given.get("checkpoints") or ():
            mistakes.result(partial(require_files, {"checkpoint": str(file)}, CheckpointError))
        for name in ("data", "key_map"):
            kind = DatasetError if name == "data" else ConfigError
            mistakes.result(partial(require_files, {f"--{name.replace('_', '-')}": given.get(name)}, kind))
        if (imgsz := given.get("imgsz")) is not None and (imgsz < 32 or imgsz % 32):
            mistakes.add(f"imgsz must be a multiple of 32; found {imgsz}.")
        if plot := given.get("plot"):
            mistakes.result(lambda: _check_plot(Path(plot)))
        if device := given.get("device"):
            mistakes.result(lambda: one_torch_device(device, "a probe", Machine.here()))


@command(
    "  kdyolo probe ckpt.pth --data datasets/coco/coco.yaml\n"
    "  kdyolo probe runs/distill/sam2-s/weights/*.pt ckpt.pth --data datasets/coco/coco.yaml --imgsz 320\n"
    "  kdyolo probe ckpt.pth --data datasets/coco/coco.yaml --images 5000 --json\n"
    "  kdyolo probe a.pth b.pth --data datasets/coco/coco.yaml --detect --detect-epochs 5 --detect-seeds 0,1,2",
    check=_check_files,
)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(), metavar="CKPT...")
@click.option("--data", required=True, type=click.Path(), help="Dataset YAML with labels.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="val", show_default=True,
              help="Objects to classify; images that a backbone learned from flatter it.")  # fmt: skip
@click.option("--imgsz", type=int, default=640, show_default=True, help="Side of the square that images are put in.")
@click.option("--resize", type=click.Choice(["letterbox", "stretch"]), default="letterbox", show_default=True,
              help="How images are put in it, as in training.")  # fmt: skip
@click.option(
    "--images", type=click.IntRange(min=1), default=1000, show_default=True, help="Number of images, drawn by the seed."
)
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, help="Images in a forward pass.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of images, folds and random networks.")
@click.option("--device", default="cpu", show_default=True, help="Device of the forward passes, e.g. cuda:0.")
@click.option("--bn-eps", type=float, help="BatchNorm epsilon of all, if the recognised one is wrong.")
@click.option("--input-norm", metavar="NORM", help="Images the backbones know: 0-1, imagenet, or MEANS/STDS.")
@click.option("--key-map", type=click.Path(), metavar="FILE", help="YAML with the names of an unknown checkpoint.")
@click.option("--trust", is_flag=True, help="Unpickle the files completely: RUNS ANY CODE that they bring.")
@click.option("--detect", is_flag=True, help="Also train a detection head on each frozen backbone: official AP on val.")
@click.option(
    "--detect-epochs",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Length of each of these trainings.",
)
@click.option(
    "--detect-images",
    type=click.IntRange(min=2),
    default=1000,
    show_default=True,
    help="Their images, the same for all.",
)
@click.option("--detect-seeds", default="0", show_default=True, metavar="N,N,…", callback=_seeds,
              help="Their seeds; one alone gives no interval.")  # fmt: skip
@click.option("--work-dir", type=click.Path(), metavar="DIR", help="Keep the heads' runs here; else they are deleted.")
@click.option("--plot", type=click.Path(), metavar="FILE", help="Also a picture: .png, .svg or .pdf.")
@json_option
def probe(checkpoints: Sequence[str], data: str, plot: str | None, as_json: bool, **options: Any) -> None:
    """Compare backbones by how well simple classifiers, or detection heads, tell objects from their frozen features.

    CKPT is anything that --backbone takes, or a trained detector. A random network is always among them.
    """
    _check_files({"checkpoints": checkpoints, "data": data, "plot": plot, **options})
    from kdyolo.experiments.probe.probe import probe as run

    result = run(checkpoints, data, **options)
    print_result(result.to_dict() if as_json else result.table())
    if plot:
        from kdyolo.experiments.probe.figure import draw_probe

        (note if as_json else print_result)(str(draw_probe(result, plot)))
