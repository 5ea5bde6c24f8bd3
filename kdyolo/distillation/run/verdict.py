"""Verdict of a distillation: learned, flat or collapsed, from the measures on held-out images.

The centred cosine of a student that never looks at its images is not 0 but what position alone gives, the floor (see
:mod:`kdyolo.distillation.run.held_out`). So a level has learned by what it has above that floor, or above 0 where the
floor lies below: being less wrong than position alone is nothing learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LEARNED = 0.05  # centred cosine above the one of position alone from which on a level has learned
_COLLAPSED = 2.0  # effective rank below which a level's features hardly vary


def kept_row(columns: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The row of ``results.csv`` whose epoch a run's backbone is of: the first with the lowest loss on held-out images.

    Args:
        columns: Column of ``results.csv`` → its values, one for each epoch.
    """
    losses = columns["val/loss"]
    best = min(range(len(losses)), key=losses.__getitem__)
    return {name: values[best] for name, values in columns.items()}


def verdict(columns: Mapping[str, Sequence[float]]) -> str:
    """The verdict on a run's backbone with the numbers behind it.

    Args:
        columns: Column of ``results.csv`` → its values, one for each epoch.
    """
    row = kept_row(columns)
    floors = {name.partition("/")[2]: value for name, value in row.items() if name.startswith("floor/")}
    levels = list(floors)
    cosines = {level: row[f"cosine/{level}"] for level in levels}
    ranks = {level: row[f"rank/{level}"] for level in levels}
    dead = {level: row[f"dead/{level}"] for level in levels}
    learned = [level for level in levels if cosines[level] >= max(floors[level], 0.0) + LEARNED]
    word = "flat" if not learned else "learned" if learned == levels else f"learned at {', '.join(learned)} only"
    if min(ranks.values()) < _COLLAPSED:
        word = "collapsed"
    numbers = "; ".join(
        f"{level} centred cosine {cosines[level]:.2f} (position alone {floors[level]:.2f}{_content(row, level)}), "
        f"effective rank {ranks[level]:.0f}, {dead[level]:.0%} dead"
        for level in levels
    )
    return f"{word} ({numbers}; on held-out images after epoch {row['epoch']:.0f})"


def _content(row: Mapping[str, float], level: str) -> str:
    found = row.get(f"content/{level}")  # runs that an older version began have none
    return "" if found is None else f", without position {found:.2f}"
