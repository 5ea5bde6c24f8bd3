"""Models that are not there or are weights alone, refused before Ultralytics asks the network for their names."""

from __future__ import annotations

import os
from pathlib import Path

from ultralytics.utils import SETTINGS
from ultralytics.utils.checks import REMOTE_FILE_PREFIXES, check_model_file_from_stem, check_yolov5u_filename
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

from kdyolo.errors import CheckpointError
from kdyolo.utils.text import shell_word

# What hold tensors without a network: backbones, mostly.
_WEIGHTS_ALONE = {".pth", ".safetensors", ".ckpt", ".bin"}


def refuse_weights_alone(path: str | Path) -> None:
    """Refuse a file that by its name holds weights alone, where a whole detector is expected.

    Args:
        path: The model as a person named it.

    Raises:
        CheckpointError: It is such a file.
    """
    if Path(path).suffix.lower() in _WEIGHTS_ALONE:
        raise CheckpointError(
            f"{path}: expected a trained detector, e.g. a run's weights/best.pt; found weights alone, such as a "
            f"backbone without a head. Train a detector on it: "
            f"kdyolo train --backbone {shell_word(path)} --data DATA.yaml"
        )


def refuse_missing(weights: str | Path) -> None:
    """Refuse a model that is not there, unless it is by name or address one that Ultralytics fetches.

    Ultralytics asks GitHub for any name that does not exist; a broken link, or one in a circle, does not exist to it.

    Args:
        weights: The model as a person named it.

    Raises:
        CheckpointError: There is nothing of that name, or what has it leads nowhere or is empty.
    """
    if str(weights).lower().startswith(REMOTE_FILE_PREFIXES):
        return
    path = Path(check_yolov5u_filename(str(check_model_file_from_stem(str(weights))), verbose=False))
    if os.path.lexists(path):
        try:
            if not path.stat().st_size and path.suffix == ".pt":  # others have checks of their own
                raise CheckpointError(f"{path}: the file is empty (0 bytes). Copy or download it again.")
        except OSError as e:
            raise CheckpointError(f"{path}: a link that leads nowhere ({e.strerror}). Name the file itself.") from e
    elif path.name not in GITHUB_ASSETS_NAMES and not Path(SETTINGS["weights_dir"], path).exists():
        raise CheckpointError(f"{path}: no such file. Expected a trained detector, e.g. a run's weights/best.pt.")
