"""Commands ``kdyolo inspect``, ``export-stock``, ``extract`` and ``card``: what a file or a run holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kdyolo.cli.base import command, json_option, note, print_result, require_files, there
from kdyolo.errors import collect_mistakes
from kdyolo.runs.files import FEATURES_NAME


@command(
    "  kdyolo inspect ckpt.pth\n"
    "  kdyolo inspect ckpt.pth --image street.jpg --out features.png\n"
    "  kdyolo inspect epoch_4.pth epoch_9.pth\n"
    "  kdyolo inspect runs/detect/train/weights/best.pt --json",
    check=there("files", "image", "key_map"),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE [OTHER]")
@json_option
@click.option("--image", type=click.Path(), help="Image whose features are drawn, level by level.")
@click.option("--out", type=click.Path(), help="That picture. Default: features.png.")
@click.option("--imgsz", type=int, default=640, show_default=True, help="Side of the square the image is put in.")
@click.option("--model", help="Model YAML of the backbone's family, where its shapes fit several.")
@click.option("--bn-eps", type=float, help="BatchNorm epsilon, if the recognised one is wrong.")
@click.option("--input-norm", metavar="NORM", help="Images the backbone knows: 0-1, imagenet, or MEANS/STDS.")
@click.option("--key-map", type=click.Path(), metavar="FILE", help="YAML with the names of an unknown checkpoint.")
@click.option("--trust", is_flag=True, help="Unpickle the file completely: RUNS ANY CODE that it brings.")
def inspect(files: Sequence[str], as_json: bool, image: str | None, out: str | None, imgsz: int, **how: Any) -> None:
    """Look into a checkpoint: source, stages in numbers, what it fits. Two files: where they differ."""
    with collect_mistakes() as mistakes:
        if len(files) > 2 or (len(files) == 2 and image):
            mistakes.add("expected one file, with --image or without, or two files to compare.")
        if out and not image:
            mistakes.add("--out names the picture of --image, which is not given.")
        if len(missing := [file for file in files if not Path(file).exists()]) > 1:
            mistakes.add(*(f"{file}: no such file." for file in missing))
        mistakes.result(lambda: require_files({"--image": image}))
    from kdyolo.checkpoints.checkpoint_diff import compare_checkpoints
    from kdyolo.checkpoints.feature_maps import draw_features
    from kdyolo.checkpoints.inspection import inspect_checkpoint

    found = compare_checkpoints(*files, **how) if len(files) == 2 else inspect_checkpoint(files[0], **how)
    print_result(found.to_dict() if as_json else found.table())
    if image:
        picture = draw_features(files[0], image, out or FEATURES_NAME, imgsz, **how)
        (note if as_json else print_result)(str(picture))


@command(
    "  kdyolo export-stock runs/detect/train\n"
    "  kdyolo export-stock runs/detect/train/weights/epoch40.pt --out detector.pt",
    check=there("source"),
)
@click.argument("source", metavar="RUN|CKPT", type=click.Path())
@click.option("--out", type=click.Path(), help="File to write. Default: NAME-stock.pt beside the checkpoint.")
@click.option("--exist-ok", is_flag=True, help="Replace the file if it exists.")
@json_option
def export_stock(source: str, out: str | None, exist_ok: bool, as_json: bool) -> None:
    """Write a plain Ultralytics checkpoint from any of a run's, also from the middle of a run.

    Its outputs are compared with the source's before it is written.
    """
    from kdyolo.checkpoints.export import export_stock as write

    _print_file(write(source, out, exist_ok), as_json)


@command(
    "  kdyolo extract runs/detect/train/weights/best.pt --out backbone.safetensors\n"
    "  kdyolo train --data datasets/other/other.yaml --backbone backbone.safetensors",
    check=there("source"),
)
@click.argument("source", metavar="RUN|CKPT", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="File to write, ending in .safetensors.")
@click.option("--exist-ok", is_flag=True, help="Replace the file if it exists.")
@json_option
def extract(source: str, out: str, exist_ok: bool, as_json: bool) -> None:
    """Write a detector's backbone on its own, so that it can be injected again, bit for bit."""
    from kdyolo.checkpoints.export import extract_backbone

    _print_file(extract_backbone(source, out, exist_ok), as_json)


@command("  kdyolo card runs/detect/train\n  kdyolo card runs/detect/train --out MODEL_CARD.md", check=there("run"))
@click.argument("run", type=click.Path())
@click.option("--out", type=click.Path(), help="File to write. Default: model_card.md in the run.")
@json_option
def card(run: str, out: str | None, as_json: bool) -> None:
    """Write a run's model card: results, backbone, training, data, licences, provenance."""
    from kdyolo.runs.model_card import write_model_card

    _print_file(write_model_card(run, out), as_json)


def _print_file(path: Path, as_json: bool) -> None:
    """Name the file that a command has written."""
    print_result({"file": str(path)} if as_json else str(path))
