"""Comparisons of drawn-up run folders, for tests of what shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdyolo.experiments.compare import RunComparison, compare_runs
from tests.builders.run_folders import detect, write_run, write_scores

# Name → frozen epochs, mAP50-95 at the end, share of the objects that its detector finds.
ARMS = {"random": (0, 0.36, 0.5), "unfrozen": (0, 0.37, 0.6), "frozen10": (10, 0.385, 0.85)}


def write_study(
    folder: Path, data: Path, arms: Mapping[str, tuple[int, float, float]] = ARMS, seeds: int = 3, epochs: int = 20
) -> dict[str, list[Path]]:
    """Runs of some arms, each with official metrics on the data set of a converted YAML: arm → run folders."""
    annotations = data.parent / "annotations" / "instances_val.json"
    folders: dict[str, list[Path]] = {}
    for number, (arm, (freeze, final, skill)) in enumerate(arms.items()):
        for seed in range(seeds):
            luck = 0.004 * ((seed * 7 + number * 5) % 3)  # differs between pairs, so that they have a spread
            run = write_run(
                folder / f"arm{number}" / f"seed{seed}",
                data=data,
                seed=seed,
                epochs=epochs,
                freeze=freeze,
                final=final + luck,
            )
            write_scores(run, annotations, detect(annotations, seed, skill))
            folders.setdefault(arm, []).append(run)
    return folders


def comparison_of(folders: Mapping[str, Sequence[Path]], baseline: str, title: str = "a study") -> RunComparison:
    """These runs compared, under the names that the arms have here, which no folder could have."""
    compared = compare_runs(*(path for paths in folders.values() for path in paths), anyway=True)
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
