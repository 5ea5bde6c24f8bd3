"""Our analysis of errors beside that of TIDE's authors, on the same random files.

Usage:
    pip install tidecv      # last released in 2020, so no test depends on it
    python scripts/compare_tide.py

Every category has objects and no image more than 100 detections, since TIDE counts empty categories and limits
detections per image, where COCO leaves the first out and limits per image and category. TIDE's 101 recalls are x / 100,
COCO's and ours are linspace(0, 1, 101), which differ in the last digit: here ours are TIDE's. It ends with an error
if AP50 or a gain differs by more than 1e-9.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "tests"))  # for the random files

import numpy as np  # noqa: E402
from coco_files import random_detections, random_ground_truth, write_json  # noqa: E402
from tidecv import TIDE, Data  # noqa: E402

from kdyolo.metrics import tide  # noqa: E402
from kdyolo.metrics.coco_files import read_ground_truth  # noqa: E402
from kdyolo.metrics.ground_truth import GroundTruth  # noqa: E402
from kdyolo.metrics.tide import ERRORS, find_errors  # noqa: E402

NAMES = dict(zip(ERRORS, ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), strict=True))


def main() -> None:
    """Compare on several seeds."""
    tide._RECALLS = np.arange(101) / 100
    worst = 0.0
    for seed in range(10):
        content = random_ground_truth(seed, images=60)
        content["categories"].pop()  # the one without objects
        with tempfile.TemporaryDirectory() as folder:
            truth = read_ground_truth(write_json(Path(folder) / "ann.json", content))
        detections = random_detections(content, seed, noise=0.3, ties=False)
        ours, theirs = find_errors(truth, detections), reference(truth, detections)
        pairs = {"AP50": (ours.ap50, theirs["AP50"])}
        pairs |= {NAMES[kind]: (ours.loss[kind], theirs[NAMES[kind]]) for kind in ERRORS}
        pairs |= {"FalsePos": (ours.false_positives, theirs["FalsePos"])}
        pairs |= {"FalseNeg": (ours.false_negatives, theirs["FalseNeg"])}
        print(f"seed {seed}: " + "  ".join(f"{name} {a:.4f} {b:.4f}" for name, (a, b) in pairs.items()))
        worst = max(worst, *(abs(a - b) for a, b in pairs.values()))
    print(f"largest difference: {worst:.1e}")
    if worst > 1e-9:
        sys.exit("the analyses differ")


def reference(truth: GroundTruth, detections: list[dict[str, object]]) -> dict[str, float]:
    """TIDE's own numbers, in 0–1."""
    objects, found = Data("objects"), Data("found")
    for image_id, name in truth.images.items():
        objects.add_image(image_id, name)
    for a in truth.annotations:
        add = objects.add_ignore_region if a["iscrowd"] else objects.add_ground_truth
        add(a["image_id"], a["category_id"], a["bbox"])
    for d in detections:
        found.add_detection(d["image_id"], d["category_id"], d["score"], d["bbox"])
    program = TIDE()
    run = program.evaluate(objects, found, name="run")
    errors = program.get_all_errors()
    return {"AP50": run.ap / 100, **{k: v / 100 for part in errors.values() for k, v in part["run"].items()}}


if __name__ == "__main__":
    main()
