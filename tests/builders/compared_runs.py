"""Run folders that are quick to compare, and what comparing them says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kdyolo import compare
from kdyolo.errors import ConfigError, RunError
from kdyolo.experiments.compare import RunComparison
from tests.builders.run_files import write_run

OFFSETS = {"random": (0.0, 0.004, -0.002), "frozen": (0.010, 0.012, 0.006), "low-lr": (0.001, 0.003, 0.001)}


def curve(top: float, epochs: int = 6) -> list[float]:
    """mAP50-95 that rises to its highest value in the last epoch but one."""
    return [round(top * (1 - 0.5**e), 5) for e in range(1, epochs - 1)] + [top, round(top * 0.99, 5)]


def write_small_study(root: Path) -> Path:
    """Three arms with three seeds each, at mAP50-95 0.3 and a little more."""
    for arm, offsets in OFFSETS.items():
        for seed, offset in enumerate(offsets):
            own = {"freeze": 3, "settings": {"random_init": False, "backbone": "ckpt.pth"}} if arm == "frozen" else {}
            own = {"settings": {"backbone_lr": 0.1}} if arm == "low-lr" else own
            top, seconds = round(0.3 + offset, 5), 10 + seed
            write_run(root / arm / f"seed{seed}", curve(top), seed=seed, seconds=seconds, ap=top - 0.01, **own)
    content = {"name": "does-it-help", "baseline": "random", "arms": {"random": {}, "frozen": {}, "low-lr": {}}}
    (root / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return root


def write_pair(
    folder: Path, first: dict | None = None, second: dict | None = None, **both: object
) -> tuple[Path, Path]:
    """Two runs that also differ in their learning rate; what is given is for the first, the second, or both."""
    a = write_run(folder / "a", **{"curve": [0.1, 0.2, 0.3], "lr0": 0.01, **both, **(first or {})})
    b = write_run(folder / "b", **{"curve": [0.1, 0.25, 0.31], "lr0": 0.02, **both, **(second or {})})
    return a, b


def refusal(*runs: Path, **how: object) -> str:
    with pytest.raises((RunError, ConfigError)) as error:
        compare(*runs, **how)
    return str(error.value)


def verdict(comparison: RunComparison, arm: str, metric: str = "mAP50-95"):
    return next(d for d in comparison.differences if (d.arm, d.metric) == (arm, metric))
