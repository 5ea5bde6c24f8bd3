"""Study file: reading ``study.yaml``, and every mistake in its form.

No torch; what options mean is checked in ``arm_checks``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.files import STUDY_NAME
from kdyolo.runs.lifecycle.devices import device_names
from kdyolo.utils.plain_files import read_file
from kdyolo.utils.text import did_you_mean, quoted, shortened
from kdyolo.utils.yaml_files import MOST_BYTES, load_yaml

KEYS = ("name", "data", "base", "arms", "seeds", "devices", "baseline", "labels")
DISTILLED, SUBSETS = "@backbones", "@labels"  # folders beside those of the arms, whose names have no @
DEFAULT_SEEDS = (0, 1, 2)
MOST_RUNS = 10_000  # of a study
# What the study gives to each run itself → what to do instead.
OWN = {
    "data": "give 'data' once for the whole study: arms that see other images cannot be compared",
    "seed": "give 'seeds' for the whole study",
    "device": "give 'devices' for the whole study",
    "resume": "a study resumes its runs by itself",
    **dict.fromkeys(
        ("work_dir", "save_dir", "project", "name", "exist_ok"), "run folders are studies/<name>/<arm>/seed<k>/"
    ),
}
_FOLDER_NAME = re.compile(r"\w(?:[\w .+=-]*[\w+=-])?")
_RESERVED = ("report", STUDY_NAME)
_OWN_OF_DISTILL = {
    "device": "give 'devices' for the whole study",
    "resume": "a study resumes its distillations by itself",
    **dict.fromkeys(("work_dir", "exist_ok"), f"backbones are kept in studies/<name>/{DISTILLED}/"),
}
EXAMPLE = "Expected a mapping such as\n  data: datasets/coco/coco.yaml\n  arms: {random: {random_init: true}, …}"


@dataclass(frozen=True)
class StudyFile:
    """Contents of a study file.

    Attributes:
        path: Path of the study file.
        content: Bytes of the study file.
        name: Name of the study and of its folder.
        data: Data set YAML of every arm.
        base: Options of every arm, in the Python names of ``kdyolo train``.
        arms: Name of an arm → its own options, which win over the base's; None takes an option of the base away.
        seeds: Seeds; each arm is trained once with each of them.
        devices: Devices that take one run at a time each: ``"cpu"``, ``"mps"``, ``"5"``, or ``"5,6"`` for a run on two
            GPUs. Empty if the file names none.
        baseline: Name of the arm that the others are compared with; None if the file names none.
        labels: Shares of the training images, in 0–1 and ascending, with each of which every run is trained; empty for
            all images.
    """

    path: Path
    content: bytes
    name: str
    data: str
    base: Mapping[str, Any]
    arms: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    devices: tuple[str, ...]
    baseline: str | None
    labels: tuple[float, ...] = ()

    @property
    def sha256(self) -> str:
        """Hex digest of the file's bytes."""
        return hashlib.sha256(self.content).hexdigest()

    def options(self, arm: str) -> dict[str, Any]:
        """Options of an arm: its own where it has them, the base's elsewhere."""
        merged = {"data": self.data, **self.base, **self.arms[arm]}
        return {key: value for key, value in merged.items() if value is not None and key != "distill"}

    def distillation(self, arm: str) -> dict[str, Any] | None:
        """What an arm asks for under ``distill``, laid over the base's; None if it distils nothing."""
        own = self.arms[arm].get("distill", {})
        base = self.base.get("distill") or {}
        return {**base, **own} or None if own is not None else None


def parse_study(path: str | Path) -> tuple[StudyFile, list[str]]:
    """Read a study file.

    Args:
        path: The YAML file.

    Returns:
        What it asks for, with the parts that are wrong left out, and every mistake in its form.

    Raises:
        RunError: Not a file.
        ConfigError: Not YAML, or no mapping with arms, so that nothing more can be said about it.
    """
    path = Path(path)
    content = read_file(path, most=MOST_BYTES, error=RunError)
    if content is None:
        raise RunError(f"study file {path}: cannot be read (no such file). Expected a YAML file.")
    try:
        document = load_yaml(content, unique_keys=True)
    except yaml.YAMLError as e:
        raise ConfigError(f"study file {path}: not a YAML file ({quoted(e)}).") from e
    if not isinstance(document, dict) or not isinstance(document.get("arms"), dict) or not document["arms"]:
        raise ConfigError(f"study file {path}: there are no arms. {EXAMPLE}")
    mistakes = [f"unknown key {quoted(key)}.{did_you_mean(str(key), KEYS)}" for key in document if key not in KEYS]
    name = document.get("name", path.stem)
    mistakes += [f"name: {why}" for why in _name_mistakes(name)]
    base = _options(document.get("base"), "base", mistakes)
    arms = _arms(document["arms"], mistakes)
    data = document.get("data")
    if not isinstance(data, str):
        mistakes.append(f"data: expected the data set YAML of all arms; found {quoted(data)}.")
    baseline = document.get("baseline")
    if baseline is not None and not (isinstance(baseline, str) and baseline in arms):
        known = shortened(", ".join(arms), 200)
        found = quoted(baseline)
        mistakes.append(f"baseline {found} is no arm.{did_you_mean(str(baseline), list(arms))} Arms are {known}.")
    seeds = _seeds(document.get("seeds", list(DEFAULT_SEEDS)), mistakes)
    labels = _shares(document.get("labels", []), mistakes)
    if len(arms) * len(seeds) * max(len(labels), 1) > MOST_RUNS:
        mistakes.append(f"{len(arms):,} arms with {len(seeds):,} seeds each are more than {MOST_RUNS:,} runs.")
        arms = {}
    study = StudyFile(
        path=path,
        content=content,
        name=str(name),
        data=data if isinstance(data, str) else "",
        base=base,
        arms=arms,
        seeds=seeds,
        devices=_devices(document.get("devices", []), mistakes),
        baseline=baseline,
        labels=labels,
    )
    return study, mistakes


def _name_mistakes(name: Any) -> list[str]:
    """Reasons why a name cannot be that of a folder on every system."""
    if not isinstance(name, str) or not _FOLDER_NAME.fullmatch(name) or len(name) > 100:
        return [f"{quoted(name)} cannot name a folder; expected letters, digits and '_ .+=-' within, at most 100."]
    return [f"{quoted(name)} is taken: the study keeps something else there."] if name.lower() in _RESERVED else []


def _arms(found: Mapping[Any, Any], mistakes: list[str]) -> dict[str, dict[str, Any]]:
    arms = {}
    for name, options in found.items():
        mistakes += [f"arm {why}" for why in _name_mistakes(name)]
        arms[str(name)] = _options(options, f"arm {shortened(str(name), 100)}", mistakes)
    folders = Counter(name.casefold() for name in arms)
    if twice := [name for name in arms if folders[name.casefold()] > 1]:
        named = shortened(", ".join(twice), 200)
        mistakes.append(f"arms {named} differ in upper and lower case only, which some disks do not keep apart.")
    return arms


def _options(found: Any, where: str, mistakes: list[str]) -> dict[str, Any]:
    """Options under the names that ``KDYOLO.train`` has for them; ``freeze`` counts epochs, as ``--freeze`` does."""
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        mistakes.append(f"{where}: expected options such as {{freeze: 50, lr0: 0.01}}; found {quoted(found)}.")
        return {}
    mistakes += [f"{where}: {key} cannot be given here; {OWN[key]}." for key in found if key in OWN]
    options = {key: value for key, value in found.items() if key not in OWN}
    if "distill" in options and not _is_distillation(options["distill"], where, mistakes):
        del options["distill"]
    if "freeze" in options:
        if "freeze_epochs" in options:
            mistakes.append(f"{where}: freeze and freeze_epochs are two names of one option. Give one of them.")
        freeze = options.pop("freeze")
        if isinstance(freeze, list):
            mistakes.append(
                f"{where}: freeze counts epochs of the backbone, as --freeze does; found {quoted(freeze)}. "
                "Ultralytics' own freeze, of layers, cannot be part of a study."
            )
        else:
            options["freeze_epochs"] = freeze
    return options


def _is_distillation(found: Any, where: str, mistakes: list[str]) -> bool:
    """Whether it has the form of options of ``kdyolo distill``; None takes those of the base away."""
    if found is not None and not (isinstance(found, dict) and all(isinstance(key, str) for key in found)):
        mistakes.append(
            f"{where}: distill: expected options such as {{teacher: vit_small_patch16_dinov3, images: photos, epochs: "
            f"30}}; found {quoted(found)}."
        )
        return False
    own = [key for key in found or () if key in _OWN_OF_DISTILL]
    mistakes += [f"{where}: distill: {key} cannot be given here; {_OWN_OF_DISTILL[key]}." for key in own]
    return not own


def _shares(found: Any, mistakes: list[str]) -> tuple[float, ...]:
    numbers = found if isinstance(found, list) else [found]
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not 0 < n <= 1 for n in numbers):
        mistakes.append(
            "labels: expected shares of the training images above 0 and up to 1, e.g. [0.01, 0.05, 0.1, 1.0]; found "
            f"{quoted(found)}."
        )
        return ()
    if len(set(numbers)) < len(numbers):
        mistakes.append(f"labels: a share is given twice in {quoted(found)}. Name every share once.")
    return tuple(sorted({float(n) for n in numbers}))


def _seeds(found: Any, mistakes: list[str]) -> tuple[int, ...]:
    numbers = found if isinstance(found, list) else []
    if not numbers or any(type(seed) is not int or not 0 <= seed < 1 << 32 for seed in numbers):
        expected = "a list of whole numbers from 0 to 2³² - 1, e.g. [0, 1, 2]"
        mistakes.append(f"seeds: expected {expected}; found {quoted(found)}.")
        return ()
    if len(set(numbers)) < len(numbers):
        twice = ", ".join(str(seed) for seed, count in Counter(numbers).items() if count > 1)
        mistakes.append(f"seeds: {shortened(twice, 200)} given twice: the same run again would not be another sample.")
    return tuple(dict.fromkeys(numbers))


def _devices(found: Any, mistakes: list[str]) -> tuple[str, ...]:
    entries = found if isinstance(found, list) else [found]
    devices = []
    for entry in entries:
        try:
            words = device_names(entry)
        except ConfigError as e:
            mistakes.append(f"devices: {str(e).removeprefix('device: ')}")
            continue
        if words:
            devices.append(",".join(words))
        else:
            mistakes.append(f"devices: expected cpu, mps, the number of a GPU, or several as '5,6'; found {entry!r}.")
    gpus = Counter(gpu for device in devices if device not in ("cpu", "mps") for gpu in set(device.split(",")))
    if twice := [gpu for gpu, count in gpus.items() if count > 1 and gpu not in ("cpu", "-1")]:
        mistakes.append(f"devices: GPU {', '.join(twice)} named twice, but a device takes one run at a time.")
    return tuple(devices)
