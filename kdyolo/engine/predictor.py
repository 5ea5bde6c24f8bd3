"""Prediction: image files that hurt are refused, and images stretched where a model was trained so.

Stretching to the network's square in place of letterboxing is what ``keep_ratio=False`` did elsewhere. Ultralytics
letterboxes everywhere but in RT-DETR, whose data set stretches; its box arithmetic already knows one gain for each
axis. So training and evaluation borrow that data set, and only prediction needs a class of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
from torch import Tensor, nn
from ultralytics.engine.predictor import BasePredictor
from ultralytics.engine.results import Results
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.utils import ops

from kdyolo.data.image_names import lines_of_list, refuse_odd_images
from kdyolo.engine.foreign_errors import foreign_errors_explained
from kdyolo.engine.options.train_options import LETTERBOX
from kdyolo.errors import CONTROL, ConfigError, DatasetError
from kdyolo.utils.text import quoted

_NO_FOLDER = re.compile(rf"[/\\\\]|{CONTROL.pattern}")
_LONGEST_NAME = 255  # bytes, as file systems have it
_LISTS = (".txt", ".csv", ".streams")  # what Ultralytics takes for one


def resize_of(model: nn.Module) -> str:
    """How images were resized for a model in training, from what its checkpoint records: letterbox or stretch."""
    record = getattr(model, "yaml", {}).get("kd") or {}
    return str(record.get("settings", {}).get("resize", LETTERBOX))


def refuse_odd_sources(predictor: BasePredictor) -> None:
    """Refuse what would hurt before a prediction begins; a callback.

    Raises:
        DatasetError: There are pipes, devices or files of any size among the images; the message names one.
        ConfigError: Crops are to be saved, and the name of a class, which a checkpoint brings, leads elsewhere.
    """
    refuse_odd_images(map(Path, getattr(predictor.dataset, "files", ())))
    if predictor.args.save_crop:
        for name in map(str, dict(predictor.model.names).values()):
            if name in (".", "..") or len(name.encode(errors="replace")) > _LONGEST_NAME or _NO_FOLDER.search(name):
                raise ConfigError(
                    f"save_crop: class {quoted(name)} cannot name a folder, and crops go to one for each class. Leave "
                    "save_crop out."
                )


@contextmanager
def predicting(model: Any, source: Any = None) -> Iterator[None]:
    """Refuse lists that hurt, and raise errors from below as ours, OpenCV's with the name of the image.

    Args:
        model: Ultralytics' model that predicts.
        source: Images, in any form that Ultralytics takes.

    Raises:
        DatasetError: The source is a list of images or streams that is no text or has no end, or OpenCV cannot decode
            an image, e.g. because it claims to be too large.
        KDYOLOError: In place of another error from below that is known.
    """
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() in _LISTS:
        lines_of_list(Path(source))
    with foreign_errors_explained():
        try:
            yield
        except cv2.error as e:
            images: Any = getattr(model.predictor, "dataset", None)
            files = getattr(images, "files", None)
            name = files[min(images.count, len(files) - 1)] if files else "the source"
            raise DatasetError(f"{name}: cannot be decoded: {quoted(e)}. Remove it, or name others.") from e


def streamed(results: Iterable[Any], model: Any) -> Iterator[Any]:
    """Results that are computed while they are asked for, see :func:`predicting`."""
    with predicting(model):
        yield from results


class StretchPredictor(DetectionPredictor):  # type: ignore[misc]
    """Ultralytics' predictor for models that were trained on stretched images."""

    scale_fill = True

    def construct_result(self, pred: Tensor, img: Tensor, orig_img: Any, img_path: str) -> Results:
        """Predictions [N, 6] (xyxy in pixels of ``img`` [B, 3, H, W], score, class) → results in original pixels."""
        height, width = orig_img.shape[:2]
        gains = (img.shape[2] / height, img.shape[3] / width)
        pred[:, :4] = ops.scale_boxes(img.shape[2:], pred[:, :4], orig_img.shape, ratio_pad=(gains, (0, 0)))
        return Results(orig_img, path=img_path, names=self.model.names, boxes=pred[:, :6])
