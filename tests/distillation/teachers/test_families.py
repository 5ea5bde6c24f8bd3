"""Families of teachers, with random weights: in timm's files and in their authors', at another size than trained at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from kdyolo.distillation.teachers.choice import open_teacher
from kdyolo.distillation.teachers.timm_teacher import _NothingDrawn
from kdyolo.errors import CheckpointError
from kdyolo.models.backbone import DistilledBackbone

pytestmark = pytest.mark.slow  # timm has no small ones

FAMILIES = (
    "sam2_hiera_tiny",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "convnext_tiny.dinov3_lvd1689m",
    "vit_base_patch16_radio_v3",
    "vit_pe_spatial_tiny_patch16_512",
    "vit_base_patch16_siglip_gap_224.v2_webli",
)
Tensors = dict[str, Tensor]


def random_tensors(name: str) -> Tensors:
    """Tensors of a network of timm, made for the size that it was trained with."""
    with _NothingDrawn():  # timm's own way of drawing them takes most of the time
        network = timm.create_model(name.partition(".")[0], num_classes=0)
    drawn = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.05
    tensors = {key: value.clone().contiguous() for key, value in network.state_dict().items()}
    for key, parameter in network.named_parameters():
        count = parameter.numel()
        tensors[key] = drawn.repeat(-(-count // len(drawn)))[:count].view(parameter.shape).clone()
    return tensors


def as_timm_loads(name: str, file: Path, size: int) -> torch.nn.Module:
    """The network with a local file, loaded by timm alone."""
    how: dict[str, Any] = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(file)}, "num_classes": 0}
    if name.startswith("vit"):
        how["img_size"] = size
    with _NothingDrawn():
        return timm.create_model(name, **how).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_of_timm_gives_the_maps_of_timm(name: str, tmp_path: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    save_file(random_tensors(name), file)
    teacher = open_teacher(f"{name}:{file}", 60)
    assert teacher.size in (64, 70)  # of strides 14, 16 and 32
    assert teacher.licence
    images = torch.rand(1, 3, teacher.size, teacher.size)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (teacher.mean, teacher.std))
    with torch.inference_mode():
        maps = teacher(images)
        network = as_timm_loads(name, file, teacher.size)
        expected = network.forward_intermediates((images - mean) / std, intermediates_only=True)
    assert len(maps) == len(expected) == len(teacher.maps)
    for found, wanted, described in zip(maps, expected, teacher.maps, strict=True):
        side = teacher.size // described.stride
        assert found.shape == (1, described.channels, side, side)
        torch.testing.assert_close(found, wanted)


def of_sam2(own: Tensors) -> dict[str, object]:
    """Trunk of an image encoder, beside a decoder that is no part of the teacher."""
    renamed = {k.replace("mlp.fc1", "mlp.layers.0").replace("mlp.fc2", "mlp.layers.1"): v for k, v in own.items()}
    trunk = {f"image_encoder.trunk.{key}": value for key, value in renamed.items()}
    return {"model": trunk | {"sam_mask_decoder.iou_token.weight": torch.zeros(1, 8)}}


def of_dinov2(own: Tensors) -> dict[str, object]:
    return {**own, "mask_token": torch.zeros(1, own["cls_token"].shape[-1])}


def of_dinov2_with_registers(own: Tensors) -> dict[str, object]:
    """The author's embedding of positions has a place for the class token, which timm adds to the token."""
    rest = {key: value for key, value in own.items() if key not in ("reg_token", "pos_embed")}
    positions = torch.cat([torch.zeros_like(own["cls_token"]), own["pos_embed"]], 1)
    return {**of_dinov2(rest), "register_tokens": own["reg_token"], "pos_embed": positions}


def of_dinov3(own: Tensors) -> dict[str, object]:
    renamed: dict[str, object] = {}
    for key, value in own.items():
        new = key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma").replace("reg_token", "storage_tokens")
        renamed[new] = value
        if key.endswith("qkv.weight"):  # zero in every published network of this size
            renamed[new.replace("weight", "bias")] = torch.zeros(len(value))
            renamed[new.replace("weight", "bias_mask")] = torch.zeros(len(value))
    return {**renamed, "mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}


def of_dino(own: Tensors) -> dict[str, object]:
    """A whole checkpoint of the training: the teacher's network is the one that counts."""
    inside = {f"module.backbone.{key}": value for key, value in own.items()}
    student = {key: torch.zeros_like(value) for key, value in inside.items()}
    return {"student": student, "teacher": {**inside, "module.head.mlp.0.weight": torch.zeros(4, 4)}, "epoch": 3}


ORIGINALS = {
    "sam2_hiera_tiny": of_sam2,
    "vit_small_patch14_dinov2": of_dinov2,
    "vit_small_patch14_reg4_dinov2": of_dinov2_with_registers,
    "vit_small_patch16_dinov3": of_dinov3,
    "vit_small_patch16_224": of_dino,
}


@pytest.mark.parametrize(("name", "written"), ORIGINALS.items(), ids=ORIGINALS)
def test_the_authors_file_gives_the_same_maps(
    name: str, written: Callable[[Tensors], dict[str, object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = random_tensors(name)
    save_file(own, tmp_path / "timm.safetensors")
    torch.save(written(own), tmp_path / "original.pt")
    images = torch.rand(1, 3, 70 if "14" in name else 64, 70 if "14" in name else 64)
    found = open_teacher(f"{name}:{tmp_path / 'original.pt'}", images.shape[-1])
    with torch.inference_mode():
        maps, expected = found(images), open_teacher(f"{name}:{tmp_path / 'timm.safetensors'}", found.size)(images)
    for one, other in zip(maps, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert not capsys.readouterr().out


def test_the_backbone_of_an_ultralytics_checkpoint_is_a_teacher(tmp_path: Path) -> None:
    from ultralytics import YOLO

    stock = YOLO("yolov8n.yaml")
    stock.save(tmp_path / "yolov8n.pt")
    teacher = open_teacher(tmp_path / "yolov8n.pt", 64)
    assert [described.stride for described in teacher.maps][-3:] == [8, 16, 32]
    backbone = DistilledBackbone("yolov8n").eval()
    stock_tensors = stock.model.state_dict().values()  # the backbone's come first
    backbone.load_state_dict(dict(zip(backbone.state_dict(), stock_tensors, strict=False)))
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        for found, expected in zip(teacher(images)[-3:], list(backbone(images))[-3:], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)  # a finished checkpoint is in fp16


def test_a_larger_network_of_the_same_family_is_refused(tmp_path: Path) -> None:
    save_file(random_tensors("vit_tiny_patch16_224"), tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="not the weights of vit_small_patch14_dinov2"):
        open_teacher(f"vit_small_patch14_dinov2:{tmp_path / 'tiny.safetensors'}", 70)
