"""Seeded ground truth and detections for tests of the evaluation: crowds, ties, areas of all sizes, empty images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

IMAGE = 640  # pixels


def random_ground_truth(seed: int = 0, images: int = 40, categories: int = 5) -> dict[str, Any]:
    """Sparse ids in no order, some images without objects, about one object in fifteen a crowd region."""
    rng = np.random.default_rng(seed)
    image_ids = (rng.permutation(images * 7)[:images] + 1).tolist()
    category_ids = (rng.permutation(90)[:categories] + 1).tolist()
    annotations = []
    for image_id in image_ids[: images - images // 8]:
        for _ in range(rng.integers(1, 9)):
            w, h = np.exp(rng.uniform(np.log(6), np.log(300), 2))
            x, y = rng.uniform(0, IMAGE - w), rng.uniform(0, IMAGE - h)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(category_ids[:-1])),  # the last one has no object
                    "bbox": [round(float(v), 2) for v in (x, y, w, h)],
                    "area": round(float(w * h * rng.uniform(0.4, 1)), 2),
                    "iscrowd": int(rng.random() < 0.07),
                }
            )
    return {
        "images": [{"id": i, "file_name": f"{i:06d}.jpg", "width": IMAGE, "height": IMAGE} for i in image_ids],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
    }


def random_detections(
    truth: dict[str, Any], seed: int = 0, noise: float = 0.1, ties: bool = True
) -> list[dict[str, Any]]:
    """Shifted copies of the objects, duplicates, wrong classes, background; scores of two decimals, so some tie."""
    rng = np.random.default_rng(seed)
    categories = [c["id"] for c in truth["categories"]]
    boxes = []
    for a in truth["annotations"]:
        for _ in range(rng.integers(0, 4)):
            x, y, w, h = a["bbox"]
            dx, dy, dw, dh = rng.normal(0, noise, 4)
            category = a["category_id"] if rng.random() < 0.85 else int(rng.choice(categories))
            boxes.append((a["image_id"], category, [x + dx * w, y + dy * h, w * np.exp(dw), h * np.exp(dh)]))
    for image in truth["images"]:
        for _ in range(rng.integers(0, 5)):
            w, h = rng.uniform(5, 200, 2)
            box = [rng.uniform(0, IMAGE - w), rng.uniform(0, IMAGE - h), w, h]
            boxes.append((image["id"], int(rng.choice(categories)), box))
    rng.shuffle(boxes)
    scores = rng.random(len(boxes)).round(2) if ties else (rng.permutation(len(boxes)) + 1) / (len(boxes) + 1)
    return [
        {"image_id": i, "category_id": c, "bbox": [round(float(v), 3) for v in box], "score": float(s)}
        for (i, c, box), s in zip(boxes, scores, strict=True)
    ]


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
