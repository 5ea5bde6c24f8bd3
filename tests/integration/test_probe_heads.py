"""Detection heads of a probe, by the command: trained on frozen backbones, on the same images, and kept."""

from __future__ import annotations

from pathlib import Path

import torch

from kdyolo import read_checkpoint
from kdyolo.checkpoints.loading import load_into
from kdyolo.cli import cli
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.runs.history import read_run


def tensors(file: Path) -> dict[str, torch.Tensor]:
    """Of the backbone in a file, in the precision of a finished checkpoint."""
    found = read_checkpoint(file)
    backbone = DistilledBackbone("yolov8n", bn_eps=found.bn_eps)
    load_into(backbone, found)
    return {name: tensor.half() for name, tensor in backbone.state_dict().items()}


def test_heads_are_trained_on_frozen_backbones_and_kept(shapes: Path, checkpoint: Path, tmp_path: Path, capsys) -> None:
    """The command prints its result alone; what the trainings print is in their logs."""
    told = "--split train --imgsz 32 --batch 4 --detect --detect-epochs 1 --detect-images 4 --work-dir heads"
    cli.main(["probe", str(checkpoint), "--data", str(shapes), *told.split()], standalone_mode=False)
    printed = capsys.readouterr().out
    assert printed.startswith("12 objects of 3 classes in 8 images")
    assert "Epoch" not in printed
    runs = [record.parent for record in sorted(Path("heads").glob("*/seed0/kdyolo.yaml"))]
    assert len(runs) == 2
    for run, start in zip(runs, (checkpoint, Path("heads/1.safetensors")), strict=True):
        before, after = tensors(start), tensors(run / "weights/last.pt")
        changed = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
        scales = [name for name in after if name.endswith("bn.weight")]
        assert changed == (scales if start == checkpoint else [])  # its other epsilon is folded into the scales
        assert read_run(run).phase(1) == "backbone frozen"
        assert "GPU_mem" in (run / "train.log").read_text()
