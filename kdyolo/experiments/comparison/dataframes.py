"""Data frames of a comparison, and its plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from kdyolo.experiments.comparison.result import ComparisonResult
from kdyolo.runs.history import Run

if TYPE_CHECKING:
    import pandas as pd

_DIFFERENCE_COLUMNS = (
    *("metric", "arm", "baseline", "difference", "low", "high", "level", "n", "paired"),
    *("p_value", "p_adjusted", "significant", "seeds_needed", "words"),
)


def runs_frame(comparison: ComparisonResult) -> pd.DataFrame:
    """One row for each run: arm, seed, folder, epochs, and every metric in 0–1, NaN where the run does not count."""
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


def differences_frame(comparison: ComparisonResult) -> pd.DataFrame:
    """One row for each difference; no row, but all columns, where there is only one arm."""
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
            "significant": d.significant,
            "seeds_needed": d.seeds_needed,
            "words": d.words,
        }
        for d in comparison.differences
    ]
    frame: pd.DataFrame = pd.DataFrame(rows, columns=list(_DIFFERENCE_COLUMNS)).astype({"seeds_needed": "Int64"})
    return frame


def to_plain(value: Any) -> Any:
    """Plain values for JSON: dataclasses as mappings, runs as their folders, numbers that are not finite as None."""
    if isinstance(value, Run):
        return str(value.path)
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
