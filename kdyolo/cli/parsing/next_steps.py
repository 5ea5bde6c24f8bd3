"""What a training left, as plain data, and the commands that come next, ready to paste."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdyolo.runs.files import BEST_NAME, LAST_NAME, MAP, weights_file


def short_path(path: Path) -> Path:
    """A path as one would type it here."""
    path, here = path.resolve(), Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


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
    """The commands that come next."""
    images = result["images"] or "IMAGES/"
    commands = (
        ("val", result["best"], result["data"], "--errors"),
        ("predict", result["best"], images),
        ("compare", result["run"], "OTHER_RUN"),
        ("card", result["run"]),
    )
    return _pasted(commands)


def _pasted(commands: Iterable[Iterable[Any]]) -> str:
    return "\n".join(["\nnext:", *(f"  kdyolo {shlex.join(map(str, command))}" for command in commands)])
