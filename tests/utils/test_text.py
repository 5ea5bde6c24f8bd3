"""Text helpers: durations, suggestions, terminal codes, settings that are equal."""

from __future__ import annotations

import json
import math

import pytest

from kdyolo.utils.text import (
    canonical,
    did_you_mean,
    distinct,
    format_duration,
    json_text,
    number_and_noun,
    plain_line,
    plural,
    printable,
    printable_lines,
    quoted,
    shortened,
    without_colours,
)


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


def test_settings_in_depth_do_not_double_with_each_level():
    value = {"a": '"quoted"'}
    for _ in range(50):
        value = {"a": [value]}
    assert len(canonical(value)) < 2000


OBEYED = (
    "\x00",
    "\x07",
    "\x1b",
    "\x7f",
    "\x80",
    "\x9b",
    "\u061c",
    "\u200f",
    "\u2028",
    "\u202e",
    "\u2066",
    "\u2069",
    "\udcff",
)


@pytest.mark.parametrize("character", OBEYED)
def test_what_a_terminal_would_obey_is_shown(character):
    shown = character.encode("unicode_escape").decode()
    assert printable(f"a{character}\nb\r\tc") == rf"a{shown}\nb\r\tc"
    assert printable_lines(f"a{character}\nb\r\tc") == f"a{shown}\nb\\r\tc"
    assert json.loads(json_text([character])) == [character]
    assert character not in json_text([character])


def test_other_characters_are_themselves():
    text = "ä 日本\u3000 👩‍👩‍👧 é ½\u00a0µ e\u0301"
    assert printable(text) == printable_lines(text) == text
    assert text in json_text({"a": text})


def test_colours_stay_where_they_are_wanted():
    text = "\x1b[1;31mred\x1b[0m\x1b[2J\x1b[m\x1b[31"
    assert printable_lines(text, colours=True) == "\x1b[1;31mred\x1b[0m\\x1b[2J\x1b[m\\x1b[31"
    assert "\x1b" not in printable_lines(text)


def test_quotations_are_short_whatever_is_quoted():
    assert quoted("a") == "'a'"
    assert quoted([1, "b"]) == "[1, 'b']"
    assert quoted({"a": None}) == "{'a': None}"
    assert quoted("\x1b\u202e") == r"'\x1b\u202e'"
    assert quoted(ValueError("a\n  b \x1b")) == r"a b \x1b"
    deep = large = ["x" * 1_000_000] * 1000
    for _ in range(900):
        deep = [deep]
    for value in (large, deep, "x" * 10**7, b"x" * 10**7, {"x" * 10**6: large}, ValueError("x" * 10**7)):
        assert len(quoted(value)) <= 200
        assert len(quoted(value, 30)) <= 200
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "ab…"


def test_no_suggestion_for_what_nobody_typed():
    assert did_you_mean("epohcs" * 100_000, ("epochs", "x" * 1_000_000)) == ""


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("automobile", ["toilet", "car"], ""),
        ("lrO", ["lr0", "mosaic"], " Did you mean 'lr0'?"),
        ("batch_size", ["batch", "box"], " Did you mean 'batch'?"),
        ("learning_rate", ["lr0", "translate"], ""),
        ("colour", ["color"], " Did you mean 'color'?"),
    ],
)
def test_suggestions_are_near(word, known, expected):
    assert did_you_mean(word, known) == expected


def test_plurals():
    assert [plural(n, "file") for n in (0, 1, 2000)] == ["0 files", "1 file", "2,000 files"]
    assert [number_and_noun(n, "class{|es}") for n in (1, 2)] == ["1 class", "2 classes"]
