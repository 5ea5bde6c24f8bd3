"""Patches that the tests of what uses them would not miss: tests/contracts/test_ultralytics.py holds the others."""

from __future__ import annotations

import sys

import pytest

from kdyolo.utils.ultralytics_patches import ray_left_out, runs_below_here


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


@pytest.mark.parametrize(("project", "place"), [(None, "runs/detect"), ("mine", "runs/detect/mine"), ("/abs", "/abs")])
def test_runs_lie_below_the_current_folder(tmp_path, project, place):
    from ultralytics import cfg
    from ultralytics.cfg import get_cfg, get_save_dir

    args = get_cfg(overrides={"task": "detect", "mode": "train", "project": project})
    elsewhere = get_save_dir(args)
    with runs_below_here():
        assert get_save_dir(args) == tmp_path / place / "train"
        assert cfg.SETTINGS["datasets_dir"]
    assert get_save_dir(args) == elsewhere
