"""BatchNorm epsilon folded into the weights, and whether two detectors compute the same."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import DetectionModel

from kdyolo.models.arch import ULTRALYTICS_BN_EPS


def fold_bn_eps(model: DetectionModel) -> None:
    """Give a stock-layout model Ultralytics' BatchNorm epsilon everywhere without changing what it computes.

    A stock rebuild from the YAML (fine-tuning does that) always uses eps 1e-3. For a BatchNorm trained with another
    one, γ·√((σ²+1e-3)/(σ²+eps)) with 1e-3 equals γ with eps. These few scales are kept in float32, so that nothing is
    lost to a second rounding; everything else stays as it is.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.eps != ULTRALYTICS_BN_EPS:
            assert module.running_var is not None
            variance = module.running_var.double()
            factor = ((variance + ULTRALYTICS_BN_EPS) / (variance + module.eps)).sqrt()
            folded = (module.weight.detach().double() * factor).float()
            module.weight = nn.Parameter(folded, requires_grad=module.weight.requires_grad)
            module.eps = ULTRALYTICS_BN_EPS
    if "kd" in model.yaml:
        model.yaml["kd"]["bn_eps"] = ULTRALYTICS_BN_EPS


def largest_difference(a: nn.Module, b: nn.Module, imgsz: int = 64) -> float:
    """Largest difference of two detectors' outputs on one seeded image, relative to the largest output.

    Compared are boxes and scores of all places, also of end-to-end heads, whose final output is sorted.
    """
    image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = (_raw_outputs(deepcopy(m).float().cpu().eval()(image)[1]) for m in (a, b))
    differences = [
        float((x - y).abs().max() / x.abs().max().clamp(min=1e-9)) for x, y in zip(first, second, strict=True)
    ]
    return max(d if math.isfinite(d) else math.inf for d in differences)


def _raw_outputs(predictions: Any) -> list[Tensor]:
    """All boxes and scores in what a head returns beside its final output."""
    if isinstance(predictions, dict):
        return [t for key, value in predictions.items() if key != "feats" for t in _raw_outputs(value)]
    return [predictions]
