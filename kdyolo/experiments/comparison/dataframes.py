"""A comparison as data: pandas frames, and plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from kdyolo.runs.history import Run

if TYPE_CHECKING:
    import pandas as pd

    from kdyolo.experiments.compare import RunComparison


_DIFFERENCE_COLUMNS = (
    *("metric", "arm", "baseline", "difference", "low", "high", "level", "n", "paired"),
    *("p_value", "p_adjusted", "shown", "seeds_needed", "words"),
)


def runs_frame(comparison: RunComparison) -> pd.DataFrame:
    """A row for each run."""
    import pandas as pd

    metrics = dict.fromkeys(name for arm in comparison.arms for name in arm.points)
    rows = [
        {
            "arm": arm.name,
            "baseline": arm.name == comparison.baseline,
            "seed": seed,
            "run": str(run.path),
            "epochs": run.epochs[-1],
            "planned_epochs": run.planned_epochs,
            "trained": run.trained,
            "best_epoch": run.best_epoch(),
            "seconds": math.fsum(run.seconds),
            **{name: arm.points[name][i] if name in arm.points else math.nan for name in metrics},
        }
        for arm in comparison.arms
        for i, (run, seed) in enumerate(zip(arm.runs, arm.seeds, strict=True))
    ]
    frame: pd.DataFrame = pd.DataFrame(rows).astype({"seed": "Int64", "best_epoch": "Int64"})
    return frame


def differences_frame(comparison: RunComparison) -> pd.DataFrame:
    """A row for each difference; empty, but with all columns, where there is one arm."""
    import pandas as pd

    rows = [
        {
            "metric": d.metric,
            "arm": d.arm,
            "baseline": d.baseline,
            "difference": d.interval.estimate,
            "low": d.interval.low,
            "high": d.interval.high,
            "level": d.interval.level,
            "n": d.interval.n,
            "paired": d.paired,
            "p_value": d.p_value,
            "p_adjusted": d.p_adjusted,
            "shown": d.shown,
            "seeds_needed": d.seeds_needed,
            "words": d.words,
        }
        for d in comparison.differences
    ]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=list(_DIFFERENCE_COLUMNS)).astype({"seeds_needed": "Int64"})
    return frame


def plain(value: Any) -> Any:
    """Dataclasses as mappings, runs as their folder, what is not finite as null."""
    if isinstance(value, Run):
        return str(value.path)
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
