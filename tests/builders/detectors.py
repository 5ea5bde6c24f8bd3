"""Detectors with random weights, and what they compute."""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from kdyolo.models.detector import KDDetectionModel


def lively(model: nn.Module) -> nn.Module:
    """Random BatchNorm scales, shifts and statistics, some variances small, so that a wrong layer or epsilon shows."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.2, generator=generator)
            nn.init.normal_(module.running_mean, 0.0, 0.1, generator=generator)
            nn.init.uniform_(module.running_var, 0.005, 1.0, generator=generator)
    return model.eval()


@lru_cache(maxsize=8)
def _built(cls: type[DetectionModel], name: str, nc: int, bn_eps: float | None) -> DetectionModel:
    torch.manual_seed(0)
    more = {"bn_eps": bn_eps} if bn_eps is not None else {}
    model: DetectionModel = lively(cls(name, nc=nc, verbose=False, **more))
    return model


def kd(name: str = "kdyolov8n.yaml", nc: int = 80, bn_eps: float | None = None) -> KDDetectionModel:
    """A detector in the kdyolo layout, the caller's own."""
    model: KDDetectionModel = copy.deepcopy(_built(KDDetectionModel, name, nc, bn_eps))
    return model


def stock(name: str = "yolov8n.yaml", nc: int = 80) -> DetectionModel:
    """A stock detector, the caller's own."""
    return copy.deepcopy(_built(DetectionModel, name, nc, None))


def image(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    """Boxes and scores of every anchor for two images."""
    prediction: Tensor = model.eval()(image())[0]
    return prediction


def difference(a: nn.Module, b: nn.Module) -> float:
    """Largest difference of two models' outputs, as a fraction of the largest output."""
    first, second = outputs(a), outputs(b)
    assert first.shape == second.shape
    return float((first - second).abs().max() / first.abs().max())


def tensors_equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def foreign_classes(model: nn.Module) -> set[str]:
    """Classes in a model that need more than Ultralytics and torch to be unpickled."""
    classes = {f"{type(m).__module__}.{type(m).__qualname__}" for m in model.modules()}
    return {name for name in classes if not name.startswith(("ultralytics.", "torch."))}


def rebuilt_by_ultralytics(flat: DetectionModel) -> DetectionModel:
    model = DetectionModel(copy.deepcopy(flat.yaml), verbose=False)
    model.load_state_dict(flat.state_dict())
    return model
