"""Files as distillation runs leave them, of small tensors: reading never asks how many a network has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdyolo.checkpoints.key_naming import CSPDARKNET_LAYERS
from kdyolo.models.backbone import DistilledBackbone

# The old system's names, the names of its older C2f, and YOLOv8's: written out, so that the code's table is not
# compared with itself.
NAMES = [
    ("stem.conv.weight", "stem.conv.weight", "0.conv.weight"),
    ("stem.bn.num_batches_tracked", "stem.bn.num_batches_tracked", "0.bn.num_batches_tracked"),
    ("stage1.0.bn.bias", "stage1.0.bn.bias", "1.bn.bias"),
    ("stage1.1.cv1.conv.weight", "stage1.1.main_conv.conv.weight", "2.cv1.conv.weight"),
    ("stage1.1.cv2.bn.weight", "stage1.1.final_conv.bn.weight", "2.cv2.bn.weight"),
    ("stage1.1.m.0.cv1.conv.weight", "stage1.1.blocks.0.cv1.conv.weight", "2.m.0.cv1.conv.weight"),
    ("stage2.0.conv.weight", "stage2.0.conv.weight", "3.conv.weight"),
    ("stage2.1.m.1.cv2.bn.running_var", "stage2.1.blocks.1.cv2.bn.running_var", "4.m.1.cv2.bn.running_var"),
    ("stage3.0.bn.running_mean", "stage3.0.bn.running_mean", "5.bn.running_mean"),
    ("stage3.1.cv2.bn.bias", "stage3.1.final_conv.bn.bias", "6.cv2.bn.bias"),
    ("stage4.0.conv.weight", "stage4.0.conv.weight", "7.conv.weight"),
    ("stage4.1.m.0.cv2.bn.weight", "stage4.1.blocks.0.cv2.bn.weight", "8.m.0.cv2.bn.weight"),
    ("stage4.2.cv1.conv.weight", "stage4.2.cv1.conv.weight", "9.cv1.conv.weight"),
    ("stage4.2.cv2.bn.running_var", "stage4.2.cv2.bn.running_var", "9.cv2.bn.running_var"),
]
WRAPPERS = ["_orig_mod", "module", "backbone", "csp_darknet"]
PREFIXES = [
    "",
    "_orig_mod.",
    "module.",
    "backbone.",
    "backbone.backbone.",
    "csp_darknet.",
    "_orig_mod.backbone.csp_darknet.",
    "module._orig_mod.backbone.",
    "_orig_mod.module.backbone.backbone.csp_darknet.",
    "backbone.csp_darknet._orig_mod.module.",
]
# Reading never asks how many tensors a network has, so a few small ones stand for a file.
TENSORS = 14


def weights(prefix: str = "", style: int = 0) -> dict[str, Tensor]:
    """Small random tensors under the old system's names (style 0), its older names (1) or YOLOv8's (2)."""
    generator = torch.Generator().manual_seed(7)
    return {
        prefix + names[style]: torch.tensor(12)
        if names[0].endswith("num_batches_tracked")
        else torch.rand(3, 2, generator=generator)
        for names in NAMES
    }


EXPECTED = weights(style=2)


def adapter() -> dict[str, Tensor]:
    return {"weight": torch.rand(4, 2), "bias": torch.rand(4)}


def resume_file(tensors: dict[str, Tensor], **more: Any) -> dict[str, Any]:
    """What the old system's training saved, with an optimizer that has really stepped."""
    parameter = nn.Parameter(torch.rand(3))
    optimizer = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimizer.step()
    return {
        "backbone": tensors,
        "edge_adapter": adapter(),
        "edge_head": adapter(),
        "feature_adapter": adapter(),
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0, "_growth_tracker": 3},
        "epoch": 4,
        "config": {"backbone": "yolov8", "model_size": "n", "image_size": 1024, "layers": [1, 2]},
        **more,
    }


def clean_export(tensors: dict[str, Tensor], **meta: Any) -> dict[str, Any]:
    return {
        "meta": {"epoch": 9, "backbone": "yolov8", "model_size": "n", **meta},
        "state_dict": tensors,
        "adapter_state_dict": {"conv.weight": torch.rand(2, 2)},
    }


def written(path: Path, content: Any, legacy: bool = False) -> Path:
    """The content in torch's zip format, or in the one before it."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def old_names(backbone: DistilledBackbone) -> dict[str, torch.Tensor]:
    """A backbone's tensors under the old system's names (``stage1.1.cv1.conv.weight``)."""
    stage_of = {layer: stage for stage, layer in CSPDARKNET_LAYERS.items()}
    split = ((name.partition("."), tensor) for name, tensor in backbone.layers.state_dict().items())
    return {f"{stage_of[layer]}.{rest}": tensor for (layer, _, rest), tensor in split}
