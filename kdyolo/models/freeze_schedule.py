"""Freeze schedule: which part of the backbone trains when, and how fast; a pure function of the epoch.

Parts are named from the image inwards: ``stem`` (stride 2), then ``p2`` … ``p5``, the layers of each pyramid level.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from kdyolo.errors import ConfigError

ALL: Literal["all"] = "all"
PARTS = ("stem", "p2", "p3", "p4", "p5")  # shallow to deep
HEAD = "head"  # neck and head: everything that is not the backbone, never frozen
FREEZE_BN = ("with-backbone", "always")
NEVER = math.inf


@dataclass(frozen=True)
class FreezeSchedule:
    """When each part of the backbone trains, and with what share of the learning rate.

    Epochs count from 0, as Ultralytics' ``trainer.epoch`` does; messages count from 1.

    Attributes:
        freeze_epochs: Number of epochs in which the whole backbone is frozen; 0 never, ``"all"`` to the end.
        epochs: Number of epochs of the run.
        unfreeze_stages: Gradual thaw, deepest part first, e.g. ``"10:p5,20:p4,30:all"``: p5 is frozen for 10 epochs, p4
            for 20, the rest for 30. Parts that are not named never thaw. Instead of ``freeze_epochs``.
        backbone_lr: Learning rate of the backbone as a factor of the head's, during the whole run.
        thaw_warmup: Epochs over which the learning rate of a part that has just thawed rises from 0.
        freeze_bn: ``"with-backbone"``: BatchNorm statistics stand still as long as their layers are frozen;
            ``"always"``: those of the backbone for the whole run.

    Raises:
        ConfigError: Every mistake and contradiction found, in one error.

    Examples:
        >>> from kdyolo import FreezeSchedule
        >>> FreezeSchedule(freeze_epochs=50, epochs=100).phase(49)
        'backbone frozen'
    """

    freeze_epochs: int | Literal["all"] = 0
    epochs: int = 100
    unfreeze_stages: str | None = None
    backbone_lr: float = 1.0
    thaw_warmup: float = 1.0
    freeze_bn: str = "with-backbone"

    def __post_init__(self) -> None:
        mistakes = []
        whole = type(self.freeze_epochs) is int and self.freeze_epochs >= 0
        if not whole and not (isinstance(self.freeze_epochs, str) and self.freeze_epochs == ALL):
            mistakes.append(f"freeze_epochs must be 0, a number of epochs or 'all'; found {self.freeze_epochs!r}.")
        if self.unfreeze_stages is not None:
            if self.freeze_epochs:
                mistakes.append(
                    "freeze_epochs (--freeze) and unfreeze_stages exclude each other: the first thaws the whole "
                    "backbone at once, the second part by part. Give one of them."
                )
            mistakes += _parse_stages(self.unfreeze_stages)[1]
        for name, value in (("backbone_lr", self.backbone_lr), ("thaw_warmup", self.thaw_warmup)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                mistakes.append(f"{name} must be a number of at least 0; found {value!r}.")
        if not isinstance(self.freeze_bn, str) or self.freeze_bn not in FREEZE_BN:
            mistakes.append(f"freeze_bn must be one of {', '.join(FREEZE_BN)}; found {self.freeze_bn!r}.")
        if mistakes:
            raise ConfigError(mistakes)

    @cached_property
    def unfreeze_epochs(self) -> dict[str, float]:
        """Part → number of epochs it stays frozen, so the epoch (from 0) it starts to train in; ``inf``: never."""
        if self.unfreeze_stages is not None:
            return _parse_stages(self.unfreeze_stages)[0]
        return dict.fromkeys(PARTS, NEVER if self.freeze_epochs == ALL else float(self.freeze_epochs))

    @property
    def named_parts(self) -> set[str]:
        """Parts that ``unfreeze_stages`` names one by one."""
        items = (self.unfreeze_stages or "").split(",")
        return {item.partition(":")[2].strip().lower() for item in items} & set(PARTS)

    @property
    def unfreezes(self) -> dict[int, tuple[str, ...]]:
        """Epoch (from 0) → parts that start to train in it, for every thaw that happens during the run."""
        epochs = sorted({int(e) for e in self.unfreeze_epochs.values() if 0 < e < self.epochs})
        return {epoch: tuple(p for p in PARTS if self.unfreeze_epochs[p] == epoch) for epoch in epochs}

    @property
    def ever_frozen(self) -> bool:
        """Whether any part is frozen in any epoch."""
        return any(epochs > 0 for epochs in self.unfreeze_epochs.values())

    @property
    def is_plain(self) -> bool:
        """Whether this is ordinary training: nothing frozen, one learning rate."""
        return not self.ever_frozen and self.backbone_lr == 1.0 and self.freeze_bn == FREEZE_BN[0]

    @property
    def frozen_epochs(self) -> int:
        """Epochs until all that will ever thaw has thawed (the whole run, if nothing does); patience starts then."""
        if not self.ever_frozen:
            return 0
        ends = [epochs for epochs in self.unfreeze_epochs.values() if epochs < self.epochs]
        return int(max(ends)) if ends else self.epochs

    def frozen_parts(self, epoch: int) -> tuple[str, ...]:
        """Parts that are frozen in an epoch (from 0), shallow to deep."""
        return tuple(part for part in PARTS if epoch < self.unfreeze_epochs[part])

    def is_frozen(self, epoch: int) -> bool:
        """Whether the whole backbone is frozen in an epoch, counted from 0."""
        return len(self.frozen_parts(epoch)) == len(PARTS)

    def phase(self, epoch: int) -> str:
        """What is frozen in an epoch (from 0): ``"backbone frozen"``, ``"stem–p4 frozen"``, ``"all train"``."""
        frozen = self.frozen_parts(epoch)
        if not frozen:
            return "all train"
        several = f"{frozen[0]}–{frozen[-1]}" if len(frozen) > 1 else frozen[0]
        return f"{'backbone' if self.is_frozen(epoch) else several} frozen"

    def lr_factor(self, part: str, progress: float) -> float:
        """Learning rate of a part as a factor of the head's.

        Args:
            part: One of ``PARTS``, or ``"head"``.
            progress: Epochs done so far, fractions included: 2.5 is the middle of the third epoch.
        """
        if part == HEAD:
            return 1.0
        thaw = self.unfreeze_epochs[part]
        if progress <= thaw and thaw > 0:
            return 0.0
        ramp = min((progress - thaw) / self.thaw_warmup, 1.0) if thaw > 0 and self.thaw_warmup > 0 else 1.0
        return self.backbone_lr * ramp

    def groups(self) -> dict[str, str]:
        """Part → name of the group of parts that share a learning rate throughout."""
        same: dict[float, list[str]] = {}
        for part in PARTS:
            same.setdefault(self.unfreeze_epochs[part], []).append(part)
        names = ((parts, "backbone" if len(parts) == len(PARTS) else "-".join(parts)) for parts in same.values())
        return {part: name for parts, name in names for part in parts}

    def describe(self, parameters: Mapping[str, int], all_parameters: int) -> str:
        """The plan in a few lines, epochs counted from 1.

        Args:
            parameters: Part → number of its parameters, for the parts that the backbone has.
            all_parameters: Number of parameters of the whole detector.
        """
        whole = f"{all_parameters / 1e6:.1f} M parameters"
        if not self.ever_frozen:
            plan = f"plan: {_first(self.epochs)}: all {whole} train, nothing is frozen"
        else:
            plan = self._describe_freeze(parameters, whole)
        notes = []
        if self.backbone_lr != 1.0:
            notes.append(f"the backbone's learning rate is {self.backbone_lr:g} × the head's")
        if self.unfreezes and self.thaw_warmup:
            notes.append(f"after a thaw the learning rate rises over {self.thaw_warmup:g} {_epochs(self.thaw_warmup)}")
        if self.freeze_bn == "always":
            notes.append("the backbone's BatchNorm statistics never move")
        return "\n      ".join([plan, *notes])

    def _describe_freeze(self, parameters: Mapping[str, int], whole: str) -> str:
        frozen = self.frozen_parts(0)
        what = "backbone" if len(frozen) == len(PARTS) else "-".join(frozen)
        share = sum(parameters.get(part, 0) for part in frozen) / 1e6
        plan = f"plan: {_first(min(self.unfreezes, default=self.epochs))}: {what} frozen ({share:.1f} M of {whole})"
        for epoch, parts in self.unfreezes.items():
            plan += f", from {epoch + 1}: {', '.join(parts) if self.frozen_parts(epoch) else 'all'}"
        never = [part for part in PARTS if self.unfreeze_epochs[part] >= self.epochs]
        if not never:
            return plan
        who = "it" if len(never) == len(PARTS) else ", ".join(never)
        beyond = max((e for p in never if (e := self.unfreeze_epochs[p]) != NEVER), default=self.epochs)
        reason = (
            f", because freezing lasts {int(beyond)} and the run {self.epochs} {_epochs(self.epochs)}"
            if beyond > self.epochs
            else ""
        )
        return f"{plan}; {who} never thaw{'s' if who == 'it' or len(never) == 1 else ''}{reason}"

    @staticmethod
    def parse(text: str | int) -> int | Literal["all"]:
        """``"50"``, ``50`` or ``"all"`` → value for ``freeze_epochs``.

        Raises:
            ConfigError: Anything else.
        """
        if str(text).lower() == ALL:
            return ALL
        if isinstance(text, bool) or not str(text).isdecimal():
            raise ConfigError(f"freeze takes 0, a number of epochs or 'all'; found {text!r}.")
        return int(text)


def _epochs(count: float) -> str:
    return "epoch" if count == 1 else "epochs"


def _parse_stages(text: str) -> tuple[dict[str, float], list[str]]:
    """``"10:p5,20:all"`` → part → epochs it stays frozen, and every mistake in the text."""
    thaw: dict[str, float] = {}
    mistakes = []
    for item in str(text).split(","):
        number, colon, name = (piece.strip() for piece in item.partition(":"))
        part = name.lower()
        if not colon or not number.isdecimal() or part not in (*PARTS, ALL):
            mistakes.append(
                f"unfreeze_stages: expected EPOCHS:PART with a part of {', '.join(PARTS)} or all; found {item!r}."
            )
        elif part in thaw:
            mistakes.append(f"unfreeze_stages: {part} is named twice.")
        else:
            thaw[part] = float(number)
    rest = thaw.pop(ALL, NEVER)
    thaw = {part: thaw.get(part, rest) for part in PARTS}
    for shallow, deep in pairwise(PARTS):
        if thaw[shallow] < thaw[deep]:
            mistakes.append(
                f"unfreeze_stages: {shallow} would thaw before {deep}, but thawing goes from deep to shallow "
                f"({', '.join(reversed(PARTS))})."
            )
    return thaw, mistakes


def _first(epochs: int) -> str:
    """The first so many epochs, in words."""
    return f"epochs 1–{epochs}" if epochs > 1 else "epoch 1"
