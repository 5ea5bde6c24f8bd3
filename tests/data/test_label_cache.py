"""Label cache of verified images: what Ultralytics itself would write; and that reading one runs nothing."""

import os
import resource
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.data import utils

from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.data.label_cache import read_label_cache
from kdyolo.engine.trainer import KDTrainer
from kdyolo.engine.validator import KDValidator
from tests.builders.coco import box, exif, image, make_split, photo


def test_verified_images_leave_the_cache_that_ultralytics_would_write(shared, tmp_path):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, load_dataset_cache_file

    boxes = [box(1, image_id=0), box(2, image_id=0), box(3, image_id=1, segmentation=[[1, 1, 9, 1, 9, 9]])]
    make_split(tmp_path / "root", "train", [image(i, f"{i}.jpg") for i in range(4)], boxes)
    for i in range(3):
        photo(tmp_path / f"root/images/train/{i}.jpg")
    photo(tmp_path / "root/images/train/3.jpg", (50, 100), exif=exif(6))
    for root in (tmp_path / "root", shared / "coco128"):
        for segments in (False, True):
            out = tmp_path / f"{root.name}-{segments}"
            result = convert_coco(root, out, verify_images=True, segments=segments)
            data = check_det_dataset(str(result.yaml), autodownload=False)
            for role, split in result.roles.items():
                path = out / f"labels/{split}.cache"
                ours = load_dataset_cache_file(path)
                path.unlink()
                YOLODataset(img_path=data[role], data=data, augment=False, imgsz=64)
                np.testing.assert_equal(ours, load_dataset_cache_file(path))


def test_a_new_cache_format_is_left_alone(tmp_path, monkeypatch):
    from kdyolo.data import label_cache

    monkeypatch.setattr(label_cache, "DATASET_CACHE_VERSION", "9.9.9")
    make_split(tmp_path / "root", "train")
    photo(tmp_path / "root/images/train/a.jpg")
    result = convert_coco(tmp_path / "root", tmp_path / "out", verify_images=True)
    assert "train: no label cache was written" in result.warnings[1]
    assert not (tmp_path / "out/labels/train.cache").exists()


# ---- reading ---------------------------------------------------------------------------------------------------------


class Runs:
    """Unpickling it creates the folder ``ran``."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


class Model(nn.Module):
    stride = torch.tensor([32.0])


def test_what_ultralytics_has_written_is_read(tmp_path):
    labels = [{"im_file": "a.png", "shape": (4, 5), "cls": np.zeros((2, 1), np.float32), "segments": [np.ones((3, 2))]}]
    written = {"labels": labels, "hash": "x", "results": (1, 0, np.int64(0), 0, 1), "msgs": [], "version": "1.0.12"}
    utils.save_dataset_cache_file("", tmp_path / "labels.cache", dict(written), "1.0.12")
    found = read_label_cache(tmp_path / "labels.cache")
    assert found.keys() == written.keys()
    assert np.array_equal(found["labels"][0]["segments"][0], labels[0]["segments"][0])
    assert found["results"] == written["results"]


@pytest.mark.parametrize("content", [{"labels": Runs()}, Runs(), 5, "text"])
def test_a_cache_with_anything_but_arrays_counts_as_none(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "labels.cache").open("wb") as file:
        np.save(file, np.array(content, dtype=object))
    with pytest.raises(AttributeError):
        read_label_cache(tmp_path / "labels.cache")
    (tmp_path / "labels.cache").write_bytes(b"\x93NUMPY\x01\x00")
    with pytest.raises(AttributeError):
        read_label_cache(tmp_path / "labels.cache")
    with pytest.raises(FileNotFoundError):
        read_label_cache(tmp_path / "none.cache")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="bounds are Linux's")
@pytest.mark.parametrize("code", [b"r\xff\xff\xff\x7f", b"p2147483647\n"], ids=["binary", "text"])
def test_a_number_far_away_claims_no_memory(tmp_path, code):
    """Python's reader makes room for every number before it: for this one, 32 GB."""
    path, limits = tmp_path / "labels.cache", resource.getrlimit(resource.RLIMIT_AS)
    np.save(path.with_suffix(".npy"), np.array({"labels": []}, dtype=object))
    head, protocol, _ = path.with_suffix(".npy").read_bytes().partition(b"\x80\x04")
    assert protocol
    path.write_bytes(head + b"\x80\x04N" + code + b".")
    with pytest.raises(AttributeError, match=r"damaged label cache \(MemoryError\)"):
        read_label_cache(path)
    assert resource.getrlimit(resource.RLIMIT_AS) == limits
    assert read_label_cache(path.with_suffix(".npy")) == {"labels": []}


def test_a_data_set_with_code_in_its_cache_is_scanned_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    data, args = {"names": {0: "a"}, "nc": 1, "channels": 3}, get_cfg(overrides={"imgsz": 32})
    validator = SimpleNamespace(resize="letterbox", args=args, stride=32, data=data)
    trainer = SimpleNamespace(settings=validator, args=args, model=Model(), data=data)
    for build, owner in ((KDValidator.build_dataset, validator), (KDTrainer.build_dataset, trainer)):
        with (tmp_path / "labels.cache").open("wb") as file:
            np.save(file, np.array({"labels": Runs()}, dtype=object))
        dataset = build(owner, str(tmp_path / "images"), batch=1)
        assert [label["cls"].tolist() for label in dataset.labels] == [[[0.0]]]
    assert not (tmp_path / "ran").exists()
