"""Segmentations as polygons: equal to Ultralytics' converter and pycocotools; what is unusable becomes the box."""

import numpy as np
import pytest

from kdyolo.data.coco.reading.schema import DetailedAnnotation
from kdyolo.data.coco.segmentation import decode_mask, polygon_of
from kdyolo.data.coco_to_yolo import convert_coco
from tests.builders.coco import box, image, label_rows, make_split


def test_outlines_equal_ultralytics_converter(shared, tmp_path):
    from ultralytics.data.converter import convert_coco as peer

    convert_coco(shared / "coco128", tmp_path / "ours", segments=True)
    peer(str(shared / "coco128/annotations"), str(tmp_path / "peer"), use_segments=True)
    compared = 0
    for split in ("train2017", "val2017"):
        ours = label_rows(tmp_path / "ours/labels" / split)
        for name, rows in label_rows(tmp_path / "peer/labels" / split).items():
            assert len(ours[name]) == len(rows)
            for mine, theirs in zip(ours[name], rows, strict=True):
                assert mine == pytest.approx(np.clip(theirs, None, [100, *[1] * (len(theirs) - 1)]), abs=2e-6)
                compared += 1
    assert compared == 929


def test_segmentation_head_trains_on_outlines(shared, tmp_path):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    yaml = convert_coco(shared / "coco128", tmp_path / "out", segments=True).yaml
    data = check_det_dataset(str(yaml), autodownload=False)
    dataset = YOLODataset(img_path=data["val"], data=data, task="segment", augment=False, imgsz=64)
    assert sum(len(label["segments"]) for label in dataset.labels) == 206
    assert dataset[0]["masks"].shape[0] > 0


MASK = np.zeros((50, 100), dtype=np.uint8)


MASK[10:30, 20:60] = 1


MASK[35:45, 70:80] = 1


def run_lengths(mask):
    from pycocotools import mask as coco

    compressed = coco.encode(np.asfortranarray(mask))
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": [50, 100], "counts": [0, *runs] if flat[0] else runs}, {
        "size": [50, 100],
        "counts": compressed["counts"].decode(),
    }


@pytest.mark.parametrize("seed", range(5))
def test_masks_equal_pycocotools(seed):
    mask = (np.random.default_rng(seed).random((50, 100)) < 0.3 * seed).astype(np.uint8)
    for rle in run_lengths(mask):
        decoded = decode_mask(rle, 100, 50)
        assert decoded is not None
        np.testing.assert_array_equal(decoded, mask)


def test_masks_become_outlines_with_all_parts(tmp_path):
    for rle in run_lengths(MASK):
        outline = polygon_of(DetailedAnnotation(1, 1, 1, (0, 0, 1, 1), 0, None, rle), 100, 50)
        corners = set(zip(outline[::2], outline[1::2], strict=True))
        assert {(20, 10), (59, 10), (59, 29), (20, 29), (70, 35), (79, 35), (79, 44), (70, 44)} == corners


@pytest.mark.parametrize(
    "segmentation",
    [
        *(
            None,
            [],
            [[]],
            [[1, 2, 3, 4]],
            [[1, 2, 3, 4, 5, 6, 7]],
            [["a"] * 6],
            [[1e300] * 6],
            "text",
            5,
            [[[1, 2]] * 3],
        ),
        *({}, {"counts": [1, 2], "size": [50, 100]}, {"counts": [-1, 5001], "size": [50, 100]}),
        *(
            {"counts": "~~~", "size": [50, 100]},
            {"counts": "o", "size": [50, 100]},
            {"counts": [5000], "size": [1, 5000]},
        ),
        *(
            {"counts": [1 << 70], "size": [50, 100]},
            {"counts": "", "size": [50, 100]},
            [[900, 900, 901, 900, 901, 901]],
        ),
    ],
)
def test_unusable_segmentations_become_the_box(tmp_path, segmentation):
    make_split(tmp_path / "root", "train", [image()], [box(segmentation=segmentation)])
    result = convert_coco(tmp_path / "root", tmp_path / "out", segments=True)
    assert label_rows(tmp_path / "out/labels/train") == {"a.txt": [[0, 0.1, 0.2, 0.3, 0.2, 0.3, 0.6, 0.1, 0.6]]}
    assert result.splits["train"].box_fallback == 1
    assert "train: 1 outlines are those of the box, for want of a polygon" in str(result)


def test_outlines_are_clipped(tmp_path):
    make_split(tmp_path / "root", "train", [image()], [box(segmentation=[[-10, 10, 50, 10, 50, 60]])])
    convert_coco(tmp_path / "root", tmp_path / "out", segments=True)
    assert label_rows(tmp_path / "out/labels/train") == {"a.txt": [[0, 0, 0.2, 0.5, 0.2, 0.5, 1]]}
