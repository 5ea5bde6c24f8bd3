"""Training options that Ultralytics does not know: the one declaration of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from kdyolo.models.freeze_schedule import FreezeSchedule

DEFAULT_RECIPE = "coco"
LETTERBOX, STRETCH = "letterbox", "stretch"
READING = ("bn_eps", "key_map", "input_norm", "trust")  # the settings that say how a backbone checkpoint is read


@dataclass(frozen=True)
class TrainOptions:
    """Options that Ultralytics does not know; everything else goes through to it unchanged.

    Attributes:
        backbone: Checkpoint whose backbone is injected.
        weights: Ultralytics checkpoint (``.pt``) that the whole detector starts from, before the backbone is laid over.
        random_init: Says explicitly that the run starts random.
        allow_partial: Accept a backbone checkpoint that does not fill the backbone.
        bn_eps: BatchNorm epsilon of the backbone checkpoint, where the recognised one is wrong.
        input_norm: Normalisation of images that the backbone was trained with: ``"0-1"``, ``"imagenet"``, or numbers.
        key_map: YAML file with the names that the backbone checkpoint uses, if no known source does.
        trust: Unpickle checkpoints completely, which runs whatever code their authors put in.
        freeze_epochs: Number of epochs with a frozen backbone, or ``"all"``.
        unfreeze_stages: Gradual thaw, e.g. ``"10:p5,20:p4,30:all"``.
        backbone_lr: Learning rate of the backbone as a factor of the head's.
        thaw_warmup: Epochs over which a thawed part's learning rate rises from 0.
        freeze_bn: ``"with-backbone"`` or ``"always"``.
        resize: ``"letterbox"`` keeps the aspect ratio and pads, as Ultralytics does; ``"stretch"`` does not keep it.
        recipe: Name of a shipped recipe, or a path.
        coco_eval_period: Official COCO metrics in ``results.csv`` every so many epochs; 0: at the end only.
        work_dir: The run folder itself. Default: Ultralytics' numbering under ``runs/detect``.

    Examples:
        >>> from kdyolo import TrainOptions
        >>> options = TrainOptions(backbone="ckpt.pth", freeze_epochs=50)
        >>> options.schedule(epochs=100).is_frozen(49)
        True
    """

    backbone: str | None = None
    weights: str | None = None
    random_init: bool = False
    allow_partial: bool = False
    bn_eps: float | None = None
    input_norm: str | None = None
    key_map: str | None = None
    trust: bool = False
    freeze_epochs: int | Literal["all"] = 0
    unfreeze_stages: str | None = None
    backbone_lr: float = 1.0
    thaw_warmup: float = 1.0
    freeze_bn: str = "with-backbone"
    resize: str = LETTERBOX
    recipe: str = DEFAULT_RECIPE
    coco_eval_period: int = 0
    work_dir: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def schedule(self, epochs: int) -> FreezeSchedule:
        """The freeze schedule of a run of so many epochs.

        Raises:
            ConfigError: Every mistake in the schedule's options.
        """
        options = ("freeze_epochs", "unfreeze_stages", "backbone_lr", "thaw_warmup", "freeze_bn")
        return FreezeSchedule(epochs=epochs, **{name: getattr(self, name) for name in options})


OPTION_NAMES = tuple(f.name for f in fields(TrainOptions))
