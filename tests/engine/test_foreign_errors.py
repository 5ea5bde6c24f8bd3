"""Errors of Ultralytics and PyTorch, raised by them as far as they can be here, in our words."""

from __future__ import annotations

import pytest
import torch
from ultralytics.data.loaders import LoadImagesAndVideos

from kdyolo.engine.foreign_errors import explained, foreign_errors_explained
from kdyolo.errors import CheckpointError, ConfigError, DatasetError

ADDRESS = "https://github.com/ultralytics/assets/releases/download/v8.4.0/yolov8s.pt"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ConnectionError(f"❌  Download failure for {ADDRESS}. Environment may be offline."), CheckpointError,
         ["yolov8s.pt: no such file here", "no network", "give its path"]),
        (ConnectionError("❌  Download failure for http://a.b/c.jpg. Retry limit reached. x"), DatasetError,
         ["http://a.b/c.jpg: it cannot be fetched"]),
        (RuntimeError("Found no NVIDIA driver on your system. Please check"), ConfigError, ["no GPU", "--device cpu"]),
        (AssertionError("Torch not compiled with CUDA enabled"), ConfigError, ["no GPU"]),
    ],
)  # fmt: skip
def test_in_our_words(error, kind, words):
    found = explained(error)
    assert type(found) is kind
    assert all(word in str(found) for word in words), found


def test_sources_that_are_not_there(tmp_path):
    (tmp_path / "empty").mkdir()
    for source, words in (("nowhere.jpg", "nowhere.jpg: no such file"), ("empty", "empty: there are no images")):
        with pytest.raises(DatasetError, match=words), foreign_errors_explained():
            LoadImagesAndVideos(str(tmp_path / source))


def test_images_of_other_channels():
    with (
        pytest.raises(DatasetError, match=r"takes images of 3 channels, and got such of 4"),
        foreign_errors_explained(),
    ):
        torch.nn.Conv2d(3, 8, 1)(torch.zeros(1, 4, 8, 8))


def test_others_pass():
    assert explained(ValueError("no seeds here")) is None
    with pytest.raises(ValueError, match="no seeds"), foreign_errors_explained():
        raise ValueError("no seeds here")
    with pytest.raises(ConfigError, match="mine"), foreign_errors_explained():
        raise ConfigError("mine")
