"""Ultralytics' label cache: written for verified images, whose first scan would only find the same; and read safely."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.data import utils
from ultralytics.data.dataset import DATASET_CACHE_VERSION

from kdyolo.data.coco.split_writer import cache_name
from kdyolo.data.yolo_labels import label_path
from kdyolo.utils.atomic import replacing
from kdyolo.utils.system import memory_bounded
from kdyolo.utils.ultralytics_patches import image_shapes_known

KNOWN_VERSIONS = ("1.0.12",)
_ROOM = 1 << 28  # bytes of memory in which a cache of any size can be read, beside what its size allows
# What the pickle of a cache names: that which puts arrays and bytes together.
NUMPY_PARTS = frozenset(
    {
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
        *(("numpy", name) for name in ("ndarray", "dtype")),
        ("_codecs", "encode"),
    }
)


def write_label_cache(out: Path, split: str, shapes: Mapping[str, tuple[int, int]], classes: int) -> bool:
    """Write the cache that Ultralytics itself would write after scanning a split.

    Args:
        out: Resolved path of the data set's folder, with labels and images in place.
        split: Name of the split.
        shapes: File name → (height, width) in pixels, of every image of the split; all of them verified.
        classes: Number of classes.

    Returns:
        False where the installed Ultralytics uses a cache format that is not known here; it scans then.
    """
    if DATASET_CACHE_VERSION not in KNOWN_VERSIONS:
        return False
    shape_of = {f"{out}/images/{split}/{name}": shape for name, shape in shapes.items()}
    label_of = {f"{out}/images/{split}/{name}": f"{out}/{label_path(split, name)}" for name in shapes}
    images = sorted(shape_of)
    labels, messages, counts = [], [], np.zeros(4, dtype=int)
    with image_shapes_known(shape_of):
        for image in images:
            # prefix, key points, classes, their number and dimensions, single class: as a plain detection run has them
            result = utils.verify_image_label((image, label_of[image], "", False, classes, 0, 0, False))
            _, rows, shape, segments, _, missing, found, empty, corrupt, message = result
            labels.append(
                {
                    "im_file": image,
                    "shape": shape,
                    "cls": rows[:, 0:1],
                    "bboxes": rows[:, 1:],
                    "segments": segments,
                    "keypoints": None,
                    "normalized": True,
                    "bbox_format": "xywh",
                }
            )
            counts += (found, missing, empty, corrupt)
            messages += [message] if message else []
    settings = str((False, classes, None, False))
    content = {
        "labels": labels,
        "hash": utils.get_hash([label_of[image] for image in images] + images + [settings]),
        "results": (*map(int, counts), len(images)),
        "msgs": messages,
        "version": DATASET_CACHE_VERSION,
    }
    target = out / cache_name(split)
    with replacing(target) as partial, partial.open("wb") as file:
        np.save(file, np.array(content, dtype=object))
    return True


class _ArraysOnly(pickle.Unpickler):
    """Unpickles plain containers and arrays; whatever else a pickle names counts as a cache of another version."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NUMPY_PARTS:
            raise AttributeError(f"a label cache holds arrays and plain data only, this one names {module}.{name}")
        return super().find_class(module, name)


def read_label_cache(path: Path) -> dict[str, Any]:
    """The content of a label cache, of which nothing runs; a stranger's data set may bring one.

    Args:
        path: The ``.cache`` file.

    Raises:
        FileNotFoundError: There is none.
        AttributeError: It is no cache of arrays and plain data. Ultralytics then reads the labels anew.
    """
    with Path(path).open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else None
            if read_header is None or read_header(file)[0] != ():
                raise AttributeError("no cache of labels")
            with memory_bounded(_ROOM + 100 * os.fstat(file.fileno()).st_size):  # a number far away in it claims more
                content = _ArraysOnly(file).load()
            content = content.item() if isinstance(content, np.ndarray) else None
        except AttributeError:
            raise
        except Exception as e:  # damaged files raise many types
            raise AttributeError(f"damaged label cache ({type(e).__name__})") from e
    if not isinstance(content, dict):
        raise AttributeError("no cache of labels")
    return content
