"""Teachers from a checkpoint of a YOLO: an Ultralytics ``.pt``, or any file that ``--backbone`` takes."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from kdyolo.checkpoints.loading import checkpoint_arch, load_into
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.distillation.teachers.protocol import TeacherMap
from kdyolo.models.backbone import DistilledBackbone


class YoloTeacher(nn.Module):
    """The backbone of a YOLO as a teacher, with its maps P2 to P5.

    Attributes:
        licence: AGPL-3.0 where Ultralytics' own training wrote the file; else unknown.
        report: How its weights were loaded, in a line.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __init__(self, file: Path, size: int) -> None:
        super().__init__()
        checkpoint = read_checkpoint(file)
        arch = checkpoint_arch(checkpoint)
        self.net = DistilledBackbone(arch.name, arch.max_channels, checkpoint.bn_eps, ("P2", "P3", "P4", "P5"))
        self.report = load_into(self.net, checkpoint).summary()
        self.net.eval().requires_grad_(False)
        self.name, self.digest = f"{arch.name} ({file.name})", checkpoint.sha256
        self.licence = "AGPL-3.0" if checkpoint.kind == "Ultralytics" else None
        self.size = -(-size // self.net.strides[-1]) * self.net.strides[-1]
        self.maps = tuple(
            TeacherMap(level, channels, stride)
            for level, channels, stride in zip(self.net.levels, self.net.channels, self.net.strides, strict=True)
        )

    def train(self, mode: bool = True) -> YoloTeacher:
        """Stay in evaluation mode, whatever is asked: a teacher is frozen."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, size, size] in 0–1 → P2 to P5 [B, channels, height, width]."""
        maps: list[Tensor] = self.net(images)
        return maps

    def fold(self) -> None:
        """Compute as fast as a CPU can, with BatchNorms folded into convolutions, in NHWC; its maps stay."""
        self.net.set_folded(True)
