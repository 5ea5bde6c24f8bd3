"""Live table of a study while it goes on: one table on a terminal, plain lines elsewhere. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kdyolo.errors import RunError
from kdyolo.runs.files import MAP, RECORD_NAME, RESULTS_NAME, is_run
from kdyolo.runs.history import Run, read_run
from kdyolo.runs.status import seconds_left
from kdyolo.utils.tables import fitting_columns
from kdyolo.utils.text import format_duration

LATEST = 3  # epochs whose median is the speed
EXPENDABLE = ("box cls dfl", "speed", "phase")  # columns that a narrow terminal has no room for, the first goes first
NARROWEST, GAP = 16, 2  # cells of a run's name before a column is dropped for it, and between columns
LOSSES = {"box": "train/box_loss", "cls": "train/cls_loss", "dfl": "train/dfl_loss"}


@dataclass(frozen=True)
class RunProgress:
    """How far a run is.

    Attributes:
        epoch: Number of finished epochs.
        epochs: Number of all epochs; 0 while unknown.
        phase: Name of the phase of the present epoch, or of the last.
        losses: Name of a loss → its mean over the last epoch.
        map: Best mAP50-95 so far; NaN if there is none.
        seconds: Seconds of a recent epoch; NaN while unknown.
        left: Seconds until the last epoch is done; NaN while unknown.
    """

    epoch: int = 0
    epochs: int = 0
    phase: str = ""
    losses: Mapping[str, float] | None = None
    map: float = math.nan
    seconds: float = math.nan
    left: float = math.nan

    @classmethod
    def of(cls, run: Run) -> RunProgress:
        """Progress of a run by the files in its folder."""
        done, planned = len(run.epochs), run.planned_epochs
        current = min(done + 1, planned) or 1
        if not done:
            return cls(0, planned, run.phase(current))
        losses = {name: run.column(column)[-1] for name, column in LOSSES.items()}
        seconds = _median(run.seconds[-LATEST:])
        return cls(done, planned, run.phase(current), losses, run.value(MAP), seconds, seconds_left(run))


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else math.nan


class ProgressReader:
    """Progress of runs by folder, read again only where a file has changed."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[float, int], RunProgress]] = {}

    def look(self, folder: Path) -> RunProgress:
        """Progress of the run in a folder; all unknown while the folder has no files, or one is half written."""
        stamp = _stamp(folder)
        known = self._known.get(folder)
        if known and known[0] == stamp:
            return known[1]
        try:
            progress = RunProgress.of(read_run(folder)) if is_run(folder) else RunProgress()
        except RunError:  # being written right now; the scheduler judges a folder once its process has ended
            return known[1] if known else RunProgress()
        self._known[folder] = (stamp, progress)
        return progress


def _stamp(folder: Path) -> tuple[float, int]:
    for name in (RESULTS_NAME, RECORD_NAME):
        try:
            found = (folder / name).stat()
        except OSError:
            continue
        return found.st_mtime, found.st_size
    return 0.0, 0


class LiveTable:
    """Shows runs and what each is doing; a context manager.

    Args:
        title: Title of the table.
        folders: Name of a run → its folder, in order.
        console: Console to print to; default stdout.
    """

    def __init__(self, title: str, folders: Mapping[str, Path], console: Console | None = None) -> None:
        self._title, self._folders = title, dict(folders)
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._progress = ProgressReader()
        self._told: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> LiveTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, states: Mapping[str, str]) -> None:
        """Show each run with its state, in words (``"waiting"``, ``"waiting, died on 5"``, ``"finished"``, …)."""
        rows = {name: (state, self._progress.look(self._folders[name])) for name, state in states.items()}
        if self._live:
            self._live.update(self._table(rows), refresh=True)
            return
        for name, (state, progress) in rows.items():
            if self._told.get(name) != (state, progress.epoch) and not state.startswith("waiting"):
                self._told[name] = (state, progress.epoch)
                facts = " · ".join(text for text in _cells(state, progress).values() if text)
                self._console.print(f"{name}: {facts}", markup=False, highlight=False, soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Print a line that stays, above the table where there is one."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def _table(self, rows: Mapping[str, tuple[str, RunProgress]]) -> Table:
        cells = {name: {"run": name, **_cells(*row, bare=True)} for name, row in rows.items()}
        padding = (0, GAP - 1, 0, 0)  # the box puts a blank between two columns
        table = Table(
            title=self._title,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=padding,
            pad_edge=False,
            show_edge=False,
        )
        widths = self._widths(list(cells.values()))
        headings = fitting_columns(widths, self._console.width, EXPENDABLE, GAP)
        for heading in headings:
            words = heading in ("run", "state", "phase")
            table.add_column(
                heading,
                justify="left" if words else "right",
                overflow="fold",
                no_wrap=heading != "run",
                min_width=widths[heading],
            )
        for name, row in cells.items():
            colour = {"finished": "green", "failed": "red", "waiting": "dim"}.get(rows[name][0].partition(",")[0])
            table.add_row(*(Text(row[heading]) for heading in headings), style=colour)
        return table

    @staticmethod
    def _widths(rows: Sequence[Mapping[str, str]]) -> dict[str, int]:
        """Column → cells that it needs: what counts stays whole, and names of runs are folded last of all."""
        names = ["run", *_cells("", RunProgress())]
        widths = {name: max(map(cell_len, (name, *(row[name] for row in rows)))) for name in names}
        return {**widths, "run": min(widths["run"], NARROWEST)}


def _cells(state: str, progress: RunProgress, bare: bool = False) -> dict[str, str]:
    """Heading → text; with words for what the headings would say, unless ``bare``."""
    goes_on = state.partition(",")[0] not in ("finished", "failed", "waiting")
    losses = " ".join(
        f"{'' if bare else f'{name} '}{value:.3g}" for name, value in (progress.losses or {}).items() if value == value
    )
    score = "" if math.isnan(progress.map) else f"{progress.map:.3f}"
    speed = "" if math.isnan(progress.seconds) else f"{format_duration(progress.seconds)}/epoch"
    left = "" if math.isnan(progress.left) or not goes_on else format_duration(progress.left)
    epoch = f"{progress.epoch}/{progress.epochs}" if progress.epochs else ""
    words = {"epoch": f"epoch {epoch}", "mAP50-95": f"mAP50-95 {score}", "time left": f"{left} left"}
    cells = {
        "state": state,
        "phase": progress.phase if goes_on else "",
        "epoch": epoch,
        "box cls dfl": losses,
        "mAP50-95": score,
        "speed": speed,
        "time left": left,
    }
    return cells if bare else {key: words.get(key, text) if text else "" for key, text in cells.items()}
