"""A model made to agree with its freeze schedule: layers, optimizer groups, patience."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from kdyolo.models.freeze_schedule import HEAD, FreezeSchedule


def apply_schedule(parts: Mapping[str, list[nn.Module]], schedule: FreezeSchedule, epoch: int) -> None:
    """Freeze and thaw the layers of a backbone as the schedule has it in an epoch (from 0). Idempotent.

    A frozen layer has no gradients and is in eval mode, so that no statistic moves, whatever its kind. Only the
    backbone's layers are touched; in particular the head's ``.dfl`` stays as Ultralytics left it.

    Args:
        parts: Part → its layers.
        schedule: The schedule.
        epoch: Epoch, from 0.
    """
    frozen = schedule.frozen_parts(epoch)
    for part, layers in parts.items():
        for layer in layers:
            layer.requires_grad_(part not in frozen)
            layer.train(part not in frozen)
            if schedule.freeze_bn == "always":
                for module in layer.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()


def split_param_groups(
    groups: list[dict[str, Any]], parts: Mapping[str, list[nn.Module]], schedule: FreezeSchedule
) -> list[dict[str, Any]]:
    """Optimizer groups split so that each holds parameters of one learning rate only; ``"part"`` says whose.

    Args:
        groups: Param groups of an optimizer that has not made a step.
        parts: Part → its layers.
        schedule: The schedule.
    """
    names = schedule.groups()
    owner = {id(p): names[part] for part, layers in parts.items() for layer in layers for p in layer.parameters()}
    out = []
    for group in groups:
        by_part: dict[str, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_part.setdefault(owner.get(id(parameter), HEAD), []).append(parameter)
        out += [{**group, "params": parameters, "part": part} for part, parameters in by_part.items()]
    return out
