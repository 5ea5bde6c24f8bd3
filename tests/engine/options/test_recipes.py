"""Recipes by name and by path, and files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdyolo.engine.options.recipes import load_recipe
from kdyolo.errors import ConfigError


def test_recipes_by_name_and_by_path(tmp_path):
    assert load_recipe("coco")["epochs"] > 0
    mine = tmp_path / "mine.yaml"
    mine.write_text("lr0: 0.1")
    assert load_recipe(str(mine)) == {"lr0": 0.1}
    mine.write_text("# nothing yet")
    assert load_recipe(str(mine)) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1", "expected 'setting: value' lines, found"),
        ("1: 2", "expected 'setting: value' lines, found"),
        ("a: [", "not a YAML file"),
        (f"a: &a [{'1,' * 1000}]\nb: &b [{'*a,' * 1000}]", "makes more than 200,000 values"),
        ("a: " + "[" * 200, "within each other"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("x" * (5 << 20), "4 MiB"),
        (f"- {'x' * 1_000_000}", "expected 'setting: value' lines, found"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, words):
    mine = tmp_path / "mine.yaml"
    mine.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        load_recipe(str(mine))
    assert len(str(caught.value)) < len(str(mine)) + 400


@pytest.mark.parametrize("name", ["cocoo", "x" * 1_000_000, "a\0b", "."])
def test_names_of_none(name):
    with pytest.raises(ConfigError, match="not found") as caught:
        load_recipe(name)
    assert ("Did you mean 'coco'" in str(caught.value)) is (name == "cocoo")
    assert len(str(caught.value)) < 400


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="not found"):
        load_recipe(str(Path(tmp_path, "pipe.yaml")))
