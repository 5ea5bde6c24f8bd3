"""Picture of what a student learned: image, teacher and student side by side, level by level, in the same colours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdyolo.checkpoints.feature_maps import principal_colours, titled, with_reading
from kdyolo.errors import RunError
from kdyolo.utils.atomic import write_atomic

_SMALLEST_SIDE = 160  # pixels of a panel; smaller images are enlarged by a whole number
HOW_TO_READ = (
    "Colours: the three directions in which features differ most within an image, teacher and student on one scale.",
    "Learned: the same colours in the same places. Not yet: paler, blurred, or one colour throughout. Grey: padding.",
)


def draw_feature_pairs(
    images: Tensor, levels: Mapping[str, tuple[Tensor, Tensor, Tensor]], out: str | Path
) -> NDArray[np.uint8]:
    """Draw targets and predictions as colours, and save the picture: a row for each image.

    Teacher and student at a level share one PCA (over the cells of both) and one scale, so the same colour means the
    same feature. Cells of padding are grey. Lines below the picture say how to read it.

    Args:
        images: Student images [N, 3, H, W], RGB in 0–1.
        levels: Level → targets [N, C, h, w], predictions [N, C, h, w], and weight [N, 1, h, w] of each cell, 0 in
            padding.
        out: PNG or JPEG file to write, completely or not at all.

    Returns:
        The picture [H, W, 3], BGR in 0–255.

    Raises:
        RunError: The file cannot be written.
    """
    rows = []
    for number, image in enumerate(images):
        pixels = (image.permute(1, 2, 0).cpu().numpy()[..., ::-1] * 255).round().astype(np.uint8)
        side = (pixels.shape[1], pixels.shape[0])
        times = -(-_SMALLEST_SIDE // min(side))
        panels = [_panel(pixels, (side[0] * times, side[1] * times), "image")]
        for level, (target, predicted, weight) in levels.items():
            pair = paired_colours(target[number], predicted[number], weight[number, 0])
            size = (side[0] * times, side[1] * times)
            panels += [
                _panel(colours, size, f"{level} {who}")
                for colours, who in zip(pair, ("teacher", "student"), strict=True)
            ]
        rows.append(np.concatenate(panels, axis=1))
    picture = with_reading(np.concatenate(rows, axis=0), HOW_TO_READ)
    try:
        _, encoded = cv2.imencode(Path(out).suffix, picture)
        write_atomic(Path(out), encoded.data)
    except (cv2.error, OSError) as e:  # cv2's is of the name
        raise RunError(f"{out}: cannot be written ({e}). Expected a .png or .jpg in an existing folder.") from e
    return picture


def paired_colours(target: Tensor, predicted: Tensor, weight: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Colours of two maps by one PCA.

    Args:
        target: The teacher's map [C, h, w].
        predicted: The student's map [C, h, w].
        weight: Weight of each cell [h, w]; cells below a half are grey, unless all are.

    Returns:
        Images [h, w, 3] of target and prediction, in 0–255.
    """
    inside = weight.cpu() >= 0.5
    inside = inside if inside.any() else torch.ones_like(inside)
    both = torch.cat([target.float().cpu(), predicted.float().cpu()], dim=2)
    colours = principal_colours(both, torch.cat([inside, inside], dim=1))
    width = target.shape[2]
    return colours[:, :width], colours[:, width:]


def _panel(pixels: NDArray[np.uint8], size: tuple[int, int], title: str) -> NDArray[np.uint8]:
    return titled(cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8), title)
