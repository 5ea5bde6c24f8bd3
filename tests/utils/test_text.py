"""Text helpers: durations, suggestions, terminal codes, settings that are equal."""

from __future__ import annotations

import math

import pytest

from kdyolo.utils.text import canonical, did_you_mean, distinct, format_duration, plain_line, without_colours


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.42, "0.42 s"), (9.96, "10 s"), (42.4, "42 s"), (90, "1.5 min"), (5400, "1.5 h"), (math.nan, "–"), (0, "0 s")],
)
def test_durations(seconds, words):
    assert format_duration(seconds) == words


def test_suggestions():
    assert did_you_mean("epohcs", ("epochs", "batch")) == " Did you mean 'epochs'?"
    assert did_you_mean("trian", ["train", "train2"]) == " Did you mean 'train' or 'train2'?"
    assert did_you_mean("xyz", ["train"]) == ""


def test_lines_without_what_terminals_obey():
    assert without_colours("\x1b[1;31mred\x1b[0m") == "red"
    assert plain_line("10%\r 50%\r\x1b[K100%\r") == "100%"


def test_equal_settings():
    assert canonical(1) == canonical(1.0) != canonical(True)
    assert canonical({"a": 1, "b": [2.0]}) == canonical({"b": (2,), "a": 1.0})
    assert distinct([1, True, 1.0, "1", 1]) == [1, True, "1"]
