"""Comparability of runs: settings that must be equal before a difference says anything, and those that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdyolo.errors import RunError
from kdyolo.experiments.comparison.grouping import Arm, data_keys, data_name, run_name
from kdyolo.experiments.comparison.run_settings import MISSING, REWRITTEN, batches_of, settings_of, shaping, was_resumed
from kdyolo.runs.history import Run
from kdyolo.utils.text import canonical, distinct, plural

# Length, what the network sees, which images and classes count, and how detections are counted.
MUST_BE_EQUAL = (
    *("epochs", "time", "imgsz", "resize", "rect", "single_cls", "classes", "fraction", "split"),
    *("conf", "iou", "max_det", "agnostic_nms", "augment"),
)


def check_comparable(arms: Sequence[Arm], anyway: bool) -> tuple[str, ...]:
    """Sentences on what is not like for like.

    Args:
        arms: Arms to be compared.
        anyway: Return the sentences, instead of refusing.

    Raises:
        RunError: Runs are not like for like, and ``anyway`` is False.
    """
    runs = [run for arm in arms for run in arm.runs]
    unlike = _data(runs) + _settings(runs) + _batches(runs) + [sentence for arm in arms for sentence in _within(arm)]
    if unlike and not anyway:
        raise RunError(
            "\n  - ".join(("these runs are not like for like, so their difference would say nothing:", *unlike))
            + "\nTrain again with these equal, leave runs out, or compare --anyway: then the report says so."
        )
    return tuple(unlike)


def compare_settings(arms: Sequence[Arm]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings that all runs share, and those that differ.

    Returns:
        Setting → value; and setting → arm → value, a list where the runs of an arm differ.
    """
    of = {arm.name: [settings_of(run) for run in arm.runs] for arm in arms}
    keys = dict.fromkeys(key for settings in of.values() for each in settings for key in each)
    equal: dict[str, Any] = {}
    differing: dict[str, dict[str, Any]] = {}
    for key in keys:
        values = {name: distinct(each.get(key, MISSING) for each in settings) for name, settings in of.items()}
        if len(distinct(value for found in values.values() for value in found)) == 1:
            equal[key] = next(iter(values.values()))[0]
        else:
            differing[key] = {name: found[0] if len(found) == 1 else found for name, found in values.items()}
    return equal, differing


def _data(runs: Sequence[Run]) -> list[str]:
    named = dict(zip(runs, data_keys(runs), strict=True))
    if len(set(named.values())) > 1:
        return [_sentence("the data set", {run: (key, data_name(run)) for run, key in named.items()})]
    # The same name, but other images: the YAML was changed between the runs.
    counts = {run: (run.scores.get("images"), run.scores.get("objects")) for run in runs if run.scores}
    if len(set(counts.values())) > 1:
        texts = {
            run: (str(count), f"{plural(int(count[0] or 0), 'image')} with {plural(int(count[1] or 0), 'object')}")
            for run, count in counts.items()
        }
        return [_sentence("what the official metrics were computed on", texts)]
    return []


def _settings(runs: Sequence[Run]) -> list[str]:
    of = {run: settings_of(run) for run in runs}
    found = []
    for key in MUST_BE_EQUAL:
        # Versions of Ultralytics come and go with settings, so a run that has none cannot be said to differ.
        values = {run: (canonical(s[key]), _shown(s[key])) for run, s in of.items() if key in s}
        if len({value for value, _ in values.values()}) > 1:
            found.append(_sentence(key, values))
    return found


def _batches(runs: Sequence[Run]) -> list[str]:
    """Whether batches as really used differ; stock runs and older versions do not record them, and are let be."""
    of = {run: used for run in runs if (used := batches_of(run))}
    if len(distinct(of.values())) < 2:
        return []
    return [_sentence("batch", {run: (canonical(used), " then ".join(map(str, used))) for run, used in of.items()})]


def _within(arm: Arm) -> list[str]:
    """Settings that runs of one arm differ in, beside those of :data:`MUST_BE_EQUAL`; and seeds that occur twice."""
    of = {run: shaping(run) for run in arm.runs}
    found = []
    for seed in {seed for seed in arm.seeds if seed is not None and arm.seeds.count(seed) > 1}:
        names = ", ".join(run_name(run) for run, own in zip(arm.runs, arm.seeds, strict=True) if own == seed)
        found.append(
            f"within the arm {arm.name!r}, seed {seed} occurs twice ({names}): to repeat a seed is no other seed"
        )
    for key in dict.fromkeys(key for settings in of.values() for key in settings if key not in MUST_BE_EQUAL):
        known = {run: s for run, s in of.items() if not (key in REWRITTEN and was_resumed(run))}
        values = {run: (canonical(s.get(key)), _shown(s.get(key))) for run, s in known.items()}
        if len({value for value, _ in values.values()}) > 1:
            found.append(f"within the arm {arm.name!r}, {_sentence(key, values)}")
    return found


def _sentence(what: str, values: Mapping[Run, tuple[str, str]]) -> str:
    """``imgsz differs: 640 (a, b); 320 (c)``, from a key and a text for each run."""
    groups: dict[str, tuple[str, list[str]]] = {}
    for run, (key, text) in values.items():
        groups.setdefault(key, (text, []))[1].append(run_name(run))
    return f"{what} differs: " + "; ".join(f"{text} ({', '.join(names)})" for text, names in groups.values())


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
