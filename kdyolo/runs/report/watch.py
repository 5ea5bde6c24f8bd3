"""A report that is written anew whenever its runs have gone on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.arms import STUDY_FILE
from kdyolo.runs.comparison import Comparison
from kdyolo.runs.history import is_run, read_run
from kdyolo.runs.report.page import write_report

SHORTEST = 0.5  # seconds: more often than this only costs
# What changes while a run goes on, and what is there once it has ended.
FILES = ("args.yaml", "kdyolo.yaml", "results.csv", "coco_metrics.json", "weights/resume.pt", "weights/best.pt")

State = Mapping[Path, tuple[int, int]]


def watch(
    compare: Callable[[], Comparison],
    paths: Sequence[str | Path],
    folder: str | Path,
    *,
    interval: float = 10.0,
    tell: Callable[[str], Any] = print,
) -> Comparison | None:
    """Keep ``report.html`` fresh until all runs are finished, or Ctrl-C.

    Meanwhile the page loads itself anew; the last one that is written stands still.

    Args:
        compare: Compares the runs as they are now.
        paths: Run folders, or folders of studies, as given to ``compare``.
        folder: For the report.
        interval: Seconds between two looks at the files.
        tell: Gets a line for every report, and for every reason to wait.

    Returns:
        The last comparison; None if it was interrupted before any epoch was finished.

    Raises:
        ConfigError: The interval is too short.
        RunError: The runs cannot be compared, and not only because one of them is being written to just now.
    """
    if not interval >= SHORTEST:
        raise ConfigError(f"--interval {interval:g}: expected at least {SHORTEST:g} seconds.")
    places = [Path(path) for path in paths]
    seen: State | None = None
    comparison: Comparison | None = None
    told = ""
    try:
        while True:
            now = _state(places)
            if now != seen:
                waiting = _waiting(places)
                if waiting is None:
                    fresh = _unless_changing(compare, places, now)
                    if fresh is not None:
                        seen, comparison = now, fresh
                        done = all_finished(places)
                        written = write_report(comparison, folder, refresh=None if done else interval)
                        tell(_line(written, comparison))
                        if done:
                            return comparison
                elif waiting != told:
                    told = waiting
                    tell(waiting)
            time.sleep(interval)
    except KeyboardInterrupt:
        if comparison is not None:
            written = write_report(comparison, folder)
            tell(f"stopped; {written} is as of the last look and no longer loads itself anew")
        return comparison


def all_finished(paths: Sequence[Path]) -> bool:
    """Whether no run is left to train, among them those that a study has not begun yet."""
    return all(read_run(run).finished if is_run(run) else False for run in _expected(paths))


def _line(written: Path, comparison: Comparison) -> str:
    runs = [run for arm in comparison.arms for run in arm.runs]
    finished = sum(run.finished for run in runs)
    return f"{datetime.now():%H:%M:%S}  {finished} of {len(runs)} runs finished  {written}"


def _unless_changing(compare: Callable[[], Comparison], paths: Sequence[Path], before: State) -> Comparison | None:
    """The comparison; nothing if it failed while a file was being written, which the next look will make good."""
    try:
        return compare()
    except RunError:
        if _state(paths) == before:
            raise
        return None


def _waiting(paths: Sequence[Path]) -> str | None:
    """Why there is nothing to compare yet; what is no run at all is left to the comparison to complain of."""
    for path in paths:
        members = list(_runs(path))
        if not members and (path / STUDY_FILE).is_file():
            return f"waiting for the first run in {path}"
        if members and not any(read_run(member).epochs for member in members):
            return f"waiting for the first epoch in {path}"
    return None


def _expected(paths: Sequence[Path]) -> Iterator[Path]:
    """All runs, and the folders of those that a study has not begun."""
    for path in paths:
        yield from dict.fromkeys([*_runs(path), *_planned(path)])


def _planned(folder: Path) -> list[Path]:
    file = folder / STUDY_FILE
    if is_run(folder) or not file.is_file():
        return []
    study = yaml.safe_load(file.read_text(encoding="utf-8"))
    return [folder / str(arm) / f"seed{seed}" for arm in study["arms"] for seed in study["seeds"]]


def _runs(path: Path) -> list[Path]:
    """The run folders that a path leads to."""
    if path.suffix == ".pt":
        path = path.parent.parent
    if is_run(path):
        return [path]
    return sorted(file.parent for pattern in ("*/args.yaml", "*/*/args.yaml") for file in path.glob(pattern))


def _state(paths: Sequence[Path]) -> State:
    """File → time of its last change and size, of all that a comparison reads."""
    files = [run / name for path in paths for run in _runs(path) for name in FILES]
    files += [path / STUDY_FILE for path in paths]
    found = {}
    for file in files:
        try:
            status = file.stat()
        except FileNotFoundError:  # not there yet, or gone between the listing and now
            continue
        found[file] = (status.st_mtime_ns, status.st_size)
    return found
