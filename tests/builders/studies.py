"""Studies and pairs of run folders without a training, and what comparing them says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdyolo.errors import ConfigError, RunError
from kdyolo.experiments.compare import RunComparison, compare_runs
from kdyolo.experiments.comparison.differences import Difference
from tests.builders.run_folders import detect, write_full_run, write_predictions, write_run

OFFSETS = {"random": (0.0, 0.004, -0.002), "frozen": (0.010, 0.012, 0.006), "low-lr": (0.001, 0.003, 0.001)}
# Name → frozen epochs, mAP50-95 at the end, fraction of the objects that its detector finds.
ARMS = {"random": (0, 0.36, 0.5), "unfrozen": (0, 0.37, 0.6), "frozen10": (10, 0.385, 0.85)}


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
    folder: Path, first: dict[str, Any] | None = None, second: dict[str, Any] | None = None, **both: Any
) -> tuple[Path, Path]:
    """Two runs that also differ in their learning rate; what is given is for the first, the second, or both."""
    a = write_run(folder / "a", **{"curve": [0.1, 0.2, 0.3], "lr0": 0.01, **both, **(first or {})})
    b = write_run(folder / "b", **{"curve": [0.1, 0.25, 0.31], "lr0": 0.02, **both, **(second or {})})
    return a, b


def refusal(*runs: Path, **how: Any) -> str:
    """Message with which comparing these runs is refused."""
    with pytest.raises((RunError, ConfigError)) as error:
        compare_runs(*runs, **how)
    return str(error.value)


def compare_to_first(*runs: Path, **how: Any) -> RunComparison:
    """Comparison of runs none of which is more the baseline than another one, with the first of them."""
    return compare_runs(*runs, baseline=runs[0], **how)


def verdict(comparison: RunComparison, arm: str, metric: str = "mAP50-95") -> Difference:
    """Difference of an arm to the baseline in a metric."""
    return next(d for d in comparison.differences if (d.arm, d.metric) == (arm, metric))


def write_study(
    folder: Path, data: Path, arms: Mapping[str, tuple[int, float, float]] = ARMS, seeds: int = 3, epochs: int = 20
) -> dict[str, list[Path]]:
    """Runs of some arms, each with official metrics on the data set of a converted YAML: arm → run folders."""
    annotations = data.parent / "annotations" / "instances_val.json"
    folders: dict[str, list[Path]] = {}
    for number, (arm, (freeze, final, skill)) in enumerate(arms.items()):
        for seed in range(seeds):
            luck = 0.004 * ((seed * 7 + number * 5) % 3)  # differs between pairs, so that they have a spread
            run = write_full_run(
                folder / f"arm{number}" / f"seed{seed}",
                data=data,
                seed=seed,
                epochs=epochs,
                freeze=freeze,
                final=final + luck,
            )
            write_predictions(run, annotations, detect(annotations, seed, skill))
            folders.setdefault(arm, []).append(run)
    return folders


def comparison_of(folders: Mapping[str, Sequence[Path]], baseline: str, title: str = "a study") -> RunComparison:
    """These runs compared, under the names that the arms have here, which no folder could have."""
    runs = [path for paths in folders.values() for path in paths]
    compared = compare_runs(*runs, baseline=folders[baseline][0], anyway=True)
    names = {arm.name: name for arm, name in zip(compared.arms, folders, strict=True)}
    assert names[str(compared.baseline)] == baseline
    return replace(
        compared,
        title=title,
        baseline=baseline,
        unlike=(),
        arms=_renamed(compared.arms, names, "name"),
        differences=tuple(replace(d, baseline=baseline) for d in _renamed(compared.differences, names)),
        differing={k: {names[arm]: v for arm, v in values.items()} for k, values in compared.differing.items()},
        phases=_renamed(compared.phases, names),
        targets=_renamed(compared.targets, names),
        official={names[arm]: values for arm, values in compared.official.items()},
        class_differences=_renamed(compared.class_differences, names),
    )


def _renamed(items: Sequence[Any], names: Mapping[str, str], attribute: str = "arm") -> tuple[Any, ...]:
    return tuple(replace(item, **{attribute: names[getattr(item, attribute)]}) for item in items)
