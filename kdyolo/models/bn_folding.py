"""BatchNorm folding: a foreign epsilon folded into the weights, and a check that outputs stay the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def sample_outputs(model: nn.Module, imgsz: int = 64) -> list[Tensor]:
    """A detector's outputs on one seeded image, in float32 and evaluation mode on the CPU.

    Boxes and scores of all places, also of end-to-end heads, whose final output is sorted. The model is the same
    afterwards, in tensors, types, modes and everything that its layers keep.

    Args:
        model: The detector.
        imgsz: Side of the image in pixels, a multiple of 32.
    """
    image = torch.rand(1, 3, imgsz, imgsz, generator=torch.Generator().manual_seed(0))
    with _kept_unchanged(model), torch.no_grad():
        return _raw_outputs(model.float().cpu().eval()(image)[1])


def output_difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """Largest difference of two detectors' :func:`sample_outputs`, relative to the largest of each first output.

    It is infinite where an output is not finite.
    """
    differences = [
        float((x - y).abs().max() / x.abs().max().clamp(min=1e-9)) for x, y in zip(first, second, strict=True)
    ]
    return max(d if math.isfinite(d) else math.inf for d in differences)


@contextmanager
def _kept_unchanged(model: nn.Module) -> Iterator[None]:
    """Give a model back everything that is changed about it in here, without a copy of its tensors.

    A change of type gives a parameter other data and a layer other buffers; a head keeps the anchors of the last image.
    """
    kept = [(m, dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in model.modules()]
    parameters = list(model.parameters())
    data = [(t, t.data) for t in (*parameters, *(p.grad for p in parameters if p.grad is not None))]
    try:
        yield
    finally:
        for tensor, values in data:
            tensor.data = values
        for module, attributes, own_parameters, own_buffers in kept:
            _put_back(vars(module), attributes)
            _put_back(module._parameters, own_parameters)
            _put_back(module._buffers, own_buffers)


def _put_back(current: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Give a dictionary the entries that it had before, in their order; the dictionary itself stays."""
    current.clear()
    current.update(before)


def _raw_outputs(predictions: Any) -> list[Tensor]:
    """All boxes and scores in what a head returns beside its final output."""
    if isinstance(predictions, dict):
        return [t for key, value in predictions.items() if key != "feats" for t in _raw_outputs(value)]
    return [predictions]
