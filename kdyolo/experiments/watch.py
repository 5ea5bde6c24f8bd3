"""Watching runs: a report that is written again whenever its runs have new epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kdyolo.errors import ConfigError, RunError
from kdyolo.experiments.compare import RunComparison
from kdyolo.experiments.report.html_report import write_report
from kdyolo.experiments.study.study_file import parse_study
from kdyolo.runs.files import (
    ARGS_NAME,
    BEST_NAME,
    RECORD_NAME,
    RESULTS_NAME,
    SCORES_NAME,
    STATE_NAME,
    STUDY_NAME,
    WEIGHTS_FOLDER,
    is_run,
    run_folder_of,
    runs_below,
)
from kdyolo.runs.history import read_run
from kdyolo.utils.text import plural

SHORTEST = 0.5  # seconds: more often than this only costs
# What changes while a run goes on, and what is there once it has ended.
FILES = (
    *(ARGS_NAME, RECORD_NAME, RESULTS_NAME, SCORES_NAME),
    *(f"{WEIGHTS_FOLDER}/{STATE_NAME}", f"{WEIGHTS_FOLDER}/{BEST_NAME}"),
)

_FileStamps = Mapping[Path, tuple[int, int]]


def watch(
    compare: Callable[[], RunComparison],
    paths: Sequence[str | Path],
    folder: str | Path,
    *,
    interval: float = 10.0,
    tell: Callable[[str], Any] = print,
) -> RunComparison | None:
    """Keep ``report.html`` fresh until all runs are finished, or Ctrl-C.

    Meanwhile the page loads itself anew; the last one that is written stands still.

    Args:
        compare: Compares the runs in their present state.
        paths: Run folders, or folders of studies, as given to ``compare``.
        folder: Folder of the report.
        interval: Seconds between two looks at the files.
        tell: Called with a line for every report, and for every reason to wait.

    Returns:
        The last comparison; None if it was interrupted before any epoch was finished.

    Raises:
        ConfigError: The interval is too short.
        RunError: The runs cannot be compared, and not only because one of them is being written to just now.
    """
    if not interval >= SHORTEST:
        raise ConfigError(f"--interval {interval:g}: expected at least {SHORTEST:g} seconds.")
    watcher = _Watcher(compare, [Path(path) for path in paths], Path(folder), interval, tell)
    try:
        while not watcher.look():
            time.sleep(interval)
    except KeyboardInterrupt:
        if watcher.comparison is not None:
            written = write_report(watcher.comparison, folder)
            tell(f"stopped; {written} is as of the last look and no longer loads itself anew")
    return watcher.comparison


@dataclass
class _Watcher:
    """Looks at the files of runs and writes the report when they have changed."""

    compare: Callable[[], RunComparison]
    paths: Sequence[Path]
    folder: Path
    interval: float
    tell: Callable[[str], Any]
    seen: _FileStamps | None = None
    comparison: RunComparison | None = None
    told: str = ""

    def look(self) -> bool:
        """Write the report if something has changed; return whether all runs are finished."""
        state = _state(self.paths)
        if state == self.seen:
            return False
        if waiting := _waiting(self.paths):
            if waiting != self.told:
                self.tell(waiting)
            self.told = waiting
            return False
        try:
            comparison = self.compare()
        except RunError:
            if _state(self.paths) == state:
                raise
            return False  # a file was being written while it was read; the next look makes that good
        self.seen, self.comparison = state, comparison
        finished = all_finished(self.paths)
        written = write_report(comparison, self.folder, refresh=None if finished else self.interval)
        self.tell(_line(written, comparison))
        return finished


def all_finished(paths: Sequence[Path]) -> bool:
    """Whether no run is left to train, among them those that a study has not begun yet."""
    return all(read_run(run).finished if is_run(run) else False for run in _expected(paths))


def _line(written: Path, comparison: RunComparison) -> str:
    runs = [run for arm in comparison.arms for run in arm.runs]
    finished = sum(run.finished for run in runs)
    return f"{datetime.now():%H:%M:%S}  {finished} of {plural(len(runs), 'run')} finished  {written}"


def _waiting(paths: Sequence[Path]) -> str | None:
    """Why there is nothing to compare yet; a path that leads to no run is left to the comparison, which refuses it."""
    for path in paths:
        members = list(_runs(path))
        if not members and (path / STUDY_NAME).is_file():
            return f"waiting for the first run in {path}"
        if members and not any(read_run(member).epochs for member in members):
            return f"waiting for the first epoch in {path}"
    return None


def _expected(paths: Sequence[Path]) -> Iterator[Path]:
    """All runs, and the folders of those that a study has not begun."""
    for path in paths:
        yield from dict.fromkeys([*_runs(path), *_planned(path)])


def _planned(folder: Path) -> list[Path]:
    file = folder / STUDY_NAME
    if is_run(folder) or not file.is_file():
        return []
    study, _ = parse_study(file)
    return [folder / arm / f"seed{seed}" for arm in study.arms for seed in study.seeds]


def _runs(path: Path) -> list[Path]:
    """The run folders that a path leads to."""
    path = run_folder_of(path)
    return [path] if is_run(path) else runs_below(path)


def _state(paths: Sequence[Path]) -> _FileStamps:
    """File → time of its last change in ns and size in bytes, of all files that a comparison reads."""
    files = [run / name for path in paths for run in _runs(path) for name in FILES]
    files += [path / STUDY_NAME for path in paths]
    found = {}
    for file in files:
        try:
            status = file.stat()
        except FileNotFoundError:  # not there yet, or gone between the listing and now
            continue
        found[file] = (status.st_mtime_ns, status.st_size)
    return found
