"""COCO segmentations (polygons and RLE masks) → one polygon for each object, as segmentation heads are trained on."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from ultralytics.data.converter import merge_multi_segment

from kdyolo.coco_json.segmentations import decompressed_runs
from kdyolo.data.coco.reading.schema import DetailedAnnotation


def polygon_of(annotation: DetailedAnnotation, width: int, height: int) -> list[float] | None:
    """The polygon of an object.

    Several parts are joined by Ultralytics' own function, so that labels agree with those of its converter.

    Args:
        annotation: Annotation with a segmentation of any kind: polygons, a mask in (compressed) run-length encoding,
            or none.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        Corners x1, y1, x2, y2, … in pixels, not clipped; None where there is no usable polygon.
    """
    segmentation = annotation.segmentation
    if isinstance(segmentation, dict):
        segmentation = _mask_contours(segmentation, width, height)
    elif isinstance(segmentation, list) and segmentation and not isinstance(segmentation[0], list):
        segmentation = [segmentation]  # VIA writes the corners of the only polygon without a list around them
    parts = [part for part in segmentation if _is_polygon(part)] if isinstance(segmentation, list) else []
    if len(parts) > 1:
        return [float(value) for value in np.concatenate(merge_multi_segment(parts)).ravel()]
    return parts[0] if parts else None


def _is_polygon(part: Any) -> bool:
    """At least three corners, all of them finite numbers of a size that can be computed with."""
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(type(value) in (int, float) and abs(value) < 1e9 for value in part)
    )


def _mask_contours(rle: dict[str, Any], width: int, height: int) -> list[list[float]]:
    """The outer contours of a mask [height, width]; none if it is no mask of this image."""
    mask = decode_mask(rle, width, height)
    if mask is None:
        return []
    contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    return [contour.ravel().astype(float).tolist() for contour in contours]


def decode_mask(rle: dict[str, Any], width: int, height: int) -> NDArray[np.uint8] | None:
    """A mask [height, width] of 0 and 1 from COCO's run-length encoding, plain or compressed.

    Decoded here because the libraries' C code trusts the run lengths, and wrong ones end the process.

    Returns:
        The mask, or None if the encoding is no mask of an image of that size.
    """
    counts = rle.get("counts")
    runs = decompressed_runs(counts) if isinstance(counts, str) else counts
    if rle.get("size") != [height, width] or not isinstance(runs, list):
        return None
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != width * height:
        return None
    values = np.arange(len(runs), dtype=np.int64) % 2  # runs of 0 and of 1 alternate, column by column
    return np.ascontiguousarray(np.repeat(values.astype(np.uint8), runs).reshape(width, height).T)
