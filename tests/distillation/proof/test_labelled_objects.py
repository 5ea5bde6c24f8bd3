"""Labelled objects: an image that cannot be read is one error that names it, whenever that is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdyolo.distillation.proof.labelled_objects import LabelledObjects, objects_beside
from kdyolo.errors import DatasetError
from tests.builders.distillation import write_images


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with a label beside it, where Ultralytics looks for one."""
    folder = write_images(tmp_path / "images", 1)
    label = tmp_path / "labels" / "000.txt"
    label.parent.mkdir()
    label.write_text("0 0.5 0.5 0.9 0.9\n")
    return folder / "000.png"


def test_an_image_of_unknown_size_is_named(image: Path) -> None:
    assert objects_beside([image], 64, "letterbox") is None, "one object is too few, but no error"
    image.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"000\.png: not an image that can be read \(.+\)\.$"):
        objects_beside([image], 64, "letterbox")


def test_an_image_that_is_damaged_meanwhile_is_named(image: Path) -> None:
    found = LabelledObjects((image,), ((),), {})
    assert [tuple(images.shape) for images, _ in found.batches(64, "letterbox", 1)] == [(1, 3, 64, 64)]
    image.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"000\.png: not an image that can be read\.$"):
        list(found.batches(64, "letterbox", 1))
