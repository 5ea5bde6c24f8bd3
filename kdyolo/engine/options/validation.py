"""kdyolo's own training options, the recipe behind them, and the check of everything before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from ultralytics.cfg import get_cfg
from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.checkpoints.key_naming import InputNorm, load_key_map
from kdyolo.checkpoints.reader import BackboneCheckpoint, read_checkpoint
from kdyolo.errors import ConfigError
from kdyolo.models.freeze_schedule import ALL, FreezeSchedule
from kdyolo.utils.shipped_files import did_you_mean, shipped

DEFAULT_RECIPE = "coco"
# Keys that Ultralytics accepts beside those of its default.yaml.
EXTRA_KEYS = ("augmentations", "save_dir")
LETTERBOX, STRETCH = "letterbox", "stretch"
READING = ("bn_eps", "key_map", "input_norm", "trust")  # the settings that say how a backbone checkpoint is read


@dataclass(frozen=True)
class Settings:
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

    def read_backbone(self) -> BackboneCheckpoint | None:
        """The backbone checkpoint, read as asked for.

        Raises:
            CheckpointError: See :func:`kdyolo.checkpoints.reader.read_checkpoint`.
        """
        if self.backbone is None:
            return None
        return read_checkpoint(self.backbone, **{name: getattr(self, name) for name in READING})


KEYS = tuple(f.name for f in fields(Settings))


def split_settings(overrides: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Separate kdyolo's options from Ultralytics', with the recipe's values under those given.

    Args:
        overrides: Keywords as given to ``train``: kdyolo's and Ultralytics' keys together.

    Returns:
        kdyolo's settings, and the overrides for Ultralytics with ``pretrained`` and ``save_dir`` following from them.

    Raises:
        ConfigError: Every unknown key, wrong value and contradiction found, in one error.
    """
    given = dict(overrides)
    recipe = load_recipe(str(given.get("recipe") or DEFAULT_RECIPE))
    merged = {**recipe, **given}
    own = {k: v for k, v in merged.items() if k in KEYS and v is not None}
    rest = {k: v for k, v in merged.items() if k not in KEYS}
    mistakes = [_unknown(key) for key in rest if key not in DEFAULT_CFG_DICT and key not in EXTRA_KEYS]
    if "freeze_epochs" in own:
        try:
            own["freeze_epochs"] = FreezeSchedule.parse(own["freeze_epochs"])
        except ConfigError as e:
            mistakes += e.mistakes
            own["freeze_epochs"] = 0
    for key in ("backbone", "weights", "work_dir", "key_map"):
        if key in own:
            own[key] = str(own[key])
    settings = replace(Settings(), **own)
    try:
        ever_frozen = settings.schedule(epochs=1).ever_frozen
    except ConfigError as e:
        mistakes += e.mistakes
        ever_frozen = True
    mistakes += _contradictions(settings, ever_frozen, rest) + _missing_files(settings)
    rest = {k: v for k, v in rest.items() if k in DEFAULT_CFG_DICT or k in EXTRA_KEYS}
    try:
        get_cfg(DEFAULT_CFG_DICT, rest)  # Ultralytics' own type and range checks
    except (TypeError, ValueError, SyntaxError) as e:
        mistakes.append(str(e).strip())
    if mistakes:
        raise ConfigError(mistakes)
    if settings.weights:
        rest["pretrained"] = settings.weights
    if settings.work_dir:
        rest["save_dir"] = str(Path(settings.work_dir).resolve())
    return settings, rest


def load_recipe(name: str) -> dict[str, Any]:
    """Settings of a shipped recipe (by name) or of a YAML file.

    Raises:
        ConfigError: Not found, or not a mapping of settings.
    """
    files = shipped("recipes")
    path = files.get(f"{name}.yaml", Path(name))
    if not path.is_file():
        names = [Path(f).stem for f in files]
        raise ConfigError(
            f"recipe {name!r} not found. Expected a YAML file or one of {', '.join(names)}.{did_you_mean(name, names)}"
        )
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"recipe {path}: not a YAML file ({str(e).splitlines()[0]}).") from e
    if not isinstance(recipe, dict) or not all(isinstance(k, str) for k in recipe):
        raise ConfigError(f"recipe {path}: expected 'setting: value' lines.")
    return recipe


def _unknown(key: str) -> str:
    known = [*DEFAULT_CFG_DICT, *KEYS]
    return f"unknown setting {key!r}.{did_you_mean(key, known)} See 'kdyolo train --help' and 'yolo cfg'."


def _contradictions(settings: Settings, ever_frozen: bool, rest: Mapping[str, Any]) -> list[str]:
    found = []
    if settings.backbone and settings.random_init:
        found.append("backbone and random_init exclude each other: the first loads weights, the second asks for none.")
    if settings.weights and settings.random_init:
        found.append("weights and random_init exclude each other: the first loads weights, the second asks for none.")
    for name in ("allow_partial", "bn_eps", "input_norm", "key_map"):
        if getattr(settings, name) and not settings.backbone:
            found.append(f"{name} is about a backbone checkpoint, but no backbone is given.")
    if settings.trust and not (settings.backbone or settings.weights):
        found.append("trust is about a checkpoint, but neither backbone nor weights is given.")
    try:
        InputNorm.parse(str(settings.input_norm or "0-1"))
        _ = load_key_map(settings.key_map) if settings.key_map else None
    except ConfigError as e:
        found += e.mistakes
    if ever_frozen and rest.get("freeze") not in (None, 0, []):
        ours = settings.unfreeze_stages or settings.freeze_epochs
        found.append(
            f"freeze_epochs={ours} (command line: --freeze) and freeze={rest['freeze']} exclude each other: the first "
            "freezes the backbone for a number of epochs and then thaws it; the second is Ultralytics' own, which "
            "freezes a number of layers for the whole run. Give one of them."
        )
    if ever_frozen and settings.freeze_epochs != ALL and rest.get("time"):
        found.append(
            "time and freeze_epochs exclude each other: Ultralytics estimates the number of epochs from the fast "
            "frozen ones, so the thaw would come at the wrong time. Give epochs instead."
        )
    if settings.resize not in (LETTERBOX, STRETCH):
        found.append(f"resize must be {LETTERBOX} or {STRETCH}; found {settings.resize!r}.")
    if settings.resize == STRETCH and rest.get("rect"):
        found.append("resize=stretch and rect exclude each other: stretched images are square.")
    found += _period_mistakes(settings.coco_eval_period, rest)
    if rest.get("task") not in (None, "detect"):
        found.append(f"kdyolo trains detectors; found task={rest['task']}.")
    if rest.get("distill_model"):
        found.append("distill_model is not supported: the backbone has been distilled already.")
    return found


def _period_mistakes(period: Any, rest: Mapping[str, Any]) -> list[str]:
    if isinstance(period, bool) or not isinstance(period, int) or period < 0:
        return [f"coco_eval_period is a number of epochs, 0 for the end only; found {period!r}."]
    found = []
    if period and rest.get("val") is False:
        found.append("coco_eval_period and val=False exclude each other: no epoch would be evaluated.")
    if period and rest.get("single_cls"):
        found.append("coco_eval_period and single_cls exclude each other: official metrics need categories.")
    return found


def _missing_files(settings: Settings) -> list[str]:
    found = []
    if settings.weights and not settings.weights.endswith(".pt"):
        found.append(
            f"weights takes an Ultralytics checkpoint (.pt), found {settings.weights}. Did you mean --backbone?"
        )
    elif settings.weights and "/" in settings.weights and not Path(settings.weights).is_file():
        found.append(f"weights {settings.weights}: no such file.")
    return found
