"""kdyolo: from a distilled backbone to a COCO detector on Ultralytics.

``import kdyolo`` is light: torch and Ultralytics are imported only when one of the names below is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kdyolo.checkpoints.checkpoint_diff import compare_checkpoints
    from kdyolo.checkpoints.export import export_stock, extract_backbone
    from kdyolo.checkpoints.inspection import inspect_checkpoint
    from kdyolo.checkpoints.loading import load_backbone
    from kdyolo.checkpoints.reader import read_checkpoint
    from kdyolo.data.coco_to_yolo import convert_coco
    from kdyolo.engine.model import KDYOLO
    from kdyolo.engine.trainer import KDTrainer
    from kdyolo.experiments.compare import compare
    from kdyolo.experiments.study.study import Study
    from kdyolo.metrics.bootstrap import compare_coco
    from kdyolo.metrics.coco_metrics import score_coco
    from kdyolo.models.backbone import DistilledBackbone
    from kdyolo.models.freeze_schedule import FreezeSchedule

_HOME = {
    "KDYOLO": "kdyolo.engine.model",
    "KDTrainer": "kdyolo.engine.trainer",
    "Study": "kdyolo.experiments.study.study",
    "DistilledBackbone": "kdyolo.models.backbone",
    "FreezeSchedule": "kdyolo.models.freeze_schedule",
    "compare": "kdyolo.experiments.compare",
    "compare_checkpoints": "kdyolo.checkpoints.inspection",
    "compare_coco": "kdyolo.metrics.bootstrap",
    "convert_coco": "kdyolo.data.coco_to_yolo",
    "export_stock": "kdyolo.checkpoints.export",
    "extract_backbone": "kdyolo.checkpoints.export",
    "inspect_checkpoint": "kdyolo.checkpoints.inspection",
    "load_backbone": "kdyolo.models.backbone",
    "read_checkpoint": "kdyolo.checkpoints.reader",
    "score_coco": "kdyolo.metrics.coco_metrics",
}

__all__ = [
    "KDYOLO",
    "DistilledBackbone",
    "FreezeSchedule",
    "KDTrainer",
    "Study",
    "__version__",
    "compare",
    "compare_checkpoints",
    "compare_coco",
    "convert_coco",
    "export_stock",
    "extract_backbone",
    "inspect_checkpoint",
    "load_backbone",
    "read_checkpoint",
    "score_coco",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'kdyolo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
