"""Freeze schedule applied to a backbone: frozen layers, their tensors bit for bit, optimizer groups by part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kdyolo.errors import ConfigError, RunError
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
        parts = self.schedule.unfreezes.get(epoch, ())
        return "backbone" if parts and self.schedule.groups()[parts[0]] == "backbone" else ", ".join(parts)

    def restore(self, backbone: DistilledBackbone, epoch: int) -> None:
        """Give what is frozen in an epoch (from 0) its own tensors back, after rounded ones were loaded."""
        backbone.layers.load_state_dict(self._frozen_in(backbone, epoch), strict=False)

    def check_parts(self, backbone: DistilledBackbone, model_yaml: str) -> None:
        """Refuse a schedule that names parts which the backbone does not have.

        Raises:
            ConfigError: It names some; the message says which parts there are.
        """
        if unknown := self.schedule.named_parts - backbone.parts.keys():
            raise ConfigError(
                f"unfreeze_stages names {', '.join(sorted(unknown))}, which {model_yaml} does not have; "
                f"its parts are {', '.join(backbone.parts)}."
            )

    def check(self, backbones: Mapping[str, DistilledBackbone], epoch: int, log_name: str) -> None:
        """Compare what is frozen in an epoch with what it was when training started, bit for bit.

        Args:
            backbones: What a backbone is of → the backbone.
            epoch: Epoch, from 0.
            log_name: Name of the file to attach to a report.

        Raises:
            RunError: A frozen tensor has changed.
        """
        for what, backbone in backbones.items():
            if names := self.changed(backbone, epoch):
                raise RunError(
                    f"in epoch {epoch + 1}, {len(names)} tensors of the frozen backbone changed in the {what}, "
                    f"e.g. {names[0]}. Does a callback touch the model? If not, please report it with {log_name}."
                )

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


class NestedModel(Protocol):
    """Model in the kdyolo layout, such as :class:`kdyolo.models.detector.KDDetectionModel`."""

    def nested_layer(self, number: int) -> str:
        """A layer's number in the stock layout → its dotted place here, without the leading ``model``."""


def nested_layers(model: NestedModel, freeze: int | Iterable[int | str]) -> list[str]:
    """Ultralytics' ``freeze``, which counts layers of the stock layout, in terms of the kdyolo layout.

    Args:
        model: Model in the kdyolo layout.
        freeze: Number of layers, or the layers (``3``) and modules in them (``"21.cv1"``).
    """
    places = []
    for layer in range(freeze) if isinstance(freeze, int) else freeze:
        number, dot, inner = str(layer).partition(".")
        places.append(f"{model.nested_layer(int(number)) if number.isdigit() else number}{dot}{inner}")
    return places
