"""kdyolo: from a distilled backbone to a COCO detector on Ultralytics.

``import kdyolo`` is light: torch and Ultralytics are imported only when one of the names below is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kdyolo.backbone import DistilledBackbone, load_backbone
    from kdyolo.checkpoint import read_checkpoint
    from kdyolo.coco.bootstrap import compare_coco
    from kdyolo.coco.convert import convert_coco
    from kdyolo.coco.score import score_coco
    from kdyolo.export import export_stock, extract_backbone
    from kdyolo.inspection import compare_checkpoints, inspect_checkpoint
    from kdyolo.model import KDYOLO
    from kdyolo.runs.comparison import compare
    from kdyolo.runs.study import Study
    from kdyolo.schedule import FreezeSchedule
    from kdyolo.trainer import KDTrainer

_HOME = {
    "KDYOLO": "kdyolo.model",
    "KDTrainer": "kdyolo.trainer",
    "Study": "kdyolo.runs.study",
    "DistilledBackbone": "kdyolo.backbone",
    "FreezeSchedule": "kdyolo.schedule",
    "compare": "kdyolo.runs.comparison",
    "compare_checkpoints": "kdyolo.inspection",
    "compare_coco": "kdyolo.coco.bootstrap",
    "convert_coco": "kdyolo.coco.convert",
    "export_stock": "kdyolo.export",
    "extract_backbone": "kdyolo.export",
    "inspect_checkpoint": "kdyolo.inspection",
    "load_backbone": "kdyolo.backbone",
    "read_checkpoint": "kdyolo.checkpoint",
    "score_coco": "kdyolo.coco.score",
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
