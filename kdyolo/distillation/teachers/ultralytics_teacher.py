"""Teachers from a checkpoint of a YOLO: an Ultralytics ``.pt``, or any file that ``--backbone`` takes."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from kdyolo.checkpoints.loading import checkpoint_arch, load_into
from kdyolo.checkpoints.reader import read_checkpoint
from kdyolo.distillation.teachers.protocol import TeacherMap
from kdyolo.models.backbone import DistilledBackbone


class YoloTeacher(nn.Module):
    """The backbone of a YOLO as a teacher, with its maps P2 to P5, but for those of layers that never trained.

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
        untrained = min((int(name.partition(".")[0]) for name in self.net.left_out), default=len(self.net.layers))
        every = zip(self.net.levels, self.net.channels, self.net.strides, self.net.taps, strict=True)
        self.maps = tuple(TeacherMap(level, c, stride) for level, c, stride, tap in every if tap < untrained)

    def train(self, mode: bool = True) -> YoloTeacher:
        """Stay in evaluation mode, whatever is asked: a teacher is frozen."""
        return super().train(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images [B, 3, size, size] in 0–1 → its maps [B, channels, height, width]."""
        maps: list[Tensor] = self.net(images)
        return maps[: len(self.maps)]

    def fold(self) -> None:
        """Compute as fast as a CPU can, with BatchNorms folded into convolutions, in NHWC; its maps stay."""
        self.net.set_folded(True)
