"""Stretching images to the network's square instead of letterboxing them: what ``keep_ratio=False`` did elsewhere.

Ultralytics letterboxes everywhere but in RT-DETR, whose data set stretches; its box arithmetic already knows one gain
for each axis. So training and evaluation borrow that data set, and only prediction needs a class of its own.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from ultralytics.engine.results import Results
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.utils import ops

from kdyolo.engine.options.train_options import LETTERBOX


def resize_of(model: nn.Module) -> str:
    """How images were resized for a model in training, from what its checkpoint records: letterbox or stretch."""
    record = getattr(model, "yaml", {}).get("kd") or {}
    return str(record.get("settings", {}).get("resize", LETTERBOX))


class StretchPredictor(DetectionPredictor):  # type: ignore[misc]
    """Ultralytics' predictor for models that were trained on stretched images."""

    scale_fill = True

    def construct_result(self, pred: Tensor, img: Tensor, orig_img: Any, img_path: str) -> Results:
        """Predictions [N, 6] (xyxy in pixels of ``img`` [B, 3, H, W], score, class) → results in original pixels."""
        height, width = orig_img.shape[:2]
        gains = (img.shape[2] / height, img.shape[3] / width)
        pred[:, :4] = ops.scale_boxes(img.shape[2:], pred[:, :4], orig_img.shape, ratio_pad=(gains, (0, 0)))
        return Results(orig_img, path=img_path, names=self.model.names, boxes=pred[:, :6])
