"""Patches that the tests of what uses them would not miss: tests/contracts/test_ultralytics.py holds the others."""

from __future__ import annotations

import sys

import pytest

from kdyolo.utils.ultralytics_patches import ray_left_out


def test_ray_is_not_imported_for_a_look(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with ray_left_out(), pytest.raises(ImportError):
        from ray import tune  # noqa: F401 - as Ultralytics' callbacks do
    assert "ray" not in sys.modules


def test_ray_is_there_where_it_was(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", sys)
    with ray_left_out():
        import ray

        assert ray is sys
    assert sys.modules["ray"] is sys
