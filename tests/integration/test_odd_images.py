"""Image files that hurt, in training, evaluation and prediction: one error that names the file."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kdyolo import KDYOLO, convert_coco
from kdyolo.data.synthetic import draw_dataset
from kdyolo.errors import DatasetError, KDYOLOError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="has no pipes in folders")


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def too_large(path: Path) -> None:
    """A PNG that claims more pixels than OpenCV decodes."""
    size = struct.pack(">IIBBBBB", 65_500, 65_500, 8, 2, 0, 0, 0)
    chunks = [b"IHDR" + size, b"IDAT" + zlib.compress(b""), b"IEND"]
    written = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(8 << 30)


@pytest.mark.parametrize("make", [device, pipe, too_large, huge])
@pytest.mark.parametrize(("batch", "stream"), [(1, True), (8, False)])
def test_prediction_names_the_file(
    three: Path, tmp_path: Path, make: Callable[[Path], Any], batch: int, stream: bool
) -> None:
    for number in range(8):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{number}.jpg")
    make(tmp_path / "8.jpg")
    (tmp_path / "0.jpg").rename(tmp_path / "9.jpg")
    with pytest.raises(DatasetError, match=r"\d\.jpg: (expected an image, found|cannot be decoded)"):
        list(KDYOLO(three).predict(str(tmp_path), stream, imgsz=32, device="cpu", batch=batch))


@pytest.mark.parametrize("make", [device, pipe])
def test_training_and_evaluation_do_not_read_what_never_ends(
    train: Callable[..., Any], three: Path, tmp_path: Path, make: Callable[[Path], Any]
) -> None:
    data = convert_coco(draw_dataset(tmp_path / "root", {"train": 4, "val": 4}, imgsz=32), tmp_path / "data").yaml
    for split in ("train", "val"):
        place = sorted((data.parent / "images" / split).iterdir())[0]
        shutil.move(place, tmp_path / f"{split}.jpg")
        make(place)
    calls = (
        lambda: train({"random_init": True}, data=str(data), work_dir=tmp_path / "run"),
        lambda: KDYOLO(three).val(data=str(data), imgsz=32, device="cpu", plots=False, workers=0),
    )
    for call in calls:
        with pytest.raises(KDYOLOError, match="expected an image, found a pipe or a device"):
            call()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".streams"])
@pytest.mark.parametrize("make", [device, pipe, Path.mkdir, lambda path: path.write_bytes(b"\xff\xfea\x00")])
def test_a_list_of_images_that_is_none_is_named(
    three: Path, tmp_path: Path, make: Callable[[Path], Any], suffix: str
) -> None:
    listed = tmp_path / f"list{suffix}"
    make(listed)
    with pytest.raises(DatasetError, match=rf"list\{suffix}: "):
        KDYOLO(three).predict(str(listed), imgsz=32, device="cpu")
