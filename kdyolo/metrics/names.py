"""Names of the twelve official COCO metrics, of their columns in results.csv, and of the evaluators. No NumPy."""

from __future__ import annotations

from typing import Literal, get_args

Evaluator = Literal["faster-coco-eval", "pycocotools"]
EVALUATORS: tuple[str, ...] = get_args(Evaluator)
DEFAULT_EVALUATOR: Evaluator = "faster-coco-eval"

# Attribute, official name, and what pycocotools prints for it: IoU thresholds, area, detections per image and category.
METRICS: tuple[tuple[str, str, str, str, int], ...] = (
    ("ap", "AP", "0.50:0.95", "all", 100),
    ("ap50", "AP50", "0.50", "all", 100),
    ("ap75", "AP75", "0.75", "all", 100),
    ("ap_small", "AP_small", "0.50:0.95", "small", 100),
    ("ap_medium", "AP_medium", "0.50:0.95", "medium", 100),
    ("ap_large", "AP_large", "0.50:0.95", "large", 100),
    ("ar1", "AR1", "0.50:0.95", "all", 1),
    ("ar10", "AR10", "0.50:0.95", "all", 10),
    ("ar100", "AR100", "0.50:0.95", "all", 100),
    ("ar_small", "AR_small", "0.50:0.95", "small", 100),
    ("ar_medium", "AR_medium", "0.50:0.95", "medium", 100),
    ("ar_large", "AR_large", "0.50:0.95", "large", 100),
)

NAMES = tuple(metric[1] for metric in METRICS)
COLUMNS = tuple(f"coco/{name}" for name in NAMES)
