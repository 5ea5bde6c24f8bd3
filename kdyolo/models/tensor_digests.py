"""Digests of a model's tensors, by which it is seen later that somebody has put others into it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

Digests = Mapping[str, str]


def tensor_digests(model: nn.Module) -> dict[str, str]:
    """Name → digest of every tensor in a model's state, and of every BatchNorm's epsilon, which is no tensor.

    Shape and type count like the values. Nothing in PyTorch says whether a tensor was written to: ``p.data.copy_``
    leaves its version counter alone, so values are what is compared. 45 MB (yolov8s) take about 50 ms.

    Args:
        model: The model; tensors on a GPU are copied from it.
    """
    digests = {name: _digest(tensor) for name, tensor in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            digests[f"{name}.eps"] = repr(module.eps)
    return digests


def changed_names(before: Digests, after: Digests) -> list[str]:
    """Names whose digests differ, or that only one of the two has."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def short_digest(digests: Digests) -> str:
    """Twelve hexadecimal digits for all tensors together."""
    return hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()[:12]


def _digest(tensor: Tensor) -> str:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # a view also of types NumPy has not
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(values.numpy().data)
    return digest.hexdigest()
