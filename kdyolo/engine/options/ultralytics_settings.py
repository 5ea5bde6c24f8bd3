"""Ultralytics' own settings, checked all at once and in our words, before Ultralytics stops at the first."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ultralytics.cfg import CFG_BOOL_KEYS, CFG_FLOAT_KEYS, CFG_FRACTION_KEYS, CFG_INT_KEYS, CFG_INT_MIN, check_cfg
from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.errors import ConfigError
from kdyolo.runs.contents.forms import MOST_EPOCHS
from kdyolo.utils.text import did_you_mean, quoted

# Keys that Ultralytics accepts beside those of its default.yaml.
EXTRA_KEYS = ("augmentations", "save_dir")
# Keys of older versions, which Ultralytics translates with a warning.
OLD_KEYS = ("half", "int8", "boxes", "hide_labels", "hide_conf", "line_thickness", "label_smoothing", "save_hybrid")
LARGEST = 1 << 16  # pixels of a side, beyond which no memory holds an image
STRIDE = 32  # the largest of every model here; Ultralytics rounds other sizes up
# Bounds that Ultralytics does not check, or only in the middle of a run.
LEAST = {**CFG_INT_MIN, "workers": 0, "close_mosaic": 0, "warmup_epochs": 0}
MOST = {"epochs": MOST_EPOCHS}


def setting_mistakes(settings: Mapping[str, Any], own: Collection[str] = (), *, training: bool = False) -> list[str]:
    """Every unknown key and wrong value among Ultralytics' settings, a sentence or two each.

    Args:
        settings: Setting → value.
        own: Names of the options that stand beside them, to suggest for a misspelt key.
        training: Whether they are for a training, whose ``imgsz`` is recorded and compared.
    """
    found = []
    for key, value in settings.items():
        if key not in DEFAULT_CFG_DICT and key not in EXTRA_KEYS:
            close = did_you_mean(key, [*DEFAULT_CFG_DICT, *own])
            found.append(f"unknown setting {quoted(key)}.{close} See 'kdyolo train --help' and 'yolo cfg'.")
        elif mistake := _mistake(key, value, training):
            found.append(mistake)
    return found


def check_settings(settings: Mapping[str, Any], own: Collection[str] = ()) -> None:
    """Refuse settings of an evaluation or prediction that Ultralytics does not know, or whose values are wrong.

    Args:
        settings: Setting → value.
        own: Names of the options that stand beside them.

    Raises:
        ConfigError: All mistakes at once.
    """
    mistakes = setting_mistakes(settings, own)
    batch = settings.get("batch")
    if isinstance(batch, (int, float)) and batch < 1 and _batch_mistake(batch) is None:  # AutoBatch is of trainings
        mistakes.append(f"batch takes a number of images of at least 1; found {quoted(batch)}.")
    if mistakes:
        raise ConfigError(mistakes)


def given_settings(settings: Mapping[str, Any], own: Collection[str] = ()) -> dict[str, Any]:
    """Settings of an evaluation, prediction or export by Python, without those that are None, as if not given.

    Args:
        settings: Setting → value.
        own: Names of the options that stand beside them.

    Raises:
        ConfigError: All mistakes at once.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    check_settings({key: value for key, value in given.items() if key not in OLD_KEYS}, own)
    return given


def require_names(given: Mapping[str, Any], *keys: str) -> None:
    """Refuse what is no text or path, where nothing else names a file.

    Raises:
        ConfigError: All mistakes at once.
    """
    found = {key: given[key] for key in keys if given.get(key) is not None}
    flags = [key for key, value in found.items() if isinstance(value, bool) and key == "resume"]
    texts = [key for key, value in found.items() if isinstance(value, (str, Path)) and "\0" not in str(value)]
    wrong = [key for key in found if key not in (*flags, *texts)]
    if wrong:
        raise ConfigError([f"{key}: expected a path, found {quoted(given[key])}." for key in wrong])


def chosen_classes(classes: Any, names: Mapping[int, str]) -> list[int] | None:
    """What the setting ``classes`` chooses: one class, or several.

    Args:
        classes: Its value.
        names: Index of a class of the data set → its name.

    Returns:
        Indices in ascending order; None for all.

    Raises:
        ConfigError: There is no such class.
    """
    if classes is None:
        return None
    chosen = list(classes) if isinstance(classes, (list, tuple)) else [classes]
    if chosen and all(isinstance(each, int) and not isinstance(each, bool) and each in names for each in chosen):
        return sorted(set(chosen))
    listed = ", ".join(f"{index} ({name})" for index, name in list(names.items())[:5])
    raise ConfigError(
        f"classes={quoted(classes)}: expected indices of classes of the data set, which has {len(names)}: {listed}"
        f"{', …' if len(names) > 5 else ''}."
    )


def _mistake(key: str, value: Any, training: bool) -> str | None:
    """What is wrong with the value of a known setting, if anything is."""
    if key == "batch":
        return _batch_mistake(value)
    if key == "imgsz" and value is not None:
        return _size_mistake(value, training)
    if key == "classes" and value is not None:
        return _classes_mistake(value)
    named = key in ("split", "format") and not (isinstance(value, str) and value)
    if named or (isinstance(DEFAULT_CFG_DICT.get(key), str) and not isinstance(value, (str, Path, bool, type(None)))):
        return f"{key} takes a text; found {quoted(value)}."
    least = LEAST.get(key)
    wrong = isinstance(value, (int, float)) and ((least is not None and value < least) or value > MOST.get(key, value))
    if not wrong and not (isinstance(value, bool) and key in CFG_INT_KEYS | CFG_FLOAT_KEYS | CFG_FRACTION_KEYS):
        try:
            check_cfg({key: value})
            return None
        except (TypeError, ValueError, SyntaxError) as e:
            found = str(e).strip().splitlines()[0]
    else:
        found = f"{key}={quoted(value)} is none that Ultralytics knows."
    if expected := _expected(key, least, MOST.get(key)):
        return f"{key} takes {expected}; found {quoted(value)}."
    return found


def _expected(key: str, least: float | None, most: int | None) -> str:
    """What a setting takes, in words; empty if Ultralytics says it better."""
    from_on = "" if least is None else f" of at least {least}"
    if key in CFG_INT_KEYS:
        return f"a whole number{from_on}{'' if most is None else f' and at most {most:,}'}"
    if key in CFG_FRACTION_KEYS and key != "fraction":
        return "a number from 0 to 1"
    if key in CFG_FLOAT_KEYS:
        return f"a number{from_on}"
    return "True or False" if key in CFG_BOOL_KEYS else ""


def _batch_mistake(value: Any) -> str | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and (value == -1 or 0 < value < 1 or (1 <= value < math.inf and value == int(value))):
        return None
    return (
        "batch takes a number of images of at least 1, a share of the GPU's memory between 0 and 1, or -1 to find one "
        f"that fits; found {quoted(value)}."
    )


def _classes_mistake(value: Any) -> str | None:
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    if all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        return None
    return f"classes takes the number of a class, or a list of numbers such as [0, 2]; found {quoted(value)}."


def _size_mistake(value: Any, training: bool) -> str | None:
    sizes = list(value) if isinstance(value, (list, tuple)) else [value]
    whole = all(isinstance(size, int) and not isinstance(size, bool) and 0 < size <= LARGEST for size in sizes)
    if not whole or not 1 <= len(sizes) <= 2:
        return f"imgsz takes a number of pixels of at least {STRIDE} and at most {LARGEST:,}; found {quoted(value)}."
    if training and (size := sizes[0]) % STRIDE:
        near = [n for n in (size // STRIDE * STRIDE, (size // STRIDE + 1) * STRIDE) if n]
        return f"imgsz takes a multiple of {STRIDE}; found {size}. Take {' or '.join(map(str, near))}."
    return None
