"""Folding: a frozen network without its BatchNorms gives the same maps, and where it would not, it is left as it is."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import nn

from kdyolo.distillation.teachers.folding import folded
from kdyolo.distillation.teachers.timm_teacher import TimmTeacher


def network(name: str) -> FeatureGetterNet:
    """A network whose BatchNorms change what they get, as those of a trained one do."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return FeatureGetterNet(model, out_indices=tuple(range(len(model.feature_info))), prune=False).eval()


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize(
    "name", ["resnet10t", "tf_efficientnet_lite0"]
)  # norms with their activation beside, and in them
def test_a_folded_teacher_gives_the_same_maps(name: str) -> None:
    teacher = TimmTeacher(network(name), {"mean": (0.5,) * 3}, name, 64, "", "")
    images = torch.rand(2, 3, 64, 64)
    before, had = teacher(images), norms(teacher)
    teacher.fold()
    assert norms(teacher) < had / 10
    for found, expected in zip(teacher(images), before, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["ghostnet_050", "vit_tiny_patch16_224.augreg_in21k"])
def test_what_is_wired_otherwise_or_has_nothing_to_fold_is_left(name: str) -> None:
    net = network(name)
    had = norms(net)
    assert folded(net, 224 if name.startswith("vit") else 64) is None
    assert norms(net) == had
