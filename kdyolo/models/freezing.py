"""Freeze schedule applied to a backbone: frozen layers, their tensors bit for bit, optimizer groups by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.freeze_schedule import HEAD, FreezeSchedule


class BackboneFreezer:
    """Freezes and unfreezes a backbone as a schedule has it, and knows what its frozen tensors must be.

    Args:
        schedule: Freeze schedule of the run.

    Attributes:
        frozen_tensors: Tensors of a backbone that starts frozen, on the CPU, as they were when training started; a
            resumed run takes them from its state. Empty if nothing is frozen in the first epoch.
    """

    def __init__(self, schedule: FreezeSchedule) -> None:
        self.schedule = schedule
        self.frozen_tensors: dict[str, Tensor] = {}

    def remember(self, backbone: DistilledBackbone) -> None:
        """Copy the tensors of a backbone that is about to train, if any of it starts frozen."""
        if self.schedule.frozen_parts(0):
            tensors = backbone.layers.state_dict().items()
            self.frozen_tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors}

    def apply(self, backbone: DistilledBackbone, epoch: int, fold: bool = False) -> None:
        """Freeze and unfreeze the backbone's parts for an epoch. Idempotent; a plain schedule touches nothing.

        Args:
            backbone: Backbone that trains.
            epoch: Epoch, from 0.
            fold: Compute through a copy with folded BatchNorms while the whole backbone is frozen.
        """
        if self.schedule.is_plain:
            return
        apply_schedule(backbone.parts, self.schedule, epoch)
        backbone.set_folded(fold and self.schedule.is_frozen(epoch))

    def unfrozen_in(self, epoch: int) -> str:
        """What starts to train in an epoch (from 0), in words: ``"backbone"``, ``"p5"``, ``"p3, p4"``; else nothing."""
        parts = self.schedule.thaws.get(epoch, ())
        return "backbone" if parts and self.schedule.groups()[parts[0]] == "backbone" else ", ".join(parts)

    def restore(self, backbone: DistilledBackbone, epoch: int) -> None:
        """Give what is frozen in an epoch (from 0) its own tensors back, after rounded ones were loaded."""
        backbone.layers.load_state_dict(self._frozen_in(backbone, epoch), strict=False)

    def changed(self, backbone: DistilledBackbone, epoch: int) -> list[str]:
        """Names of tensors that are frozen in an epoch (from 0), yet differ in any bit from what they were."""
        own = backbone.layers.state_dict()
        frozen = self._frozen_in(backbone, epoch)
        return [name for name, tensor in frozen.items() if not torch.equal(own[name].cpu(), tensor)]

    def _frozen_in(self, backbone: DistilledBackbone, epoch: int) -> dict[str, Tensor]:
        """What the tensors of the parts that are frozen in an epoch were when training started."""
        names = backbone.names_in(self.schedule.frozen_parts(epoch))
        return {name: tensor for name, tensor in self.frozen_tensors.items() if name in names}


def apply_schedule(parts: Mapping[str, list[nn.Module]], schedule: FreezeSchedule, epoch: int) -> None:
    """Freeze and unfreeze the layers of a backbone as the schedule has it in an epoch (from 0). Idempotent.

    A frozen layer has no gradients and is in eval mode, so that no statistic moves, whatever its kind. Only the
    backbone's layers are touched; in particular the head's ``.dfl`` stays as Ultralytics left it.

    Args:
        parts: Part of the backbone → its layers.
        schedule: Freeze schedule of the run.
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
        groups: Parameter groups of an optimizer that has not made a step.
        parts: Part of the backbone → its layers.
        schedule: Freeze schedule of the run.

    Returns:
        Groups with the same settings; those of the backbone are named by :meth:`FreezeSchedule.groups`, all others
        ``"head"``.
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
