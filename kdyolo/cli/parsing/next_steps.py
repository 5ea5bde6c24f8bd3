"""What a training left, as plain data, and the commands that come next, ready to paste."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdyolo.runs.files import BEST_NAME, LAST_NAME, MAP, weights_file
from kdyolo.utils.text import plural, short_path

NEXT_TO_NOTHING = 0.01  # mAP50-95
MANY_EPOCHS = 50  # after which a detector that learns at all has more than that


def training_result(folder: Path, data: str, images: Any = None) -> dict[str, Any]:
    """What a training left.

    Args:
        folder: The run folder.
        data: Data set YAML.
        images: Where the validation images lie, if known: a folder or a list, or several of them.

    Returns:
        Paths, epochs and metrics as plain data; None for what there is not.
    """
    from kdyolo.runs.history import read_run  # heavy for what only prints

    run = read_run(folder)
    best = run.value(MAP)
    first = images[0] if isinstance(images, (list, tuple)) and images else images
    return {
        "run": str(short_path(folder)),
        "best": str(short_path(weights_file(folder, BEST_NAME))),
        "last": str(short_path(weights_file(folder, LAST_NAME))),
        "data": data,
        "images": str(short_path(Path(str(first)))) if first else None,
        "epochs": len(run.epochs),
        "best_epoch": run.best_epoch(),
        "mAP50-95": None if math.isnan(best) else best,
        "official": dict(run.scores) if run.scores else None,
    }


def after_distillation(backbone: Path) -> str:
    """The commands that come next."""
    path, data = short_path(backbone), ("--data", "DATA.yaml")
    return _pasted((("probe", path, *data), ("train", *data, "--backbone", path, "--freeze", 50)))


def after_training(result: Mapping[str, Any]) -> str:
    """The commands that come next, below a sentence on a run that has learned next to nothing."""
    images = result["images"] or "IMAGES/"
    commands = (
        ("val", result["best"], result["data"], "--errors"),
        ("predict", result["best"], images),
        ("compare", result["run"], "OTHER_RUN", "--baseline", "OTHER_RUN"),
        ("card", result["run"]),
    )
    return _too_little(result) + _pasted(commands)


def _too_little(result: Mapping[str, Any]) -> str:
    """What to do about an mAP near zero; empty of a run that has learned something, or was not evaluated."""
    best, epochs = result["mAP50-95"], result["epochs"]
    if best is None or best >= NEXT_TO_NOTHING:
        return ""
    few = "that is usual of a random head, which takes dozens of epochs on a few hundred images: give more --epochs"
    many = (
        "look at the boxes with --dry-run, and at the losses in results.png: the labels or the learning rate are wrong"
    )
    return f"\nmAP50-95 is {best:.3f} after {plural(epochs, 'epoch')}: {few if epochs < MANY_EPOCHS else many}."


def _pasted(commands: Iterable[Iterable[Any]]) -> str:
    return "\n".join(["\nnext:", *(f"  kdyolo {shlex.join(map(str, command))}" for command in commands)])
