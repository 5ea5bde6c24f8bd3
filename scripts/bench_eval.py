"""Scoring 5,000 images of 80 classes, ours beside pycocotools: seconds from the command to the numbers, and the ratio.

Usage:
    python scripts/bench_eval.py
    python scripts/bench_eval.py --images 500 --rounds 1

Both read the same two files, seeded and as large as those of COCO val2017 (with polygons and crowds, up to 100
detections an image), in a process of their own, and take turns, so that a busy machine is busy for both; seconds of
computing are printed beside those of waiting. It ends with an error if one of the twelve
numbers differs by more than 1e-9.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT = 640, 480
OBJECTS, CROWD_SHARE, CORNERS = 7.3, 0.012, 20  # objects an image, as in val2017; corners of a polygon
DETECTIONS = (60, 100)  # an image

# What COCO's documentation tells people to run.
PYCOCOTOOLS = """
import json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
truth = COCO(sys.argv[2])
evaluation = COCOeval(truth, truth.loadRes(sys.argv[1]), "bbox")
evaluation.evaluate()
evaluation.accumulate()
evaluation.summarize()
print(json.dumps(evaluation.stats.tolist()))
"""


def main() -> None:
    """Write the files, run both in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        predictions, annotations = write_files(Path(folder), options.images, options.classes)
        for file in (predictions, annotations):
            print(f"{file.name}: {file.stat().st_size / 1e6:.0f} MB")
        files = [str(predictions), str(annotations)]
        arms = {
            "pycocotools": [sys.executable, "-c", PYCOCOTOOLS, *files],
            "kdyolo score": [sys.executable, "-m", "kdyolo", "score", *files, "--json"],
        }
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        computing: dict[str, list[float]] = {arm: [] for arm in arms}
        values: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for arm, command in arms.items():
                began, computed = time.perf_counter(), computing_of_children()
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
                seconds[arm].append(time.perf_counter() - began)
                computing[arm].append(computing_of_children() - computed)
                values[arm] = twelve(done.stdout)
    report({"seconds": seconds, "seconds of computing": computing}, values)


def computing_of_children() -> float:
    """Seconds that all finished child processes kept a core busy."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def write_files(folder: Path, images: int, classes: int) -> tuple[Path, Path]:
    """Ground truth and detections: shifted copies of the objects with better scores, and background."""
    rng = np.random.default_rng(0)
    truth: dict[str, Any] = {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(1, images + 1)
        ],
        "categories": [{"id": c + 1, "name": f"class {c + 1}"} for c in range(classes)],
        "annotations": [],
    }
    detections: list[dict[str, Any]] = []
    for image in truth["images"]:
        present = rng.choice(classes, size=3, replace=False) + 1
        boxes = [random_box(rng) for _ in range(rng.poisson(OBJECTS))]
        labels = rng.choice(present, size=len(boxes)).tolist()
        for label, box in zip(labels, boxes, strict=True):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": label,
                    "bbox": [round(v, 2) for v in box],
                    "area": round(box[2] * box[3] * 0.6, 2),
                    "iscrowd": int(rng.random() < CROWD_SHARE),
                    "segmentation": [rng.uniform(0, HEIGHT, 2 * CORNERS).round(2).tolist()],
                }
            )
        copies = [i for i in range(len(boxes)) for _ in range(rng.integers(5))]
        found = [(labels[i], shifted(rng, boxes[i]), rng.beta(2, 2)) for i in copies]
        wanted = rng.integers(*DETECTIONS, endpoint=True)
        while len(found) < wanted:
            label = rng.choice(present) if rng.random() < 0.5 else rng.integers(classes) + 1
            found.append((int(label), random_box(rng), rng.beta(1, 8)))
        detections += [
            {
                "image_id": image["id"],
                "file_name": image["file_name"],
                "category_id": label,
                "bbox": [round(v, 3) for v in box],
                "score": round(score, 5),
            }
            for label, box, score in found[: DETECTIONS[1]]
        ]
    objects = len(truth["annotations"])
    print(f"{images:,} images, {classes} classes, {objects:,} objects, {len(detections):,} detections")
    predictions, annotations = folder / "predictions.json", folder / "instances.json"
    predictions.write_text(json.dumps(detections), encoding="utf-8")
    annotations.write_text(json.dumps(truth), encoding="utf-8")
    return predictions, annotations


def random_box(rng: np.random.Generator) -> list[float]:
    """Left, top, width, height inside the image, small ones as often as large ones."""
    w, h = np.exp(rng.uniform(np.log(8), np.log(400), 2))
    return [float(rng.uniform(0, WIDTH - w)), float(rng.uniform(0, HEIGHT - h)), float(w), float(h)]


def shifted(rng: np.random.Generator, box: list[float]) -> list[float]:
    """The box, moved and stretched by about a twelfth of its sides."""
    x, y, w, h = box
    dx, dy, dw, dh = rng.normal(0, 0.08, 4).tolist()
    return [x + dx * w, y + dy * h, w * float(np.exp(dw)), h * float(np.exp(dh))]


def twelve(output: str) -> list[float]:
    """The official numbers in what an arm printed."""
    if output.startswith("{"):
        return list(json.loads(output).values())[:12]
    return list(json.loads(output.splitlines()[-1]))


def report(measured: dict[str, dict[str, list[float]]], values: dict[str, list[float]]) -> None:
    """Print medians, ranges and ratios, and compare the numbers."""
    for what, seconds in measured.items():
        print(what)
        for arm, times in seconds.items():
            print(f"  {arm:<14}{statistics.median(times):>8.2f}     ({min(times):.2f} … {max(times):.2f})")
        ratios = [slow / fast for slow, fast in zip(seconds["pycocotools"], seconds["kdyolo score"], strict=True)]
        print(f"  {'ratio':<14}{statistics.median(ratios):>8.1f} ×   ({min(ratios):.1f} … {max(ratios):.1f})")
    difference = np.abs(np.subtract(values["pycocotools"], values["kdyolo score"])).max()
    print(f"AP {values['kdyolo score'][0]:.6f}; largest difference of the twelve: {difference:.1e}")
    if difference > 1e-9:
        sys.exit("the numbers differ")


if __name__ == "__main__":
    main()
