"""Grouping of runs into arms: runs of one set of settings, which differ in their seed only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from kdyolo.data.fingerprint import content_fingerprint, place_fingerprint
from kdyolo.errors import ConfigError, RunError
from kdyolo.experiments.comparison.label_shares import bare_name
from kdyolo.experiments.comparison.run_settings import seed_of, shaping
from kdyolo.experiments.comparison.significance import Interval
from kdyolo.runs.contents.readers import read_study_file
from kdyolo.runs.files import ARGS_NAME, STUDY_NAME, is_run, run_folder_of, runs_below
from kdyolo.runs.history import Run, read_run
from kdyolo.utils.plain_files import is_file, is_folder
from kdyolo.utils.progress import progress_over
from kdyolo.utils.text import canonical

_SEED_FOLDER = re.compile(r"seed[-_]?\d+")
_Found = tuple[Run, str | None]  # a run, and the name of its arm if its place says so


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seed.

    Attributes:
        name: Name of the arm in its study, else of the folder or folders.
        runs: One run for each seed.
        seeds: Seeds of the runs, in the same order; None where a seed is not recorded.
        values: Metric → mean over the seeds, with its interval.
        points: Metric → value of each run, in the same order; NaN for a run that is left out (see the notes).
    """

    name: str
    runs: tuple[Run, ...]
    seeds: tuple[int | None, ...]
    values: Mapping[str, Interval] = field(default_factory=dict)
    points: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Gathered:
    """Arms that the given paths lead to.

    Attributes:
        arms: Arms in the order given; those of a study in the order of its file.
        title: Name of the study; None without one.
        baseline: Name of the arm that the study file calls its baseline; None if it names none.
        notes: Sentences on runs of a study that have no finished epoch yet.
    """

    arms: tuple[Arm, ...]
    title: str | None
    baseline: str | None
    notes: tuple[str, ...]


def gather(paths: Sequence[str | Path]) -> Gathered:
    """Read all runs and group them into arms.

    Runs in folders ``<arm>/seed<k>/``, as a study leaves them, belong to the arm of that name, whatever their settings.
    Other runs are one arm if their settings differ in seed, environment and places only.

    Args:
        paths: Run folders, checkpoints in them, folders of an arm, or of a study.

    Raises:
        RunError: A path leads to no run, a run has no results, or runs are given twice.
        ConfigError: Several of these mistakes; the error names all of them.
    """
    if not paths:
        raise RunError("nothing to compare. Expected run folders, or the folder of a study.")
    mistakes: list[str] = []
    notes: list[str] = []
    found: list[_Found] = []
    studies = [path for path in map(Path, paths) if _is_study(path)]
    for path in map(Path, paths):
        found += _read_runs(path, mistakes, notes)
    mistakes += _repeated([run for run, _ in found])
    if not found and not mistakes:
        mistakes.append(f"{', '.join(map(str, paths))}: no run there has finished an epoch yet. Wait for the first.")
    if mistakes:
        raise RunError(mistakes[0]) if len(mistakes) == 1 else ConfigError(mistakes)
    file = read_study_file(studies[0]) if len(studies) == 1 else {}
    arms = _group(found, [str(name) for name in file.get("arms") or ()])
    baseline = file.get("baseline")
    return Gathered(
        arms=arms,
        title=str(file.get("name") or studies[0].resolve().name) if len(studies) == 1 else None,
        baseline=str(baseline)
        if baseline is not None and str(baseline) in [bare_name(arm.name) for arm in arms]
        else None,
        notes=tuple(notes),
    )


def _read_runs(path: Path, mistakes: list[str], notes: list[str]) -> list[_Found]:
    """Runs with results that a path leads to; what is wrong is added to ``mistakes``, what is left out to ``notes``."""
    members = _members(path)
    if members is None:
        mistakes.append(
            f"{path}: no run. Expected a run folder (with args.yaml), a checkpoint in one, or a study's folder."
        )
        return []
    found: list[_Found] = []
    for folder, arm in progress_over(members, "reading", len(members), "runs"):
        try:
            run = read_run(folder)
        except RunError as e:
            mistakes.append(str(e))
            continue
        if run.epochs:
            found.append((run, arm))
        elif len(members) > 1:
            notes.append(f"{run_name(run)} has no finished epoch yet and is left out")
        else:
            mistakes.append(f"{folder}: a run without results: no epoch of it is finished. Train it, or leave it out.")
    return found


def run_name(run: Run) -> str:
    """Short name of a run: its folder, and before a seed's folder that of the arm."""
    path = run.path.resolve()
    return f"{path.parent.name}/{path.name}" if _SEED_FOLDER.fullmatch(path.name) else path.name


def arm_folder(run: Run) -> Path | None:
    """The folder of the arm that a run belongs to by its place: that above ``seed<k>``; None for a loose run."""
    path = run.path.resolve()
    return path.parent if _SEED_FOLDER.fullmatch(path.name) else None


def data_keys(runs: Sequence[Run]) -> list[str]:
    """A text for each run that is the same for the same data.

    Data sets are the same if classes and image lists are the same ones; or, at different places, if classes and
    annotation files (by SHA-256) or image lists (by content) are equal. Where the YAML is not on this machine, its name
    has to do.
    """
    files = [data_file(run) for run in runs]
    keys = [place_fingerprint(file) if file else data_name(run) for run, file in zip(runs, files, strict=True)]
    if len(set(keys)) > 1:
        keys = [(content_fingerprint(file) if file else None) or key for file, key in zip(files, keys, strict=True)]
    return keys


def data_name(run: Run) -> str:
    """The data set as the run names it."""
    return str(run.args.get("data"))


def data_file(run: Run) -> Path | None:
    """The data set's YAML, as named or from a folder above the run; None if it is not on this machine."""
    name = Path(data_name(run))
    if name.suffix not in {".yaml", ".yml"}:
        return None
    places = (folder / name for folder in (Path(), *run.path.resolve().parents))
    return next((place.resolve() for place in places if is_file(place)), None)


def _members(path: Path) -> list[tuple[Path, str | None]] | None:
    """The run folders that a path leads to, each with the name of its arm if its place says so."""
    path = run_folder_of(path)
    if not is_folder(path):
        return None
    if is_run(path):
        return [(path, _arm_by_place(path))]
    folders = sorted(runs_below(path), key=_natural)
    members = [(folder, _arm_by_place(folder)) for folder in folders if _SEED_FOLDER.fullmatch(folder.name)]
    return members or ([] if _is_study(path) else None)


def _is_study(path: Path) -> bool:
    return is_folder(path) and ((path / STUDY_NAME).is_file() or any(path.glob(f"*/seed*/{ARGS_NAME}")))


def _arm_by_place(folder: Path) -> str | None:
    folder = folder.resolve()
    return folder.parent.name if _SEED_FOLDER.fullmatch(folder.name) else None


def _natural(path: Path) -> list[Any]:
    """Sort key that puts seed2 before seed10."""
    pieces = re.split(r"(\d+)", str(path))
    return [int(piece) if piece.isdigit() else piece for piece in pieces]


def _repeated(runs: Sequence[Run]) -> list[str]:
    """Mistakes about runs given twice and about copies: the same results to the last digit, in the same time."""
    mistakes = []
    first: dict[str, Run] = {}
    for run in runs:
        content = repr([[name, values] for name, values in run.columns.items() if name == "time" or "/" in name])
        other = first.setdefault(content, run) if "time" in run.columns else run
        if other is run:
            continue
        if other.path.resolve() == run.path.resolve():
            mistakes.append(f"{run.path} is given twice. Name every run once.")
        else:
            mistakes.append(
                f"{other.path} and {run.path} are the same run: their results.csv are equal, times included. "
                "Expected different runs; leave one out."
            )
    return mistakes


def _group(found: Sequence[_Found], order: Sequence[str]) -> tuple[Arm, ...]:
    keys = data_keys([run for run, _ in found])
    groups: dict[str, list[Run]] = {}
    names: dict[str, str | None] = {}
    for (run, arm), data in zip(found, keys, strict=True):
        place = str(run.path.resolve().parent.parent) if arm is not None else None
        key = canonical([place, arm] if arm is not None else [data, shaping(run)])
        groups.setdefault(key, []).append(run)
        names[key] = arm
    arms = [_arm(names[key] or _common_name(runs), runs) for key, runs in groups.items()]
    arms = _tell_apart(arms)
    ranks = {name: rank for rank, name in enumerate(order)}
    return tuple(sorted(arms, key=lambda arm: ranks.get(bare_name(arm.name), len(ranks))))


def _arm(name: str, runs: Sequence[Run]) -> Arm:
    runs = sorted(runs, key=lambda run: (seed_of(run) is None, seed_of(run) or 0))
    return Arm(name, tuple(runs), tuple(seed_of(run) for run in runs))


def _common_name(runs: Sequence[Run]) -> str:
    """The beginning that the folders' names share: ``frozen-s0``, ``frozen-s1`` → ``frozen``."""
    names = [run.path.resolve().name for run in runs]
    if len(names) == 1:
        return names[0]
    letters = (same[0] for same in takewhile(lambda same: len(set(same)) == 1, zip(*names, strict=False)))
    common = re.sub(r"([-_. ]+(seed|s))?[-_. ]*\d*$", "", "".join(letters))
    return common or " + ".join(names)


def _tell_apart(arms: Sequence[Arm]) -> list[Arm]:
    """Arms with names of their own: equal names get that of the folder above, or a number."""
    names = [arm.name for arm in arms]
    above = [f"{_above(arm)}/{arm.name}" for arm in arms]
    if len(set(names)) < len(names):
        names = above if len(set(above)) == len(above) else [f"{name} ({i})" for i, name in enumerate(names, start=1)]
    return [replace(arm, name=name) for arm, name in zip(arms, names, strict=True)]


def _above(arm: Arm) -> str:
    path = arm.runs[0].path.resolve()
    return path.parent.parent.name if _SEED_FOLDER.fullmatch(path.name) else path.parent.name
