"""Outlines of objects, polygons or RLE masks: their boxes and areas as pycocotools has them."""

from __future__ import annotations

from typing import Any

from kdyolo.coco_json.values import real_number

_MOST = 1 << 15  # pixels of a side
BoxAndArea = tuple[list[float], float]


def box_and_area(segmentation: Any) -> BoxAndArea | str:
    """Box (left, top, width, height) and area in square pixels of an outline; the reason if it is none.

    Args:
        segmentation: Polygons, each a list x1, y1, x2, y2, …, or one such list; or a mask in run-length encoding,
            compressed or not.
    """
    if isinstance(segmentation, dict):
        return _of_mask(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return "is no outline"
    parts = segmentation if all(isinstance(part, list) for part in segmentation) else [segmentation]
    numbers = [[real_number(value) for value in part] for part in parts]
    if any(len(part) < 6 or len(part) % 2 or None in part for part in numbers):
        return "has a polygon that is not x1, y1, x2, y2, … of three corners or more"
    polygons = [[value for value in part if value is not None] for part in numbers]
    return _of_polygons(polygons)


def _of_polygons(polygons: list[list[float]]) -> BoxAndArea | str:
    from pycocotools import mask

    xs, ys = ([value for part in polygons for value in part[axis::2]] for axis in (0, 1))
    left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    if max(right - left, bottom - top) > _MOST:
        return f"has sides of more than {_MOST:,} pixels"
    moved = [[v - (left // 1 if i % 2 == 0 else top // 1) for i, v in enumerate(part)] for part in polygons]
    size = int(bottom - top // 1) + 2, int(right - left // 1) + 2
    area = float(mask.area(mask.merge(mask.frPyObjects(moved, *size))))
    return [left, top, right - left, bottom - top], area


def _of_mask(rle: dict[str, Any]) -> BoxAndArea | str:
    from pycocotools import mask

    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, list) or len(size) != 2 or any(type(s) is not int or not 0 < s <= _MOST for s in size):
        return "is a damaged RLE: its size is not [height, width]"
    runs = decompressed_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or any(type(run) is not int or run < 0 for run in runs):
        return "is a damaged RLE: its counts are no run lengths"
    if sum(runs) != size[0] * size[1]:
        return f"is a damaged RLE: its runs have {sum(runs):,} pixels, the image {size[0] * size[1]:,}"
    encoded = mask.frPyObjects({"counts": runs, "size": size}, *size)
    return [float(value) for value in mask.toBbox(encoded)], float(mask.area(encoded))


def decompressed_runs(text: str) -> list[int] | None:
    """Run lengths of COCO's compressed form: base 32 digits, as differences to the run before the last.

    Decoded here because the libraries' C code trusts the run lengths, and wrong ones end the process.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 50:
            return None
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        value -= (1 << shift) if digit & 16 else 0
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return None if shift else runs
