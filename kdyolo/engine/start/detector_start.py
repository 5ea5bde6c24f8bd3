"""Start of a detector: the backbone checkpoint, weights and model YAML that it starts from, read once, found to fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel

from kdyolo.checkpoints.checks.missing_models import refuse_missing, refuse_weights_alone
from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.loading import changed_tensors, checkpoint_arch, load_into
from kdyolo.checkpoints.reader import BackboneCheckpoint, read_checkpoint
from kdyolo.checkpoints.safe_load import stock_loading
from kdyolo.engine.foreign_errors import foreign_errors_explained
from kdyolo.engine.options.train_options import READING, START, TrainOptions
from kdyolo.errors import CheckpointError, ConfigError, ModelError
from kdyolo.models.arch import FAMILIES
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.detector import KDDetectionModel, from_stock, resolve_description, weights_arch
from kdyolo.models.model_yaml import BackboneRow, Yaml
from kdyolo.models.yaml_layouts import describe_detector, family_of

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

    def description_for(self, cfg: Any, weights: nn.Module | None) -> Yaml | None:
        """The resolved description, if it is that of ``cfg`` with these weights; else None."""
        known = self.checkpoint is not None or weights is self.weights
        return self.description if known and isinstance(cfg, (str, Path)) and str(cfg) == self.model else None


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
        CheckpointError: The checkpoint does not fill the backbone; or the detector is not there.
        ModelError: The YAML cannot be found or resolved.
    """
    if not is_yaml(model):
        refuse_missing(model)
        if not options.trust:
            refuse_weights_alone(model)
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
    """The detector in an Ultralytics checkpoint, unpickled with restrictions unless trusted.

    Raises:
        CheckpointError: The file is no such checkpoint.
    """
    refuse_missing(path)
    with stock_loading(trust), foreign_errors_explained():
        model = YOLO(path).model
    if not isinstance(model, nn.Module):  # of other files, such as exported ones, Ultralytics keeps the name
        raise CheckpointError(f"{path}: expected an Ultralytics checkpoint (.pt), found another kind of file.")
    return model


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


def held_start(
    given: DetectorStart, model: str, held: nn.Module, origin: str, changed: Collection[str]
) -> DetectorStart:
    """What a detector starts from if its weights are in memory; a backbone that is still the given one keeps its name.

    Args:
        given: What the detector was made from.
        model: Model YAML, or a trained detector, by the name that Ultralytics knows.
        held: The detector with its weights.
        origin: Where the weights come from, in words.
        changed: Names of tensors in ``held`` that were set one by one.

    Raises:
        ModelError: What is held cannot be trained.
    """
    if not isinstance(held, DetectionModel) or held.is_fused():
        what = "a fused model, whose BatchNorms are gone" if isinstance(held, DetectionModel) else type(held).__name__
        raise ModelError(f"the model holds {what}; training takes an Ultralytics detector as KDYOLO or YOLO builds it.")
    description = resolve_description(held.yaml, held, None, None)
    nested = held if isinstance(held, KDDetectionModel) else from_stock(held, description)
    epsilons = {module.eps for module in nested.backbone.layers.modules() if isinstance(module, nn.BatchNorm2d)}
    if len(epsilons) > 1:
        raise ModelError(f"the backbone's BatchNorms have several epsilons ({sorted(epsilons)}); give all of them one.")
    nested.backbone.set_bn_eps(*epsilons)  # layers that were put in bring their own
    replace(BackboneRow.from_yaml(description), bn_eps=nested.backbone.bn_eps).to_yaml(description)
    names = changed if nested is held else map(nested.nested_name, changed)
    file = given.checkpoint
    if file and (changed_tensors(nested.backbone, file.tensors) or nested.backbone.bn_eps != file.bn_eps):
        file = None
    return DetectorStart(
        replace(given.options, weights=None, random_init=False) if file else TrainOptions(),
        model,
        description,
        checkpoint=file,
        weights=held,
        report=given.report if file else None,
        in_memory=origin,
        backbone_by_hand=any(name.startswith("model.0.") for name in names),
    )
