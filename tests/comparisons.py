"""Comparisons of drawn-up run folders, for tests of what shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from run_folders import detect, write_run, write_scores

from kdyolo.runs.arms import Arm
from kdyolo.runs.comparison import Comparison, Difference
from kdyolo.runs.history import MAP, MAP50, Run, read_run
from kdyolo.runs.measures import ClassDifference, Phase, Target
from kdyolo.runs.statistics import mean_interval, paired_effect

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


def comparison_of(folders: Mapping[str, Sequence[Path]], baseline: str, title: str = "a study") -> Comparison:
    """All that a report can show of these runs."""
    arms = tuple(_arm(name, [read_run(path) for path in paths]) for name, paths in folders.items())
    base = next(arm for arm in arms if arm.name == baseline)
    others = [arm for arm in arms if arm is not base]
    frozen = {arm.name: arm.runs[0].schedule.freeze_epochs for arm in arms}
    return Comparison(
        title=title,
        arms=arms,
        baseline=baseline,
        metric="mAP50-95",
        at="best",
        differences=tuple(_difference(arm, base, metric) for metric in base.values for arm in others),
        equal={"imgsz": 64, "batch": 4},
        differing={"freeze_epochs": frozen},
        unlike=(),
        phases=tuple(phase for arm in arms for phase in _phases(arm)),
        targets=tuple(Target(arm.name, value, 8.0, 480.0, 2, 3) for value in (0.2, 0.3) for arm in arms),
        official={arm.name: {"AP": arm.values["official AP"]} for arm in arms if "official AP" in arm.values},
        class_differences=tuple(difference for arm in others for difference in _classes(arm, base)),
        provenance=tuple({"run": str(run.path), "seed": run.args["seed"]} for arm in arms for run in arm.runs),
        notes=("the best epoch is chosen on the images that it is scored on",),
        method="Student's t intervals of paired differences (Student 1908).",
    )


def changed(comparison: Comparison, **values: object) -> Comparison:
    return replace(comparison, **values)  # type: ignore[arg-type]


def _arm(name: str, runs: Sequence[Run]) -> Arm:
    points = {"mAP50-95": tuple(run.value(MAP) for run in runs), "mAP50": tuple(run.value(MAP50) for run in runs)}
    if all(run.scores for run in runs):
        points["official AP"] = tuple(run.scores["AP"] for run in runs if run.scores)
    values = {metric: mean_interval(of_metric) for metric, of_metric in points.items()}
    return Arm(name, tuple(runs), tuple(run.args["seed"] for run in runs), values, points)


def _difference(arm: Arm, base: Arm, metric: str) -> Difference:
    effect = paired_effect(arm.points[metric], base.points[metric])
    words = f"{100 * effect.interval.estimate:+.1f} {metric} with {effect.interval.n} seeds"
    p, shown = effect.p_value, effect.p_value < 0.05
    return Difference(arm.name, base.name, metric, effect.interval, True, p, p, shown, effect.seeds_needed, words)


def _phases(arm: Arm) -> list[Phase]:
    run = arm.runs[0]
    found = []
    for phase in dict.fromkeys(map(run.phase, run.epochs)):
        inside = [run.phase(epoch) == phase for epoch in run.epochs]
        seconds = median(s for s, here in zip(run.seconds, inside, strict=True) if here)
        memory = median(m for m, here in zip(run.column("memory/GB"), inside, strict=True) if here)
        found.append(Phase(arm.name, phase, sum(inside), seconds, memory))
    return found


def _classes(arm: Arm, base: Arm) -> list[ClassDifference]:
    if not all(run.scores for run in (*arm.runs, *base.runs)):
        return []

    def mean(of_arm: Arm, index: int) -> float:
        return sum(run.scores["per_class"][index]["ap"] for run in of_arm.runs if run.scores) / len(of_arm.runs)

    classes = (base.runs[0].scores or {})["per_class"]
    pairs = [(c, mean(base, i), mean(arm, i)) for i, c in enumerate(classes)]
    return [ClassDifference(c["name"], arm.name, b, a, a - b, c["objects"]) for c, b, a in pairs]
