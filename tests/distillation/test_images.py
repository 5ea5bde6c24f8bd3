"""Images to distil on: what cannot be decoded is found before anything runs, and a set of images is known again."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from kdyolo.distillation.images import ImageSplit, split_images
from kdyolo.distillation.views import ViewOptions, ViewSet
from kdyolo.errors import DatasetError
from tests.builders.distillation import write_images


def test_what_opens_but_cannot_be_decoded_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, 30)
    Image.fromarray(np.zeros((16, 16), np.float32)).save(tmp_path / "depth.tif")
    found = split_images([tmp_path], 4, 0, 4)
    assert found.unreadable == {tmp_path / "depth.tif": "OpenCV cannot decode it"}
    cv2.imwrite(str(tmp_path / "cut.bmp"), np.zeros((64, 64, 3), np.uint8))
    assert split_images([tmp_path], 4, 0, 4).unreadable == found.unreadable
    (tmp_path / "cut.bmp").write_bytes((tmp_path / "cut.bmp").read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"2 of 32 images cannot be read.*cut\.bmp: OpenCV cannot decode it"):
        split_images([tmp_path], 4, 0, 4)
    assert "".join(capfd.readouterr()) == ""


def test_a_dataset_yaml_is_no_list_of_images(tmp_path: Path) -> None:
    (tmp_path / "coco.yaml").write_text("path: .\ntrain: images\n")
    with pytest.raises(DatasetError, match=r"found a YAML file\. Give the folder of its images"):
        split_images([tmp_path / "coco.yaml"], 4, 0, 4)


def test_images_are_known_by_name_and_size_wherever_they_lie(tmp_path: Path) -> None:
    here, there = (write_images(tmp_path / name, 6) for name in ("here", "there"))

    def digest(folder: Path) -> str:
        files = sorted(folder.iterdir())
        return ImageSplit(tuple(files[:4]), tuple(files[4:]), {}).digest

    assert digest(here) == digest(there)
    (there / "000.png").write_bytes((there / "000.png").read_bytes() + b" ")
    assert digest(here) != digest(there)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "16 bits", "turned"])
def test_an_image_of_any_mode_is_seen_in_colour_as_it_is_shown(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray(np.tile(np.linspace(0, 255, 60).astype(np.uint8), (40, 1)))
    file = tmp_path / ("a.jpg" if mode in ("CMYK", "turned") else "a.png")
    if mode == "16 bits":
        cv2.imwrite(str(file), np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        grey.convert("RGB").save(file, exif=exif, quality=100)
    else:
        grey.convert(mode).save(file)
    canvas, _, (left, top, width, height), *_ = ViewSet([file], ViewOptions(60, 60, "letterbox"), 0)[0]
    assert (width, height) == ((40, 60) if mode == "turned" else (60, 40))
    seen = canvas[top : top + height, left : left + width].astype(float)
    expected = np.asarray(grey.rotate(-90, expand=True) if mode == "turned" else grey, float)[..., None]
    assert np.abs(seen - expected).mean() < 4
    assert np.ptp(seen, axis=2).max() <= 3
