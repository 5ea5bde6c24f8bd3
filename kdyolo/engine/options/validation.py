"""Validation of training options: kdyolo's split from Ultralytics', and every mistake in one error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdyolo.checkpoints.input_norm import InputNorm
from kdyolo.checkpoints.key_naming import load_key_map
from kdyolo.engine.options.recipes import load_recipe
from kdyolo.engine.options.train_options import (
    DEFAULT_RECIPE,
    LETTERBOX,
    OPTION_NAMES,
    STRETCH,
    TrainOptions,
    names_of,
)
from kdyolo.engine.options.ultralytics_settings import setting_mistakes
from kdyolo.errors import ConfigError
from kdyolo.models.freeze_schedule import ALL, FreezeSchedule
from kdyolo.runs.lifecycle.options import wrong_kinds
from kdyolo.utils.text import quoted


def split_options(overrides: Mapping[str, Any]) -> tuple[TrainOptions, dict[str, Any]]:
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
    meant = [key for key in ("trust", "run_download") if recipe.get(key)]  # not for a file to say
    merged = {**recipe, **given}
    own = {k: v for k, v in merged.items() if k in OPTION_NAMES and v is not None}
    rest = {k: v for k, v in merged.items() if k not in OPTION_NAMES}
    mistakes = setting_mistakes(rest, OPTION_NAMES, training=True)
    mistakes += [
        f"recipe: {key} lets code of others run, so a recipe cannot ask for it. Give it yourself." for key in meant
    ]
    for key in names_of(lambda found: found.kind == "flag"):
        if own.get(key) not in (None, False, True):  # a text would count as a yes
            mistakes.append(f"{key} takes true or false; found {quoted(own.pop(key))}.")
    if "freeze_epochs" in own:
        try:
            own["freeze_epochs"] = FreezeSchedule.parse(own["freeze_epochs"])
        except ConfigError as e:
            mistakes += e.mistakes
            own["freeze_epochs"] = 0
    read_as_they_are = names_of(lambda found: found.kind in ("path", "number"))
    for key, mistake in wrong_kinds({key: own[key] for key in read_as_they_are if key in own}, TrainOptions).items():
        mistakes.append(mistake)
        del own[key]
    for key in names_of(lambda found: found.kind == "path"):
        if key in own:
            own[key] = str(own[key])
    settings = replace(TrainOptions(), **own)
    try:
        ever_frozen = settings.schedule(epochs=1).ever_frozen
    except ConfigError as e:
        mistakes += e.mistakes
        ever_frozen = True
    mistakes += _contradictions(settings, ever_frozen, rest) + _missing_files(settings)
    if mistakes:
        raise ConfigError(mistakes)
    if settings.weights:
        rest["pretrained"] = settings.weights
    if settings.work_dir:
        rest["save_dir"] = str(Path(settings.work_dir).resolve())
    return settings, rest


def _contradictions(settings: TrainOptions, ever_frozen: bool, rest: Mapping[str, Any]) -> list[str]:
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
    if settings.work_dir and (named := [key for key in ("project", "name") if rest.get(key)]):
        found.append(
            f"work_dir excludes {' and '.join(named)}: it is the run folder itself, and Ultralytics makes one of "
            "project and name. Give one or the other."
        )
    found += _period_mistakes(settings.coco_eval_period, rest)
    if rest.get("task") not in (None, "detect"):
        found.append(f"kdyolo trains detectors; found task={rest['task']}.")
    seed = rest.get("seed")
    if isinstance(seed, int) and seed >= 1 << 32:  # of negative ones Ultralytics knows
        found.append(f"seed must lie between 0 and 2³² - 1; found {quoted(seed)}.")
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


def _missing_files(settings: TrainOptions) -> list[str]:
    found = []
    if settings.weights and not settings.weights.endswith(".pt"):
        found.append(
            f"weights takes an Ultralytics checkpoint (.pt), found {settings.weights}. Did you mean --backbone?"
        )
    elif settings.weights and "/" in settings.weights and not Path(settings.weights).is_file():
        found.append(f"weights {settings.weights}: no such file.")
    return found
