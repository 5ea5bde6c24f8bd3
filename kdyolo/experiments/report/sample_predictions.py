"""Sample predictions of runs that keep none: their ``best.pt`` on a few images."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdyolo.errors import KDYOLOError
from kdyolo.metrics.ground_truth import Detection
from kdyolo.runs.files import BEST_NAME, weights_file
from kdyolo.runs.history import Run

SHOWN_SCORE = 0.25  # what a detector usually shows; lower ones are for the precision-recall curve


class NoPredictions(KDYOLOError):
    """A run keeps no predictions and none can be made; the report says why and shows the other arms."""


def predict_samples(run: Run, files: Mapping[int, Path], category_ids: Sequence[int]) -> list[Detection]:
    """Predict on images with a run's ``best.pt``, resized as in its training; on the CPU, as they are few.

    Args:
        run: The trained run.
        files: Image id → image file.
        category_ids: Class index → category id.

    Returns:
        Detections with scores from :data:`SHOWN_SCORE` on, in pixels of the original images; one class for each
        box, where an evaluation also keeps less likely ones.

    Raises:
        NoPredictions: The run is not finished, or its checkpoint cannot be used.
    """
    checkpoint = weights_file(run.path, BEST_NAME)
    if not run.trained:
        raise NoPredictions(f"{run.path} is not finished.")
    if not checkpoint.is_file():
        raise NoPredictions(f"{checkpoint}: no such file.")
    from kdyolo.engine.model import KDYOLO  # torch and Ultralytics

    options: dict[str, Any] = {"imgsz": run.args.get("imgsz"), "conf": SHOWN_SCORE, "device": "cpu", "verbose": False}
    try:
        results = KDYOLO(str(checkpoint)).predict([str(file) for file in files.values()], **options)
    except (KDYOLOError, OSError, EOFError, RuntimeError, ImportError, pickle.UnpicklingError) as error:
        raise NoPredictions(f"{checkpoint} cannot be used: {error}") from error
    found: list[Detection] = []
    for image, result in zip(files, results, strict=True):
        for left, top, right, bottom, score, index in result.boxes.data.tolist():
            if index >= len(category_ids):
                raise NoPredictions(f"{checkpoint} has more classes than the data set, which has {len(category_ids)}.")
            box = [left, top, right - left, bottom - top]
            found.append({"image_id": image, "category_id": category_ids[int(index)], "bbox": box, "score": score})
    return found
