"""Patches that the tests of what uses them would not miss: tests/contracts/test_ultralytics.py holds the others."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
import yaml
from ultralytics.engine import trainer
from ultralytics.utils import TQDM

from kdyolo.utils.ultralytics_patches import (
    progress_bars_escaped,
    ray_left_out,
    runs_below_here,
    settings_written_whole,
)


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


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_settings_are_written_whole_or_stay_what_they_were(tmp_path, monkeypatch, error):
    path, original = tmp_path / "run" / "args.yaml", trainer.YAML
    path.parent.mkdir()
    with settings_written_whole():
        trainer.YAML.save(path, {"epochs": 3, "data": tmp_path})
        before = path.read_text()
        assert yaml.safe_load(before) == {"epochs": 3, "data": str(tmp_path)}

        def fails(data, file, **more):
            file.write("epochs: 4\nda")
            raise OSError(error, os.strerror(error))

        with monkeypatch.context() as patch:
            patch.setattr("yaml.dump", fails)
            with pytest.raises(OSError, match=os.strerror(error)):
                trainer.YAML.save(path, {"epochs": 4})
        assert path.read_text() == before
        trainer.YAML.save(path, {"epochs": 5})
    assert path.read_text() == "epochs: 5\n"
    assert list(path.parent.iterdir()) == [path]
    assert trainer.YAML is original


EVIL = "labels\x1b]52;c;ZXZpbA==\x07\x9b2J\r\u202e"
SHOWN = r"labels\x1b]52;c;ZXZpbA==\x07\x9b2J\r\u202e"


@pytest.mark.parametrize("given", ["at first", "later"])
def test_words_of_a_progress_bar_are_shown_as_they_are_and_keep_their_colours(given):
    said, colour = io.StringIO(), "\x1b[34mtrain: \x1b[0m"
    with progress_bars_escaped():
        with progress_bars_escaped():  # an evaluation within a training
            pass
        bar = TQDM(range(3), desc=colour + EVIL if given == "at first" else "", file=said, disable=False, mininterval=0)
        if given == "later":
            bar.set_description(colour + EVIL)
    for _ in bar:
        pass
    assert f"{colour}{SHOWN}: 100%" in said.getvalue()
    assert EVIL[6:] not in said.getvalue()
    bar = TQDM(range(1), desc=EVIL, file=io.StringIO(), disable=False)
    assert bar.desc == EVIL  # Ultralytics' own again
