"""Files of a distilled backbone: the checkpoints of a run, and the safetensors file that ``--backbone`` takes."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdyolo._version import __version__
from kdyolo.checkpoints.safe_load import TENSORS_SHA256, tensors_sha256
from kdyolo.distillation.plan import DistillPlan
from kdyolo.distillation.taps import taps_text
from kdyolo.models.arch import BN_COUNTER
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.utils.atomic import write_atomic, write_tensors

BACKBONE_NAME = "backbone.safetensors"


def backbone_tensors(backbone: DistilledBackbone, untrained: tuple[int, ...]) -> dict[str, Tensor]:
    """Tensors under Ultralytics' names (``model.0.conv.weight``), on the CPU.

    Args:
        backbone: The backbone.
        untrained: Numbers of layers that never trained; their BatchNorms count no batch, which readers know them by.
    """
    tensors = {f"model.{name}": t.detach().cpu().contiguous() for name, t in backbone.layers.state_dict().items()}
    for name, tensor in tensors.items():
        if name.endswith(BN_COUNTER) and int(name.split(".")[1]) in untrained:
            tensors[name] = torch.zeros_like(tensor)
    return tensors


def backbone_metadata(plan: DistillPlan, epoch: int) -> dict[str, Any]:
    """How a backbone came about, as plain values.

    Args:
        plan: Plan of its distillation.
        epoch: Epoch that it is of, from 1.
    """
    options, backbone, teacher = plan.options, plan.student.backbone, plan.teacher
    return {
        "arch": backbone.arch.name,
        "bn_eps": backbone.bn_eps,
        "epoch": epoch,
        "input_norm": "0-1",
        "resize": options.resize,
        "imgsz": options.imgsz,
        "teacher": teacher.name,
        "teacher_sha256": teacher.digest,
        "teacher_licence": teacher.licence or "unknown",
        "taps": taps_text(plan.taps, teacher),
        "loss": options.loss,
        "data": ", ".join(plan.data),
        "train_images": len(plan.split.train),
        "untrained": ",".join(map(str, plan.untrained)),
        "kdyolo": __version__,
    }


def write_checkpoint(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write a checkpoint of the run, which every command that takes a backbone reads."""
    buffer = BytesIO()
    torch.save({"meta": metadata, "state_dict": tensors}, buffer)
    write_atomic(path, buffer.getbuffer())


def write_backbone(checkpoint: Path, target: Path) -> Path:
    """Turn a checkpoint of the run into the safetensors file that it leaves.

    Args:
        checkpoint: What :func:`write_checkpoint` wrote.
        target: File to write.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    tensors: dict[str, Tensor] = content["state_dict"]
    metadata = {key: str(value) for key, value in content["meta"].items()}
    metadata |= {"format": "pt", TENSORS_SHA256: tensors_sha256(tensors)}
    write_tensors(target, tensors, metadata)
    return target
