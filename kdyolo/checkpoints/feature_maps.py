"""Feature maps of an image as colours: the first three principal components."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Unpack
from ultralytics.data.augment import LetterBox

from kdyolo.arguments import checked
from kdyolo.checkpoints.loading import ReadKeywords, checkpoint_arch, load_into
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.errors import ConfigError, DatasetError
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.yaml_layouts import family_of
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.plain_files import is_file

LEVELS = ("P2", "P3", "P4", "P5")
_STRIDE = 32
PADDED = 200  # grey of cells that lie in the padding of the letterbox
HOW_TO_READ = (
    "Colours: the three directions in which a level's features differ most within this image. Like colours are like",
    "features. Trained: objects stand out as wholes. Random: edges and noise. Dead: one colour. Grey: padding.",
)


@checked
def draw_features(
    path: str | Path,
    image: str | Path,
    out: str | Path,
    imgsz: int = 640,
    *,
    model: str | None = None,
    **how: Unpack[ReadKeywords],
) -> Path:
    """Save a picture of a backbone's features: the image, and its feature maps at each level as colours.

    Each map [C, H, W] is reduced to its three principal components (PCA) over the positions that lie in the image, not
    in its padding, shown as red, green and blue between their 1st and 99th percentile. A backbone that is alive shows
    the image's objects; a random or dead one shows noise or nothing. A line below the picture says so.

    Args:
        path: The checkpoint.
        image: Any image that OpenCV reads.
        out: Picture to write.
        imgsz: Side of the square that the image is letterboxed to, in pixels.
        model: Model YAML that says of which family the backbone is, where the shapes fit several.
        **how: ``key_map``, ``bn_eps``, ``input_norm``, ``trust`` as in
            :func:`kdyolo.checkpoints.reader.read_checkpoint`.

    Returns:
        Path of the picture.

    Raises:
        ConfigError: ``imgsz`` is too small.
        CheckpointError: The file cannot be read or does not fill a backbone.
        DatasetError: The image cannot be read, or the picture not written.

    Examples:
        >>> from kdyolo import draw_features
        >>> draw_features("ckpt.pth", "image.jpg", "features.png", imgsz=64).name
        'features.png'
    """
    if imgsz < _STRIDE:
        raise ConfigError(f"imgsz: expected at least {_STRIDE} pixels, the stride of P5; found {imgsz}.")
    try:
        pixels = cv2.imread(str(image)) if is_file(Path(image)) else None
    except cv2.error:  # more pixels than it reads
        pixels = None
    if pixels is None:
        raise DatasetError(f"--image {image}: not an image that can be read.")
    checkpoint = read_checkpoint(path, **how)
    arch = checkpoint_arch(checkpoint, family_of(model))
    backbone = DistilledBackbone(arch.name, arch.max_channels, checkpoint.bn_eps, LEVELS).eval()
    load_into(backbone, checkpoint, allow_partial=True)
    square = LetterBox((imgsz, imgsz))(image=pixels)
    tensor = torch.from_numpy(square[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        maps = backbone(tensor)
    panels = [titled(square, "image")]
    for level, stride, features in zip(LEVELS, backbone.strides, maps, strict=True):
        colours = principal_colours(features[0], _in_image(pixels.shape[:2], imgsz, stride, features.shape[2:]))
        enlarged = cv2.resize(colours, (imgsz, imgsz), interpolation=cv2.INTER_NEAREST).astype(np.uint8)
        panels.append(titled(enlarged, f"{level}, stride {stride}, {features.shape[1]} channels"))
    try:
        _, picture = cv2.imencode(Path(out).suffix, with_reading(np.concatenate(panels, axis=1), HOW_TO_READ))
        write_atomic(Path(out), picture.data)
    except (cv2.error, OSError) as e:  # cv2's is of the name
        reason = f" ({e.strerror})" if isinstance(e, OSError) and e.strerror else ""
        raise DatasetError(
            f"{out}: cannot be written{reason}. Expected a name that ends in .png or .jpg, in an existing folder."
        ) from e
    return Path(out)


def principal_colours(features: Tensor, inside: Tensor | None = None) -> NDArray[np.uint8]:
    """A feature map's first three principal components over positions, as colours.

    Args:
        features: Feature map [C, H, W].
        inside: Positions [H, W] that the components are computed from, as booleans; the others become grey. All, if
            not given.

    Returns:
        Image [H, W, 3] in 0–255.
    """
    _, height, width = features.shape
    inside = torch.ones(height, width, dtype=torch.bool) if inside is None else inside
    image: NDArray[np.uint8] = np.full((height, width, 3), PADDED, np.uint8)
    colours = _colours(features[:, inside].T.double())
    image[inside.numpy(), : colours.shape[1]] = colours
    return image


def _colours(rows: Tensor) -> NDArray[np.uint8]:
    """Features [N, C] of N positions → their colours [N, 3]; fewer components where there are fewer positions."""
    rows = rows - rows.mean(0)
    _, _, axes = torch.linalg.svd(rows, full_matrices=False)
    axes = axes[:3] * axes[:3].gather(1, axes[:3].abs().argmax(1, keepdim=True)).sign()  # else the sign is arbitrary
    parts = rows @ axes.T
    low, high = torch.quantile(parts, torch.tensor([0.01, 0.99], dtype=parts.dtype), dim=0)
    scaled = ((parts - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    colours: NDArray[np.uint8] = (scaled * 255).round().byte().numpy()
    return colours


def _in_image(size: tuple[int, int], imgsz: int, stride: int, grid: Sequence[int]) -> Tensor:
    """Cells [H, W] whose centre lies in the image, which the letterbox has placed in the middle of its square."""
    scale = min(imgsz / size[0], imgsz / size[1])
    rows, columns = (
        ((torch.arange(cells) + 0.5) * stride - imgsz / 2).abs() < side * scale / 2
        for cells, side in zip(grid, size, strict=True)
    )
    inside = rows[:, None] & columns[None, :]
    return inside if inside.any() else torch.ones_like(inside)  # an image narrower than a cell


def with_reading(picture: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """A picture [H, W, 3] with lines below, each of 20 pixels, that say how to read it."""
    strip = np.full((20 * len(lines) + 8, picture.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        scale = min(0.5, 0.5 * (picture.shape[1] - 12) / (8.6 * len(line)))  # about 8.6 px for a letter at 0.5
        cv2.putText(strip, line, (6, 20 * number - 3), cv2.FONT_HERSHEY_SIMPLEX, scale, (60, 60, 60), 1, cv2.LINE_AA)
    return np.concatenate([picture, strip], axis=0)


def titled(image: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    """An image [H, W, 3] below a white strip of 28 pixels with its title."""
    strip = np.full((28, image.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, title, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, image], axis=0)
