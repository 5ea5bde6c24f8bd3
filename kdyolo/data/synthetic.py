"""Synthetic COCO data set of drawn shapes, for the demo, tests and benchmarks."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

# Sparse ids in no order, as real annotation files have them.
CATEGORIES = {3: "disc", 17: "square", 44: "triangle"}
IMGSZ = 128  # pixels: images are drawn and trained at this size
SPLITS = {"train": 240, "val": 48}


def draw_dataset(root: Path, splits: dict[str, int] | None = None, imgsz: int = IMGSZ, seed: int = 0) -> Path:
    """Draw a small COCO data set in the official layout: sparse category ids, a crowd, and images without objects.

    Args:
        root: Folder to create.
        splits: Split name → number of images.
        imgsz: Side of the square images, in pixels.
        seed: Seed of the random shapes, colours and places.

    Returns:
        ``root``, with ``annotations/instances_<split>.json`` and ``<split>/*.jpg``.
    """
    rng = random.Random(seed)
    for split, count in (splits or SPLITS).items():
        (root / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(1, count + 1):
            name = f"{number:06d}.jpg"
            picture, objects = _draw_image(rng, imgsz, empty=number % 10 == 0)
            picture.save(root / split / name, quality=92)
            images.append({"id": number, "file_name": name, "width": imgsz, "height": imgsz})
            annotations += [
                {"id": len(annotations) + i, "image_id": number, "iscrowd": 0, "area": box[2] * box[3], **fields}
                for i, fields in enumerate(objects, start=1)
                for box in [fields["bbox"]]
            ]
        annotations.append(_crowd(len(annotations) + 1, imgsz))
        content = {
            "info": {"description": "drawn shapes"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def _draw_image(rng: random.Random, imgsz: int, empty: bool) -> tuple[Image.Image, list[dict[str, Any]]]:
    """A noisy background with a few shapes on it, and their annotations."""
    background = tuple(rng.randrange(60, 200) for _ in range(3))
    picture = Image.new("RGB", (imgsz, imgsz), background)
    draw = ImageDraw.Draw(picture)
    for _ in range(imgsz):  # speckle, so that texture alone says nothing
        x, y = rng.randrange(imgsz), rng.randrange(imgsz)
        draw.rectangle((x, y, x + 2, y + 2), fill=tuple(c + rng.randrange(-40, 40) for c in background))
    objects: list[dict[str, Any]] = []
    for _ in range(0 if empty else rng.randrange(1, 4)):
        category = rng.choice(list(CATEGORIES))
        side = rng.randrange(imgsz // 5, imgsz // 2)
        x, y = rng.randrange(imgsz - side), rng.randrange(imgsz - side)
        _draw_shape(draw, CATEGORIES[category], (x, y, x + side, y + side), rng)
        objects.append({"category_id": category, "bbox": [x, y, side, side]})
    return picture, objects


def _draw_shape(draw: ImageDraw.ImageDraw, kind: str, box: tuple[int, int, int, int], rng: random.Random) -> None:
    colour = tuple(rng.choice((rng.randrange(0, 50), rng.randrange(205, 256))) for _ in range(3))
    x1, y1, x2, y2 = box
    if kind == "disc":
        draw.ellipse(box, fill=colour)
    elif kind == "square":
        draw.rectangle(box, fill=colour)
    else:
        draw.polygon([((x1 + x2) / 2, y1), (x2, y2), (x1, y2)], fill=colour)


def _crowd(identity: int, imgsz: int) -> dict[str, Any]:
    """One crowd region over the whole first image, as an uncompressed RLE mask."""
    return {
        "id": identity,
        "image_id": 1,
        "category_id": min(CATEGORIES),
        "iscrowd": 1,
        "bbox": [0, 0, imgsz, imgsz],
        "area": imgsz * imgsz,
        "segmentation": {"counts": [0, imgsz * imgsz], "size": [imgsz, imgsz]},
    }
