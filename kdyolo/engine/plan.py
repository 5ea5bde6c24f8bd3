"""Plan of a training: its options, what its detector starts from, and its data set, each read and checked once.

:func:`plan_run` makes a plan before a run touches anything. The command, ``KDYOLO.train``, the dry run and studies each
make one and hand it to the trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.loading import checkpoint_arch, load_into
from kdyolo.checkpoints.reader import BackboneCheckpoint, read_checkpoint
from kdyolo.checkpoints.safe_load import stock_loading
from kdyolo.data.dataset_yaml import check_for_ultralytics
from kdyolo.engine.options.train_options import READING, START, TrainOptions
from kdyolo.engine.options.validation import split_options
from kdyolo.engine.ranks.devices import Machine, read_devices
from kdyolo.errors import ConfigError, ModelError, collect_mistakes
from kdyolo.models.arch import FAMILIES
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.detector import weights_arch
from kdyolo.models.freeze_schedule import FreezeSchedule
from kdyolo.models.model_yaml import BackboneRow, Yaml
from kdyolo.models.yaml_layouts import describe_detector, family_of
from kdyolo.runs.files import LOG_NAME
from kdyolo.runs.pid_file import refuse_running
from kdyolo.utils import distributed

DEFAULT_MODEL = "kdyolov8s.yaml"


@dataclass(frozen=True)
class DetectorStart:
    """What a detector starts from, read and found to fit.

    Attributes:
        options: Options that name the files and how they are read; those of the run itself are of no account here.
        model: Model YAML (name or path), or a trained detector (``.pt``).
        description: The model YAML, resolved for the checkpoint's shapes. None for a trained detector.
        checkpoint: The backbone checkpoint, read; None without one.
        weights: The detector in the Ultralytics checkpoint that the model YAML's detector starts from; None without.
        report: How the checkpoint's shapes fit the description; None without one of the two.
        in_memory: Where ``weights`` that a person put into the model come from, in words; None for those of a file
            that ``options`` name.
        backbone_by_hand: Whether the backbone in these weights was put there tensor by tensor.
    """

    options: TrainOptions
    model: str
    description: Yaml | None = None
    checkpoint: BackboneCheckpoint | None = None
    weights: nn.Module | None = None
    report: LoadReport | None = None
    in_memory: str | None = None
    backbone_by_hand: bool = False

    def serves(self, options: TrainOptions, model: str | None) -> bool:
        """Whether these options and this model ask for the same start, so that nothing has to be read again."""
        return model in (None, self.model) and all(getattr(options, n) == getattr(self.options, n) for n in START)

    def combined(self, options: TrainOptions, overrides: Mapping[str, Any]) -> DetectorStart:
        """This start from weights in memory, with the backbone laid over it that a training asks for.

        Args:
            options: kdyolo's options of the training.
            overrides: Ultralytics' settings of it.

        Raises:
            ConfigError: The training asks for other weights in place of those in memory.
            CheckpointError: The backbone checkpoint cannot be read, or does not fill the backbone.
        """
        asked = {"weights": options.weights, "random_init": options.random_init}
        if (pretrained := overrides.get("pretrained")) not in (None, True):
            asked["pretrained"] = options.weights or str(pretrained)
        if self.backbone_by_hand:
            asked["backbone"] = options.backbone
        if others := [f"{name}={value}" for name, value in asked.items() if value]:
            raise ConfigError(
                f"the model holds {self.in_memory}, but {others[0]} asks to start from something else. Leave "
                f"{others[0].partition('=')[0]} out to train what is in the model, or make a new KDYOLO for the other."
            )
        if self.serves(options, None):
            return self
        assert self.description is not None  # weights in memory have one
        checkpoint = read_backbone(options)
        report = fit_report(checkpoint, self.description, options.allow_partial) if checkpoint else None
        return replace(self, options=options, checkpoint=checkpoint, report=report)

    def check_reaches_ranks(self) -> None:
        """Refuse weights in memory for a run whose processes are started anew, since they read files only.

        Raises:
            ConfigError: The weights are in this process's memory alone.
        """
        if self.in_memory is not None:
            raise ConfigError(
                f"the model holds {self.in_memory}; the processes of a run on several GPUs start anew and do not get "
                "them. Give a file instead (weights= or backbone=), or start your script with torchrun, so that each "
                "process puts them in."
            )

    def description_for(self, cfg: Any, weights: nn.Module | None) -> Yaml | None:
        """The resolved description, if it is that of ``cfg`` with these weights; else None."""
        known = self.checkpoint is not None or weights is self.weights
        return self.description if known and isinstance(cfg, (str, Path)) and str(cfg) == self.model else None


@dataclass(frozen=True)
class RunPlan:
    """What a training is to do, checked before it touches anything; made once and handed on.

    Attributes:
        options: kdyolo's options, the recipe's values included.
        overrides: Settings for Ultralytics that were asked for, the recipe's values and the model included.
        start: What the detector starts from.
        schedule: What is frozen when.
        data: The data set's description as Ultralytics checked it. None for a resumed run, whose trainer checks it.
    """

    options: TrainOptions
    overrides: Mapping[str, Any]
    start: DetectorStart
    schedule: FreezeSchedule
    data: Mapping[str, Any] | None = field(default=None, repr=False)

    def data_of(self, data: Any) -> dict[str, Any] | None:
        """A copy of the checked description, if ``data`` is still the data set that was planned with; else None."""
        return deepcopy(dict(self.data)) if self.data is not None and data == self.overrides.get("data") else None

    def in_folder(self, folder: Path) -> RunPlan:
        """The same plan for a run in another folder, which is to be that run's alone."""
        options = replace(self.options, work_dir=str(folder))
        return replace(self, options=options, overrides={**self.overrides, "save_dir": str(folder.resolve())})

    def on_first_device(self) -> RunPlan:
        """The same plan for this process alone, where the run is to have a process on each of several devices."""
        found = read_devices(self.overrides.get("device"), Machine.here(), {})
        if found.processes == 1:
            return self
        return replace(self, overrides={**self.overrides, "device": found.text.partition(",")[0]})


def plan_run(overrides: Mapping[str, Any], *, start: DetectorStart | None = None) -> RunPlan:
    """Check what ``train`` was given, read what the run starts from, and make the plan of the run.

    Args:
        overrides: Keywords as given to ``train``: kdyolo's and Ultralytics' keys together, ``model`` among them or not.
        start: A start that has been read already; used if the options ask for no other. One from weights in memory
            is always used.

    Raises:
        ConfigError: Every mistake in the options; or a work dir that is in use; or no data set.
        CheckpointError: The backbone checkpoint cannot be read, or does not fill the backbone.
        ModelError: The model YAML cannot be found or resolved.
        DatasetError: The data set cannot be used.
    """
    options, rest = split_options(overrides)
    if not distributed.is_distributed():  # of several ranks, the first looks when it knows the folder
        new_work_dir(rest)
    model = rest.get("model")
    if start is not None and start.in_memory is not None:
        start = start.combined(options, rest)
    elif start is None or not start.serves(options, model):
        start = read_start(options, model)
    return make_plan(options, rest, start, check_data(rest.get("data"), rest.get("split"), options.run_download))


def plan_with_every_mistake(overrides: Mapping[str, Any]) -> RunPlan:
    """The same plan, after looking for every mistake in data set, options, work dir, checkpoint and model.

    Args:
        overrides: What ``train`` would get.

    Raises:
        ConfigError: All mistakes, of whatever kind, in one error.
    """
    start = None
    with collect_mistakes() as mistakes:
        data = mistakes.result(lambda: check_data(overrides.get("data"), overrides.get("split")))
        if split := mistakes.result(lambda: split_options(overrides)):
            options, rest = split
            mistakes.result(lambda: new_work_dir(rest))
            model = rest.get("model")
            checkpoint = mistakes.result(lambda: read_backbone(options))
            if checkpoint or not options.backbone:
                start = mistakes.result(lambda: read_start(options, model, checkpoint))
            elif model and is_yaml(model):
                mistakes.result(lambda: describe_detector(model))
    assert split is not None  # else there were mistakes, as in the next line
    assert start is not None
    return make_plan(*split, start, data)


def make_plan(
    options: TrainOptions, overrides: Mapping[str, Any], start: DetectorStart, data: Mapping[str, Any] | None
) -> RunPlan:
    """The plan that follows from parts that have been checked.

    Args:
        options: kdyolo's options.
        overrides: Settings for Ultralytics; those that its ``YOLO.train`` adds may be missing.
        start: What the detector starts from.
        data: The data set's description, checked; None: the trainer checks it.
    """
    known = {"task": "detect", **overrides, "model": start.model, "mode": "train"}
    known.setdefault("pretrained", True)
    epochs = known.get("epochs") or DEFAULT_CFG_DICT["epochs"]
    return RunPlan(options, known, start, options.schedule(epochs), data)


def resumed_plan(options: TrainOptions, overrides: Mapping[str, Any], description: Yaml) -> RunPlan:
    """The plan of a run that goes on, from what it has kept; its trainer knows the number of epochs and the data set.

    Args:
        options: kdyolo's options, as they were.
        overrides: Settings for Ultralytics that may change, and ``resume``.
        description: The model's resolved description, as it was.
    """
    return make_plan(options, overrides, DetectorStart(options, str(overrides["resume"]), description), None)


def read_start(
    options: TrainOptions, model: str | Path | None = None, checkpoint: BackboneCheckpoint | None = None
) -> DetectorStart:
    """Read what a detector starts from, and refuse a backbone that does not fit the model YAML.

    Args:
        options: They name the files and how they are read.
        model: Model YAML or trained detector. Default: the YAML whose scale the checkpoint or the weights ask for.
        checkpoint: The backbone checkpoint, if it has been read already.

    Raises:
        CheckpointError: The backbone checkpoint cannot be read, or does not fill the backbone.
        ModelError: The YAML cannot be found or resolved, or the weights are of no known family.
    """
    checkpoint = checkpoint or read_backbone(options)
    loads = options.weights and not (model and not is_yaml(model))
    weights = load_weights(str(options.weights), options.trust) if loads else None
    return fit_start(options, str(model or default_model(checkpoint, weights, options.weights)), checkpoint, weights)


def fit_start(
    options: TrainOptions, model: str, checkpoint: BackboneCheckpoint | None, weights: nn.Module | None
) -> DetectorStart:
    """Bring together what a detector starts from, and refuse a backbone that does not fit the model YAML.

    Args:
        options: They say whether a backbone may be filled in part.
        model: Model YAML, or a trained detector, of which nothing is checked.
        checkpoint: The backbone checkpoint, if one is given.
        weights: The detector to start from, if one is given.

    Raises:
        CheckpointError: The checkpoint does not fill the backbone.
        ModelError: The YAML cannot be found or resolved.
    """
    if not is_yaml(model):
        return DetectorStart(options, model, checkpoint=checkpoint)
    description = _described(model, checkpoint, weights)
    report = fit_report(checkpoint, description, options.allow_partial) if checkpoint else None
    return DetectorStart(options, model, description, checkpoint, weights, report)


def is_yaml(model: str | Path) -> bool:
    """Whether a model is a YAML by its name, and not a trained detector."""
    return Path(model).suffix in {".yaml", ".yml"}


def read_backbone(options: TrainOptions) -> BackboneCheckpoint | None:
    """The backbone checkpoint, read as the options ask; None if they name none.

    Raises:
        CheckpointError: See :func:`kdyolo.checkpoints.reader.read_checkpoint`.
    """
    if options.backbone is None:
        return None
    return read_checkpoint(options.backbone, **{name: getattr(options, name) for name in READING})


def _described(model: str, checkpoint: BackboneCheckpoint | None, weights: nn.Module | None) -> Yaml:
    """The model YAML with scale, widths and epsilon of the checkpoint, else of the weights, else its own."""
    if checkpoint is not None:
        return describe_detector(model, checkpoint_arch(checkpoint, family_of(model)), checkpoint.bn_eps)
    return describe_detector(model, weights_arch(weights)[0] if weights is not None else None)


def fit_report(checkpoint: BackboneCheckpoint, description: Yaml, allow_partial: bool) -> LoadReport:
    """How a backbone checkpoint's shapes fit the backbone of a resolved description.

    Raises:
        CheckpointError: It does not fill the backbone.
    """
    row = BackboneRow.from_yaml(description)
    with torch.device("meta"):
        backbone = DistilledBackbone(row.arch, row.max_channels, row.bn_eps, row.levels)
    return load_into(backbone, checkpoint, allow_partial)


def load_weights(path: str, trust: bool) -> nn.Module:
    """The detector in an Ultralytics checkpoint, unpickled with restrictions unless trusted."""
    with stock_loading(trust):
        return YOLO(path).model  # type: ignore[no-any-return]


def default_model(checkpoint: BackboneCheckpoint | None, weights: nn.Module | None, path: str | None = None) -> str:
    """The model YAML that the shapes of the checkpoint, else of the weights ask for.

    Args:
        checkpoint: The backbone checkpoint, if one is given.
        weights: The detector to start from, if one is given.
        path: Where that detector was read, for the message.

    Raises:
        ModelError: The weights are of no known family.
    """
    if checkpoint is not None:
        return f"kd{checkpoint_arch(checkpoint).name}.yaml"
    if weights is not None:
        arch, agreeing = weights_arch(weights)
        if not agreeing:
            raise ModelError(f"{path}: no detector of {', '.join(FAMILIES)}. Choose the --model that it was made with.")
        return f"kd{arch.name}.yaml"
    return DEFAULT_MODEL


def new_work_dir(overrides: Mapping[str, Any]) -> Path | None:
    """The work dir if it is ours to create (and so to remove, should the run fail early).

    Raises:
        ConfigError: It exists, holds more than the log of a run that failed early, and ``exist_ok`` is not set.
        RunError: It may be overwritten, but the run in it is going on.
    """
    if not overrides.get("save_dir"):
        return None
    path = Path(overrides["save_dir"])
    if not path.exists():
        return path
    if not path.is_dir() or ({p.name for p in path.iterdir()} - {LOG_NAME} and not overrides.get("exist_ok")):
        raise ConfigError(
            f"work dir {path} exists and is not empty. Choose another, resume it with --resume {path}, "
            "or overwrite it with --exist-ok."
        )
    refuse_running(path)
    return None


def check_data(data: Any, split: str | None = None, run_download: bool = False) -> dict[str, Any]:
    """Check a data set YAML, and refuse one that cannot be used. Nothing is fetched, and nothing in it is run.

    Args:
        data: Path or name of the YAML.
        split: Split that is evaluated. Default: Ultralytics' (``val``).
        run_download: Run what the YAML has under ``download`` if images are missing, after showing it.

    Returns:
        The data set's description with absolute paths, as Ultralytics' trainers take it.

    Raises:
        ConfigError: None is given.
        DatasetError: It cannot be read, or its images are not there.
    """
    if not data:
        raise ConfigError("no data: expected a data set YAML, e.g. data='datasets/coco/coco.yaml'.")
    alone = not distributed.is_distributed()  # several ranks would run it at the same time
    return check_for_ultralytics(data, split or DEFAULT_CFG_DICT["split"], run_download and alone)
