"""Arms of a study: what each trains, with everything about it checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.checkpoints.reader import BackboneCheckpoint
from kdyolo.engine.options.train_options import OPTION_NAMES, READING, TrainOptions, names_of
from kdyolo.engine.options.validation import split_options
from kdyolo.engine.start.detector_start import (
    DEFAULT_MODEL,
    DetectorStart,
    default_model,
    fit_start,
    is_yaml,
    load_weights,
    read_backbone,
)
from kdyolo.engine.start.detector_teacher import SETTING
from kdyolo.engine.start.plan import RunPlan, check_data, make_plan, planned_teacher
from kdyolo.errors import CheckpointError, ConfigError, KDYOLOError, ModelError
from kdyolo.experiments.study.distillations import ArmDistillation
from kdyolo.experiments.study.label_subsets import check_shares
from kdyolo.experiments.study.study_file import StudyFile, parse_study
from kdyolo.models.arch import ULTRALYTICS_BN_EPS, Arch
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.model_yaml import BackboneRow
from kdyolo.models.yaml_layouts import describe_detector
from kdyolo.runs.lifecycle.devices import Machine, read_places

T = TypeVar("T")

FILES = ("model", SETTING, *names_of(lambda found: found.input_file))  # options that may name a file
TO_BE_DISTILLED = "backbone.safetensors"  # in an arm's options, until a run knows which one is its
# Where and how a run is computed, not what: a run on other devices is the same run. The rest of these are set by
# Ultralytics or by us from settings that are compared.
PLUMBING = frozenset(
    ("save_dir", "project", "name", "exist_ok", "task", "mode", "device", "workers", "resume", "plots", "verbose")
) | {"model", "pretrained", "data", "seed"}


@dataclass(frozen=True)
class StudyArm:
    """One arm, as its runs will train it. It travels to other machines, so it holds no tensors.

    Attributes:
        name: Name of the arm in the study file.
        options: What ``KDYOLO.train`` gets but for seed, device and work dir; paths of files are absolute.
        settings: kdyolo's own options, the recipe's values included.
        ultralytics: All of Ultralytics' settings, defaults included, without :data:`PLUMBING`.
        model: Model YAML, or a detector (``.pt``).
        sha256: Hex digest of the backbone checkpoint; None without one, and where the study distils it first.
        distillation: What the arm asks for under ``distill``; None without it.
        student: The backbone that is distilled; None without ``distill``.
    """

    name: str
    options: Mapping[str, Any]
    settings: TrainOptions
    ultralytics: Mapping[str, Any]
    model: str
    sha256: str | None
    distillation: ArmDistillation | None = None
    student: Arch | None = None

    @classmethod
    def of(cls, name: str, options: Mapping[str, Any], plan: RunPlan) -> StudyArm:
        """The arm whose runs follow a plan."""
        model, checkpoint = plan.start.model, plan.start.checkpoint
        sha256 = checkpoint.sha256 if checkpoint else None
        given = {**options, "model": model}
        return cls(name, given, plan.options, full_settings(plan.overrides), model, sha256)

    def identity(self) -> dict[str, Any]:
        """Settings that make the arm's runs differ from those of another arm."""
        own = {name: getattr(self.settings, name) for name in names_of(lambda found: found.in_study)}
        distilled = {**self.distillation.identity(), "model": self.student} if self.distillation else None
        return {**own, **self.ultralytics, "backbone": self.sha256, "model": self.model, "distill": distilled}


def full_settings(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Ultralytics' settings that make a run what it is, with defaults where none was given."""
    known = {key: value for key, value in asked.items() if key in DEFAULT_CFG_DICT and key not in PLUMBING}
    return {key: value for key, value in vars(get_cfg(DEFAULT_CFG_DICT, known)).items() if key not in PLUMBING}


def read_study(path: str | Path, *, here: bool = True) -> tuple[StudyFile, tuple[StudyArm, ...], tuple[str, ...]]:
    """Read a study file and check all that it asks for: options, checkpoints, models, data set, devices.

    Args:
        path: The YAML file; paths in it are relative to the current folder, as options of ``kdyolo train`` are.
        here: Whether the study's devices are those of this machine.

    Returns:
        The study file, its arms, and the devices.

    Raises:
        ConfigError: Every mistake found, in one error.
    """
    file, mistakes = parse_study(path)
    check = _Check()
    checked = check.gather("data", lambda: check_data(file.data)) if file.data else None
    data = str(Path(checked["yaml_file"]).resolve()) if checked else file.data  # by its path, whoever trains where
    devices = file.devices or ("0" if torch.cuda.is_available() else "cpu",)
    if here:
        mistakes += missing_devices(devices)
    asked = {name: check.distillation(name, file) for name in file.arms}
    distilled = {name: {"backbone": TO_BE_DISTILLED} if found else {} for name, found in asked.items()}
    options = {name: _absolute({**file.options(name), "data": data, **distilled[name]}) for name in file.arms}
    split = {name: check.options(name, given) for name, given in options.items()}
    starts = {name: check.start(name, given, asked[name]) for name, given in options.items()}
    models = check.models(options, starts)
    arms = []
    for name, start in starts.items():
        distillation = asked[name]
        student = check.student(name, distillation, models[name]) if distillation else None
        if distillation:
            start = replace(start, checkpoint=stand_in(student)) if student else _Start()
        fitting = check.fit(name, options[name], start, models[name])
        if found := split[name]:
            own, rest = found
            # Of an arm with a mistake the plan is made too: others must not be taken for arms without a difference.
            begins = fitting or DetectorStart(own, models[name], checkpoint=start.checkpoint)
            teacher = check.gather(name, partial(planned_teacher, rest, begins))
            arm = StudyArm.of(name, options[name], make_plan(own, rest, begins, checked, teacher))
            if distillation:
                arm = replace(arm, distillation=distillation, student=student, sha256=None)
            arms.append(arm)
    check.distinct(arms)
    check.one_batch(arms)
    check.one_fraction(arms, file.labels)
    if checked and file.labels:
        check.gather("labels", lambda: check_shares(str(data), file.labels))
    if mistakes := mistakes + check.mistakes(list(file.arms)):
        raise ConfigError([f"{file.path}: {mistake}" for mistake in mistakes])
    return file, tuple(arms), devices


@dataclass(frozen=True)
class _Start:
    """What an arm starts from, read, and the model that fits it; None where there is none, or nothing says which."""

    checkpoint: BackboneCheckpoint | None = None
    weights: nn.Module | None = None
    model: str | None = None


class _Check:
    """Collector of mistakes by where they are found; every checkpoint is read once."""

    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}  # mistake → where
        self._read = cache(self._read_start)

    def add(self, where: str, mistake: str) -> None:
        self._found.setdefault(mistake, []).append(where)

    def gather(self, where: str, check: Callable[[], T]) -> T | None:
        try:
            return check()
        except ConfigError as e:
            for mistake in e.mistakes:
                self.add(where, mistake)
        except KDYOLOError as e:
            self.add(where, str(e))
        return None

    def mistakes(self, arms: list[str]) -> list[str]:
        """All mistakes, each with the arms that it is in."""

        def words(where: list[str]) -> str:
            if not set(where) <= set(arms):
                return ", ".join(where)
            return "every arm" if len(where) == len(arms) > 1 else f"arm {', '.join(where)}"

        return [f"{words(where)}: {mistake}" for mistake, where in self._found.items()]

    def options(self, arm: str, given: Mapping[str, Any]) -> tuple[TrainOptions, dict[str, Any]] | None:
        """Both kinds of settings of an arm; where it has unknown options, those that are known."""
        if found := self.gather(arm, lambda: split_options(given)):
            return found
        with suppress(ConfigError):  # it was noted above
            return split_options({k: v for k, v in given.items() if k in OPTION_NAMES or k in DEFAULT_CFG_DICT})
        return None

    def distillation(self, arm: str, file: StudyFile) -> ArmDistillation | None:
        """What an arm asks for under ``distill``."""
        if (found := file.distillation(arm)) is None:
            return None
        if file.options(arm).get("backbone"):
            self.add(arm, "distill and backbone exclude each other: the arm starts from what it distils.")
        return self.gather(arm, lambda: ArmDistillation.read(found))

    def start(self, arm: str, given: Mapping[str, Any], distillation: ArmDistillation | None) -> _Start:
        """Read what an arm starts from; of a backbone that is to be distilled, which model it fits."""
        files = ("weights", *READING) if distillation else ("backbone", "weights", *READING)
        asked = {name: given[name] for name in files if given.get(name) is not None}
        start = self.gather(arm, lambda: self._read(TrainOptions(**asked))) or _Start()
        if distillation and distillation.arch:
            return replace(start, model=f"kd{distillation.arch.name}.yaml")
        return start

    def student(self, arm: str, distillation: ArmDistillation, model: str) -> Arch | None:
        """The backbone that an arm distils: as asked for, else that of its detector; None with a mistake."""
        if not is_yaml(model):
            if not distillation.arch:
                self.add(arm, f"distill: {model} does not say which backbone it takes. Give distill: {{model: …}}.")
            return distillation.arch
        row = self.gather(arm, lambda: BackboneRow.from_yaml(describe_detector(model)))
        found = Arch.parse(row.arch, row.max_channels) if row else None
        if found and distillation.arch and found != distillation.arch:
            self.add(
                arm,
                f"distill: the student is {distillation.arch.name}, but the detector {model} takes {found.name}. "
                "Leave the student's model out, or give the arm another detector.",
            )
            return None
        return found

    @staticmethod
    def _read_start(options: TrainOptions) -> _Start:
        """Read the checkpoint and the weights that options name; options of other kinds are left at their defaults."""
        checkpoint, path = read_backbone(options), options.weights
        if not (checkpoint or path):
            return _Start()
        try:
            weights = load_weights(path, options.trust) if path else None
            by_weights = default_model(None, weights, path) if weights is not None else None
        except KDYOLOError:
            raise
        except Exception as e:  # Ultralytics finds, fetches and unpickles it: errors of any type, all about this file
            raise CheckpointError(f"weights {path}: cannot be read ({str(e).strip()}).") from e
        by_backbone = default_model(checkpoint, None) if checkpoint else None
        if by_weights and by_backbone and by_weights != by_backbone:
            raise ModelError(f"weights are of {by_weights}, but the backbone of {by_backbone}.")
        return _Start(checkpoint, weights, by_backbone or by_weights)

    def models(self, options: Mapping[str, Mapping[str, Any]], starts: Mapping[str, _Start]) -> dict[str, str]:
        """Arm → model; all arms get the same, unless the file says otherwise."""
        given = {name: str(o["model"]) for name, o in options.items() if o.get("model")}
        fitting = {name: s.model for name, s in starts.items() if name not in given and s.model}
        arms_of: dict[str, list[str]] = {}
        for name, model in (fitting or given).items():
            arms_of.setdefault(model, []).append(name)
        if len(arms_of) > 1 and len(given) < len(options):
            asked = "; ".join(f"{model} ({', '.join(names)})" for model, names in arms_of.items())
            self.add(
                "arms", f"they ask for different models: {asked}. Give base: {{model: …}}, or a model to each arm."
            )
        common = next(iter(arms_of), DEFAULT_MODEL)
        return {name: given.get(name, common) for name in starts}

    def fit(self, arm: str, given: Mapping[str, Any], start: _Start, model: str) -> DetectorStart | None:
        """Whether what an arm starts from fits its model, and both together; None with a mistake."""
        if model.endswith(".pt") and "/" in model and not Path(model).is_file():
            self.add(arm, f"model {model}: no such file.")
            return None
        if not is_yaml(model) and not model.endswith(".pt"):
            self.gather(arm, lambda: describe_detector(model))
        options = TrainOptions(allow_partial=bool(given.get("allow_partial")))
        found = self.gather(arm, lambda: fit_start(options, model, start.checkpoint, start.weights))
        if found and found.description and not start.checkpoint and start.model:
            arch = BackboneRow.from_yaml(found.description).arch
            if start.model != f"kd{arch}.yaml":
                self.add(arm, f"weights {given['weights']} are of {start.model} and do not fit the model {model}.")
        return found

    def distinct(self, arms: list[StudyArm]) -> None:
        """Two arms that train the same would be one with twice the seeds; a mistake may hide how they differ."""
        faulty = {name for where in self._found.values() if len(where) < len(arms) for name in where}
        same: dict[str, list[str]] = {}
        for arm in arms:
            if arm.name in faulty:
                continue
            same.setdefault(json.dumps(arm.identity(), sort_keys=True, default=str), []).append(arm.name)
        for names in same.values():
            if len(names) > 1:
                self.add("arms", f"{' and '.join(names)} are the same: no option that matters differs.")

    def one_batch(self, arms: list[StudyArm]) -> None:
        """Arms with different batches are not like for like, and AutoBatch takes another one for every run."""
        arms_of: dict[str, list[str]] = {}
        for arm in arms:
            arms_of.setdefault(str(arm.ultralytics["batch"]), []).append(arm.name)
            if arm.ultralytics["batch"] < 1:
                self.add(
                    arm.name,
                    f"batch {arm.ultralytics['batch']}: AutoBatch chooses anew for every run, so arms could differ in "
                    "it. Expected a number of images; kdyolo train … --dry-run says what AutoBatch takes.",
                )
        if len(arms_of) > 1:
            found = "; ".join(f"{batch} ({', '.join(names)})" for batch, names in arms_of.items())
            self.add("arms", f"their batches differ: {found}. Give all of them one, e.g. base: {{batch: 16}}.")

    def one_fraction(self, arms: list[StudyArm], labels: Sequence[float]) -> None:
        """Arms that see other images are not like for like; ``labels`` gives each of them the same."""
        arms_of: dict[float, list[str]] = {}
        for arm in arms:
            arms_of.setdefault(float(arm.ultralytics["fraction"]), []).append(arm.name)
        instead = "Give 'labels: [0.1, 1.0]' for the whole study: every arm is then trained with each share."
        if len(arms_of) > 1:
            found = "; ".join(f"{fraction:g} ({', '.join(names)})" for fraction, names in arms_of.items())
            self.add("arms", f"their fractions of the training images differ: {found}. {instead}")
        elif labels and any(fraction != 1 for fraction in arms_of):
            self.add("arms", "fraction and labels exclude each other: both leave training images out. Give labels.")


def stand_in(student: Arch) -> BackboneCheckpoint:
    """A checkpoint with the shapes of a backbone that is yet to be distilled, and no values."""
    with torch.device("meta"):
        tensors = DistilledBackbone(student.name, student.max_channels).layers.state_dict()
    return BackboneCheckpoint(
        path=Path(TO_BE_DISTILLED),
        sha256="",
        source="distilled by the study",
        kind="Ultralytics",
        tensors=dict(tensors),
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        dtypes={name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()},
        origin={name: name for name in tensors},
        unexpected=(),
        dropped={},
        bn_eps=ULTRALYTICS_BN_EPS,
    )


def _absolute(options: dict[str, Any]) -> dict[str, Any]:
    """Files that are there by their absolute path, since an engine may run elsewhere; names stay names."""
    paths = {key: Path(str(options[key])) for key in FILES if options.get(key)}
    return {**options, **{key: str(path.resolve()) for key, path in paths.items() if path.is_file()}}


def missing_devices(devices: Sequence[str]) -> list[str]:
    """Sentences about the devices that this machine does not have."""
    try:
        read_places(devices, Machine.here())
    except ConfigError as e:
        return [f"devices: {str(e).removeprefix('device: ')}"]
    return []
