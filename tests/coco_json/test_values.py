"""Spellings of whole numbers, real numbers, flags and ids."""

from __future__ import annotations

import math

import pytest

from kdyolo.coco_json.values import flag, id_key, real_number, whole_number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[(value, 1) for value in (1, 1.0, "1", "1.0", " 1 ", "+1", "1e0")],
        *[(value, -5) for value in (-5, "-5", -5.0)],
        ("9007199254740993", 9007199254740993),  # above 2**53, where a float would be another number
        *[(value, None) for value in (True, None, "", "x", 1.5, "1.5", math.nan, math.inf, "nan", [], {}, "1_000")],
        *[(value, None) for value in ("--5", "+-5", "-+1", "+", "-", "5-", "1" * 5000)],
    ],
)
def test_whole_number(value, number):
    assert whole_number(value) == number


@pytest.mark.parametrize(
    ("value", "number"),
    [(600, 600.0), ("600", 600.0), ("6.5", 6.5), (True, None), ("nan", None), (math.inf, None), (10**400, None)],
)
def test_real_number(value, number):
    assert real_number(value) == number


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[(value, 0) for value in (0, 0.0, "0", False, None, "")],
        *[(value, 1) for value in (1, 1.0, "1", True)],
        *[(value, None) for value in (2, "yes", math.nan, [])],
    ],
)
def test_flag(value, number):
    assert flag(value) == number


@pytest.mark.parametrize(
    ("value", "key"),
    [(7, 7), (7.0, 7), ("7", 7), ("img7", "img7"), ("--7", "--7"), (None, None), (" ", None), (True, None), ([], None)],
)
def test_id_key(value, key):
    assert id_key(value) == key
