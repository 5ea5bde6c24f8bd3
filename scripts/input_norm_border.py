"""What folding an input normalisation changes at the border of the features, and how far it reaches.

Usage:
    KDYOLO_SHARED=shared python scripts/input_norm_border.py
    python scripts/input_norm_border.py --backbone ckpt.pth --images photos/ --imgsz 640

A backbone that was trained on ImageNet-normalised images has met borders of the mean colour, since it pads with 0; once
the normalisation is folded into its first layer, it meets black ones. Both are computed here from one trained backbone:
as it is, and with images padded by the mean colour. The rest of both is the same network, equal to the last bit.

Printed for each level: how large the difference is, relative to the features' own spread (root mean square over
channels, places and images; each channel centred), in the outermost cells and over the whole map; and from which
distance to the border on it stays below 1 %.
"""

from __future__ import annotations

import argparse
import os
from itertools import islice
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn

from kdyolo.checkpoints.input_norm import NORMS
from kdyolo.checkpoints.loading import load_backbone
from kdyolo.models.backbone import DistilledBackbone

SMALL = 0.01  # of the features' spread


def main() -> None:
    """Compute both, print the table."""
    shared = Path(os.environ.get("KDYOLO_SHARED", "shared"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=Path, default=shared / "checkpoints/trained_n_clean.pth")
    parser.add_argument("--images", type=Path, default=shared / "coco128/val2017")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--count", type=int, default=8, help="number of images")
    options = parser.parse_args()
    files = list(islice(sorted(options.images.glob("*.jpg")), options.count))
    images = torch.cat([read(file, options.imgsz) for file in files])
    backbone = load_backbone(options.backbone)
    black, coloured = features(backbone, images, torch.zeros(3)), features(backbone, images, mean_colour())
    print(f"{options.backbone.name}, {len(files)} images of {options.imgsz} px, borders of the mean colour or black")
    for level, stride, a, b in zip(backbone.levels, backbone.strides, coloured, black, strict=True):
        rings = by_distance(a, b)
        reach = max((i + 1 for i, ring in enumerate(rings) if ring >= SMALL), default=0)
        print(
            f"  {level}: outermost cells {rings[0]:.1%}, whole map {relative(a, b):.1%}, below {SMALL:.0%} from "
            f"{reach} cells ({reach * stride} px) on; at the centre {rings[-1]:.2%}"
        )


def read(file: Path, imgsz: int) -> Tensor:
    """An image, stretched to a square that it fills, as [1, 3, imgsz, imgsz] in 0–1."""
    pixels = cv2.resize(cv2.imread(str(file)), (imgsz, imgsz), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(pixels[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255


def mean_colour() -> Tensor:
    """ImageNet's, in 0–1."""
    return torch.tensor(NORMS["imagenet"].mean)


@torch.no_grad()
def features(backbone: DistilledBackbone, images: Tensor, border: Tensor) -> list[Tensor]:
    """Maps [B, C, H, W] of images whose first convolution meets a border of that colour."""
    colour = border.view(1, 3, 1, 1)
    padded = nn.functional.pad(images - colour, (1, 1, 1, 1)) + colour
    conv = backbone.layers[0].conv
    before, conv.padding = conv.padding, (0, 0)
    maps = backbone(padded)
    conv.padding = before
    return maps


def relative(a: Tensor, b: Tensor) -> float:
    """Root mean square of a difference over that of the first map's spread in its channels."""
    spread = a - a.mean((0, 2, 3), keepdim=True)
    return float((a - b).square().mean().sqrt() / spread.square().mean().sqrt())


def by_distance(a: Tensor, b: Tensor) -> list[float]:
    """The same for the cells at each distance to the nearest border, outermost first."""
    height, width = a.shape[-2:]
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    distance = torch.minimum(torch.minimum(y, height - 1 - y), torch.minimum(x, width - 1 - x))
    spread = (a - a.mean((0, 2, 3), keepdim=True)).square().mean().sqrt()
    squared = (a - b).square().mean((0, 1))
    return [float(squared[distance == d].mean().sqrt() / spread) for d in range(int(distance.max()) + 1)]


if __name__ == "__main__":
    main()
