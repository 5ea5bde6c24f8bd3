"""State of an interrupted distillation, from which resuming gives, bit for bit, what never stopping gives."""

from __future__ import annotations

from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdyolo.checkpoints.safe_load import load_content
from kdyolo.distillation.run.backbone_file import BACKBONE_NAME
from kdyolo.errors import CheckpointError, RunError
from kdyolo.runs.contents.forms import DistillStateForm
from kdyolo.runs.contents.readers import check_state, state_damaged
from kdyolo.runs.files import RECORD_NAME
from kdyolo.utils.atomic import write_atomic


@dataclass(frozen=True, kw_only=True, eq=False)
class DistillState:
    """Content of ``weights/resume.pt``, whose keys are these fields; every epoch starts from seeds of its own.

    Attributes:
        epoch: Number of finished epochs.
        options: Options of the run, as plain data.
        data: Where the images come from.
        teacher: The teacher as it was given.
        teacher_digest: SHA-256 of the teacher's weights.
        student: Tensors of backbone and heads by name.
        optimizer: State of the optimizer.
        scaler: State of the gradient scaler; empty where it is off.
        statistics: Level → mean and deviation of each of the teacher's channels.
        floors: Level → centred cosine of its position alone.
        best: Lowest loss on the held-out images so far.
        images: Number of images to learn from.
        threads: Threads that torch computed with on the CPU.
        ranks: Number of processes that trained.
        projection: Digest of the PCA that its features were projected with; empty without one.
        images_digest: Digest of names and sizes of all images, see ``ImageSplit.digest``; empty where none was kept.
    """

    epoch: int
    options: dict[str, Any]
    data: list[str]
    teacher: str
    teacher_digest: str
    student: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    statistics: dict[str, list[Tensor]]
    floors: dict[str, float]
    best: float
    images: int
    threads: int
    ranks: int
    projection: str = ""
    images_digest: str = ""

    def save(self, path: Path) -> None:
        """Write the state, completely or not at all."""
        buffer = BytesIO()
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, buffer)
        write_atomic(path, buffer.getbuffer(), flush=True)

    @classmethod
    def load(cls, path: Path) -> DistillState:
        """Read a state, all tensors to the CPU.

        Raises:
            RunError: There is none, or the file is damaged.
        """
        if not path.is_file() or not path.stat().st_size:
            raise RunError(f"{path.parent.parent}: cannot be resumed, {_why_not(path.parent.parent)}")
        try:
            content, _ = load_content(path, lambda found: found.data, map_large=False)
        except CheckpointError as e:
            raise state_damaged(path, str(e).removeprefix(f"{path}: ")) from e
        check_state(path, content, DistillStateForm)
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})


def _why_not(folder: Path) -> str:
    """Why a folder without a state cannot be resumed, and what to do."""
    if not folder.is_dir():
        return "there is no such folder. Give the folder of an interrupted run."
    if (folder / BACKBONE_NAME).is_file():
        return f"the run is finished: {folder / BACKBONE_NAME} is there. Start a new one for more epochs."
    if not (folder / RECORD_NAME).is_file():
        return f"it is no run of a distillation, it has no {RECORD_NAME}. Give the folder of an interrupted run."
    return "it was ended before its first epoch was saved. Start it again with --exist-ok."
