"""Columns of ``results.csv``, what is wrong with it, and how long each epoch took."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from statistics import median

from kdyolo.errors import RunError
from kdyolo.metrics.names import COLUMNS
from kdyolo.runs.contents.forms import MOST_EPOCHS
from kdyolo.runs.contents.readers import read_results_text
from kdyolo.runs.files import MAP, MAP50
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.text import quoted, shortened

_FIRST_EPOCH = 5  # times the usual duration: what the first epoch of a process takes at most
_SHARES = {MAP, MAP50, "metrics/precision(B)", "metrics/recall(B)", *COLUMNS}  # at most 1, and −1 or NaN for none
_LONGEST = 1e12  # seconds; a larger number, or none, is no time
_MOST_NOTES = 10  # of one kind; a file that needs more of them says nothing by them


def read_results(path: Path) -> tuple[dict[str, list[float]], list[str]]:
    """Columns of ``results.csv``, and what is to be said about it.

    A process that is killed while it writes leaves a last line without its end; anything else that is wrong with a line
    is damage.

    Args:
        path: The file.

    Returns:
        Column → its values, one for each epoch, and sentences that a person should read. A file that does not exist has
        the column ``epoch`` without values.

    Raises:
        RunError: The file is damaged.
    """
    text = read_results_text(path)
    if text is None:
        return {"epoch": []}, []
    lines = text.splitlines(keepends=True)
    notes: list[str] = []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        notes.append(f"{path.name}: its last line is cut off and was left out")
    try:
        rows = list(csv.reader(lines))
    except csv.Error as e:  # a field of more than 128 KiB; before Python 3.11 also a NUL
        raise RunError(f"{path}: damaged ({e}). Restore the file.") from e
    if not rows:
        return {"epoch": []}, notes
    header = [name.strip() for name in rows[0]]
    if "epoch" not in header:
        raise RunError(f"{path}: expected a column 'epoch', found {shortened(', '.join(header[:5]), 100)}, …")
    at = header.index("epoch")
    shares = [i for i, name in enumerate(header) if name in _SHARES]
    values: list[list[float]] = []
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        found = _numbers(path, number, row, len(header), at)
        if wrong := [i for i in shares if abs(found[i]) > 1]:
            cell = quoted(row[wrong[0]], 60)
            raise RunError(
                f"{path}: line {number}: expected {header[wrong[0]]} of at most 1, found {cell}. Restore it."
            )
        if values and found[at] == 1:
            raise RunError(f"{path}: line {number}: epoch 1 again. Expected the results of one run, found two.")
        if values and found[at] <= values[-1][at]:
            # Killed between the row and the checkpoint: a resumed run did these epochs again, from older weights.
            while values and values[-1][at] >= found[at]:
                values.pop()
            notes.append(f"{path.name}: epoch {found[at]:.0f} on was done again after a resume; the later rows count")
        values.append(found)
    return {name: [row[i] for row in values] for i, name in enumerate(header)}, _few(notes)


def _few(notes: list[str]) -> list[str]:
    more = len(notes) - _MOST_NOTES
    return notes if more <= 0 else [*notes[:_MOST_NOTES], f"and {more:,} more of the kind"]


def takes_column(path: Path, name: str) -> bool:
    """Whether a row for ``results.csv`` may have this column: in a new file any; else those that the header names.

    A run that an older version began goes on with the columns that it has.
    """
    if not path.is_file():
        return True
    with path.open(newline="", encoding="utf-8") as file:
        return name in [column.strip() for column in next(csv.reader(file), [])]


def _numbers(path: Path, number: int, row: list[str], columns: int, epoch_at: int) -> list[float]:
    """A row of ``results.csv`` as numbers; an empty cell is NaN."""
    mend = "If a kill cut it off, remove that line; else restore the file."
    try:
        values = [float(cell.strip() or "nan") for cell in row]
    except ValueError:
        raise RunError(f"{path}: line {number}: expected numbers, found {quoted(','.join(row), 60)}. {mend}") from None
    if len(values) != columns:
        raise RunError(f"{path}: line {number}: expected {columns} values, found {len(values)}. {mend}")
    epoch = values[epoch_at]
    if not (0 <= epoch <= MOST_EPOCHS and epoch.is_integer()):
        found = quoted(row[epoch_at], 60)
        raise RunError(f"{path}: line {number}: expected the number of an epoch, found {found}. {mend}")
    return values


def epoch_durations(epochs: list[float], time: list[float]) -> tuple[list[float], list[str]]:
    """Seconds of each epoch from ``time``, seconds since the process began, which starts anew after a resume.

    The file does not say where a process resumed; see :func:`_began_anew`.

    Args:
        epochs: Numbers of the epochs, from 1, rising.
        time: The column ``time`` of the same rows, in seconds.

    Returns:
        Seconds of each epoch, NaN where unknown, and sentences that a person should read.
    """
    time = [now if abs(now) <= _LONGEST else math.nan for now in time]
    steps = [now - before for now, before in zip(time, [0.0, *time], strict=False)]
    usual = median([step for step in steps if step > 0] or [0.0])
    seconds, notes, anew = [], [], True
    for i, (epoch, now, step) in enumerate(zip(epochs, time, steps, strict=True)):
        anew = _began_anew(i, now, steps, usual, anew)
        if anew:
            seconds.append(now)
        elif i > 0 and step >= 0 and epoch == epochs[i - 1] + 1:
            seconds.append(step)
        else:
            seconds.append(math.nan)
            if step < 0:
                notes.append(f"epoch {epoch:.0f}: the clock went back, its duration is unknown")
    return seconds, _few(notes)


def _began_anew(i: int, now: float, steps: list[float], usual: float, after_first: bool) -> bool:
    """Whether epoch ``i`` is the first of a process: its ``time`` is that of an epoch, not of the whole run.

    Mostly it is less than the one before, and about an epoch's (``usual``). After a process of a single epoch
    (``after_first``) it may be more; then the step is far smaller than those beside it.
    """
    if i == 0:
        return now >= 0
    if steps[i] < 0:
        return 0 < now <= _FIRST_EPOCH * usual
    if not after_first or i + 1 == len(steps):
        return False
    before = now - steps[i]
    return steps[i] < min(before, steps[i + 1]) / 2 and now < 2 * before


def drop_rows_after(path: Path, epochs: int) -> None:
    """Remove rows of a ``results.csv`` for epochs that were not saved and will be run again, and a row cut off.

    Args:
        path: The file; nothing is done if there is none.
        epochs: Number of epochs whose rows stay.

    Raises:
        RunError: A row does not begin with the number of an epoch.
    """
    text = read_results_text(path)
    if not text:
        return
    header, *rows = text.splitlines(keepends=True)
    whole = (row for row in rows if row.endswith("\n") and row.strip())
    kept = [row for row in whole if _epoch_of(path, row) <= epochs]
    write_atomic(path, "".join([header, *kept]), flush=True)


def _epoch_of(path: Path, row: str) -> int:
    try:
        return int(float(next(csv.reader([row]))[0]))
    except (ValueError, OverflowError, IndexError, csv.Error):
        raise RunError(
            f"{path}: expected rows that begin with the number of an epoch, found {quoted(row.strip(), 60)}. "
            "Remove that row, or restore the file."
        ) from None
