"""Teachers of timm: local weights are loaded strictly, and what is wrong is one error."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from kdyolo.distillation.teachers.choice import open_teacher
from kdyolo.distillation.teachers.timm_teacher import check_name
from kdyolo.errors import CheckpointError, ConfigError
from kdyolo.runs.model_card import is_non_commercial

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


def test_no_weights_are_drawn_that_a_file_replaces(weights: Path) -> None:
    """Of a large network that takes seconds; the state of the generator tells."""
    before = torch.random.get_rng_state()
    open_teacher(f"{NAME}:{weights}", 64)
    assert torch.equal(torch.random.get_rng_state(), before)
    timm.create_model(NAME)
    assert not torch.equal(torch.random.get_rng_state(), before)


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    with pytest.raises(CheckpointError, match="not the weights of resnet18"):
        open_teacher(f"resnet18:{weights}", 64)


def test_one_missing_tensor_is_enough(weights: Path, tmp_path: Path) -> None:
    tensors = timm.create_model(NAME).state_dict()
    del tensors["conv1.0.weight"]
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing, e\.g\. conv1\.0\.weight"):
        open_teacher(f"{NAME}:{tmp_path / 'less.safetensors'}", 64)


def test_an_unknown_tag_is_refused_before_its_weights_are_looked_for() -> None:
    with pytest.raises(ConfigError, match="knows no weights 'mea' of vit_base_patch16_224"):
        open_teacher("vit_base_patch16_224.mea:nothing.pth", 64)


@pytest.mark.parametrize(
    ("name", "licence", "mean", "says"),
    [
        ("test_vit", "apache-2.0", 0.5, "classifier left out"),
        ("resnet18", None, 0.485, "another is named as resnet18.TAG:FILE: "),
        ("resnet18.fb_swsl_ig1b_ft_in1k", "cc-by-nc-4.0", 0.485, "classifier left out"),
        ("resnet18d", "apache-2.0", 0.485, "mean and std are those of ra2_in1k, another is named"),
        ("res2net50_14w_8s", None, 0.485, "classifier left out"),
    ],
)
def test_a_licence_is_only_told_where_it_is_sure(
    monkeypatch: pytest.MonkeyPatch, name: str, licence: str | None, mean: float, says: str
) -> None:
    """A file has the weights of one tag; timm's tags of a network differ in licence, mean and deviation."""
    loaded = ("1 of 1 tensors from file.pth, 2 of its classifier left out", "0" * 64)
    monkeypatch.setattr("kdyolo.distillation.teachers.timm_teacher._load", lambda *_: loaded)
    teacher = open_teacher(f"{name}:file.pth", 64)
    assert (teacher.licence, teacher.mean[0]) == (licence, mean)
    assert says in teacher.report  # type: ignore[attr-defined]


def test_which_licences_of_timm_forbid_commercial_use() -> None:
    known = {timm.get_pretrained_cfg(name).license for name in timm.list_pretrained()}
    forbid = {licence for licence in known if is_non_commercial(licence)}
    assert forbid == {"cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr", "seer-license"}


def test_an_unknown_name_is_refused_with_one_that_is_known() -> None:
    with pytest.raises(ConfigError, match="vit_small_patch16_dinov3"):
        open_teacher("vit_small_patch16_dinov33", 64)


def test_without_timm_it_is_said_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"needs timm\. Install it with: pip install 'kdyolo\[distill\]'$"):
        check_name(NAME)


def test_weights_without_a_name_are_told_how_to_be_named(weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no backbone tensor found.*\n.*timm are given with its name: NAME:"):
        open_teacher(weights, 64)


def test_a_teacher_without_maps_is_refused() -> None:
    class Nothing:
        name, digest, licence, size, mean, std, maps = "nothing", "", None, 64, (0,), (1,), ()

    with pytest.raises(ConfigError, match="gives no feature maps"):
        open_teacher(Nothing(), 64)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="has no name, digest"):
        open_teacher(torch.nn.Identity(), 64)  # type: ignore[arg-type]
