"""Verdict of a distillation: learned, flat or collapsed, from the measures on held-out images.

The centred cosine of a student that never looks at its images is not 0 but what position alone gives, the floor (see
:mod:`kdyolo.distillation.run.held_out`). So a level has learned by what it has above that floor, or above 0 where the
floor lies below: being less wrong than position alone is nothing learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LEARNED = 0.05  # centred cosine above the one of position alone from which on a level has learned
_COLLAPSED = 2.0  # effective rank below which a level's features hardly vary


def verdict(columns: Mapping[str, Sequence[float]]) -> str:
    """The verdict on the last epoch with the numbers behind it.

    Args:
        columns: Column of ``results.csv`` → its values, one for each epoch.
    """
    last = {name: values[-1] for name, values in columns.items()}
    floors = {name.partition("/")[2]: value for name, value in last.items() if name.startswith("floor/")}
    levels = list(floors)
    cosines = {level: last[f"cosine/{level}"] for level in levels}
    ranks = {level: last[f"rank/{level}"] for level in levels}
    dead = {level: last[f"dead/{level}"] for level in levels}
    learned = [level for level in levels if cosines[level] >= max(floors[level], 0.0) + LEARNED]
    word = "flat" if not learned else "learned" if learned == levels else f"learned at {', '.join(learned)} only"
    if min(ranks.values()) < _COLLAPSED:
        word = "collapsed"
    numbers = "; ".join(
        f"{level} centred cosine {cosines[level]:.2f} (position alone {floors[level]:.2f}), "
        f"effective rank {ranks[level]:.0f}, {dead[level]:.0%} dead"
        for level in levels
    )
    return f"{word} ({numbers}; on held-out images)"
