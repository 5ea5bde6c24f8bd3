"""What can be refused before a run touches anything: its folder, its data set, a backbone that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset

from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.loading import checkpoint_arch, load_into
from kdyolo.checkpoints.reader import BackboneCheckpoint
from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.errors import ConfigError, DatasetError, ModelError
from kdyolo.models.arch import FAMILIES
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.detector import weights_arch
from kdyolo.models.model_yaml import BackboneRow
from kdyolo.models.yaml_layouts import describe_detector, family_of
from kdyolo.runs.pid_file import refuse_running
from kdyolo.utils.ultralytics_patches import safe_load_forced

DEFAULT_MODEL = "kdyolov8s.yaml"


def new_work_dir(overrides: Mapping[str, Any]) -> Path | None:
    """The work dir if it is ours to create (and so to remove, should set-up fail).

    Raises:
        ConfigError: It exists, is not empty, and ``exist_ok`` is not set.
        RunError: It may be overwritten, but the run in it is going on.
    """
    if not overrides.get("save_dir"):
        return None
    path = Path(overrides["save_dir"])
    if not path.exists():
        return path
    if not path.is_dir() or (any(path.iterdir()) and not overrides.get("exist_ok")):
        raise ConfigError(
            f"work dir {path} exists and is not empty. Choose another, resume it with --resume {path}, "
            "or overwrite it with --exist-ok."
        )
    refuse_running(path)
    return None


def check_data(data: Any) -> None:
    """Refuse a data set YAML that cannot be used.

    Raises:
        ConfigError: None is given.
        DatasetError: It cannot be read, or its images are not there.
    """
    if not data:
        raise ConfigError("no data: expected a data set YAML, e.g. data='datasets/coco/coco.yaml'.")
    try:
        check_det_dataset(data)
    except Exception as e:  # Ultralytics raises many types here; each of them is about the data set
        raise DatasetError(f"data {data}: {str(e).strip()}") from e


def fitting_backbone(
    settings: TrainOptions, model: str | None, checkpoint: BackboneCheckpoint | None = None
) -> tuple[BackboneCheckpoint | None, LoadReport | None]:
    """Read the backbone checkpoint, if one is given, and refuse one that does not fit the model YAML.

    Args:
        settings: They name the file and how it is to be read.
        model: Model YAML, or anything else, which is not checked.
        checkpoint: What these settings read, if they have been read already.

    Raises:
        CheckpointError: It cannot be read, or does not fill the backbone.
        ModelError: The YAML cannot be found or resolved.
    """
    checkpoint = checkpoint or settings.read_backbone()
    return checkpoint, fit_report(checkpoint, model, settings.allow_partial)


def fit_report(checkpoint: BackboneCheckpoint | None, model: str | None, allow_partial: bool) -> LoadReport | None:
    """How a backbone checkpoint fits a model YAML; None without one of the two.

    Raises:
        CheckpointError: It does not fill the backbone.
        ModelError: The YAML cannot be found or resolved.
    """
    if not (checkpoint and model and Path(model).suffix in {".yaml", ".yml"}):
        return None
    arch = checkpoint_arch(checkpoint, family_of(model))
    description = describe_detector(model, arch, checkpoint.bn_eps)
    row = BackboneRow.from_yaml(description)
    with torch.device("meta"):
        backbone = DistilledBackbone(row.arch, row.max_channels, row.bn_eps, row.levels)
    return load_into(backbone, checkpoint, allow_partial)


def load_weights(path: str, trust: bool) -> Any:
    """The detector in an Ultralytics checkpoint, unpickled with restrictions unless trusted."""
    with safe_load_forced(trust):
        return YOLO(path).model


def default_model(checkpoint: BackboneCheckpoint | None, weights: str | None, trust: bool) -> str:
    """The model YAML that the checkpoint's or the weights' shapes ask for."""
    if checkpoint is not None:
        return f"kd{checkpoint_arch(checkpoint).name}.yaml"
    if weights is not None:
        arch, agreeing = weights_arch(load_weights(weights, trust))
        if not agreeing:
            raise ModelError(
                f"{weights}: no detector of {', '.join(FAMILIES)}. Choose the --model that it was made with."
            )
        return f"kd{arch.name}.yaml"
    return DEFAULT_MODEL
