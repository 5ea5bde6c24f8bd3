"""Verdict of a distillation: learned, flat or collapsed, from the measures on held-out images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LEARNED = 0.05  # centred cosine from which on a level has learned; shuffled targets stay below
_COLLAPSED = 2.0  # effective rank below which a level's features hardly vary


def verdict(columns: Mapping[str, Sequence[float]], levels: Sequence[str]) -> str:
    """The verdict on the last epoch with the numbers behind it.

    Args:
        columns: Column of ``results.csv`` → its values, one for each epoch.
        levels: Taught levels.
    """
    last = {name: values[-1] for name, values in columns.items()}
    cosines = {level: last[f"cosine/{level}"] for level in levels}
    ranks = {level: last[f"rank/{level}"] for level in levels}
    dead = {level: last[f"dead/{level}"] for level in levels}
    word = "learned" if min(cosines.values()) >= LEARNED else "flat"
    if word == "flat" and max(cosines.values()) >= LEARNED:
        word = f"learned at {', '.join(level for level, value in cosines.items() if value >= LEARNED)} only"
    if min(ranks.values()) < _COLLAPSED:
        word = "collapsed"
    numbers = "; ".join(
        f"{level} centred cosine {cosines[level]:.2f}, effective rank {ranks[level]:.0f}, {dead[level]:.0%} dead"
        for level in levels
    )
    return f"{word} ({numbers}; on held-out images, where predicting the mean gives cosine 0)"
