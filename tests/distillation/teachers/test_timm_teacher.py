"""Teachers of timm: local weights are loaded strictly, and what is wrong is one error."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdyolo.distillation.teachers.choice import open_teacher
from kdyolo.errors import CheckpointError, ConfigError

NAME = "resnet10t"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "resnet.safetensors"
    save_file({k: v.contiguous() for k, v in timm.create_model(NAME).state_dict().items()}, path)
    return path


def test_maps_are_those_of_timm_on_normalised_images(weights: Path) -> None:
    teacher = open_teacher(f"{NAME}:{weights}", 64)
    reference = timm.create_model(NAME, features_only=True).eval()
    torch.manual_seed(0)
    whole = timm.create_model(NAME).eval()
    reference.load_state_dict(whole.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (teacher.mean, teacher.std))
    for found, expected, described in zip(teacher(images), reference((images - mean) / std), teacher.maps, strict=True):
        torch.testing.assert_close(found, expected)
        assert found.shape == (2, described.channels, 64 // described.stride, 64 // described.stride)


def test_the_size_is_a_multiple_of_the_strides(weights: Path) -> None:
    assert open_teacher(f"{NAME}:{weights}", 100).size == 128


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    with pytest.raises(CheckpointError, match="not the weights of resnet18"):
        open_teacher(f"resnet18:{weights}", 64)


def test_one_missing_tensor_is_enough(weights: Path, tmp_path: Path) -> None:
    tensors = timm.create_model(NAME).state_dict()
    del tensors["conv1.0.weight"]
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing, e\.g\. conv1\.0\.weight"):
        open_teacher(f"{NAME}:{tmp_path / 'less.safetensors'}", 64)


def test_an_unknown_name_is_refused_with_one_that_is_known() -> None:
    with pytest.raises(ConfigError, match="vit_small_patch16_dinov3"):
        open_teacher("vit_small_patch16_dinov33", 64)


def test_a_teacher_without_maps_is_refused() -> None:
    class Nothing:
        name, digest, licence, size, mean, std, maps = "nothing", "", None, 64, (0,), (1,), ()

    with pytest.raises(ConfigError, match="gives no feature maps"):
        open_teacher(Nothing(), 64)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no name, digest"):
        open_teacher(torch.nn.Identity(), 64)  # type: ignore[arg-type]
