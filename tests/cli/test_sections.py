"""Sections of the command line: every command stands in one of them, and is imported when it is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import kdyolo.cli
from kdyolo.cli import cli
from kdyolo.cli.sections import SECTIONS
from tests.cli.test_cli import fails


def test_every_command_of_every_module_stands_in_a_section():
    declared = {
        re.sub(r"_(group|command)$", "", name).replace("_", "-")
        for path in Path(kdyolo.cli.__file__).parent.glob("*.py")
        for name in re.findall(r"^@command\((?:.|\n)*?^def (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    listed = [name for section in SECTIONS.values() for name in section]
    assert sorted(listed) == sorted(declared)
    for section in SECTIONS.values():
        for name, (module, sentence) in section.items():
            command = cli.get_command(None, name)
            assert command.name == name
            assert command.callback.__module__ == f"kdyolo.cli.{module}"
            assert re.fullmatch(r"[A-Z].{10,60}\.", sentence), "a whole sentence that fits into 80 columns"


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_of_commands_has_whole_sentences(width):
    text = CliRunner(env={"COLUMNS": str(width)}).invoke(cli, ["--help"], terminal_width=width).output
    for title, section in SECTIONS.items():
        assert f"\n{title}:\n" in text
        for name, (_, sentence) in section.items():
            assert re.search(rf"^  {name} +{re.escape(sentence)}$", text, re.MULTILINE)


def test_a_misspelt_command(capsys):
    assert fails(capsys, "trian") == (
        2,
        "Usage: kdyolo [OPTIONS] COMMAND [ARGS]...\nTry 'kdyolo --help' for help.\n\nError: "
        "No such command 'trian'. Did you mean 'train'?\n",
    )
    code, text = fails(capsys, "zebra")
    assert code == 2
    assert text.endswith("Error: No such command 'zebra'.\n")


@pytest.mark.parametrize(
    ("word", "words"),
    [("export", "yolo export model=best.pt"), ("detect", "leave the word out"), ("tune", "study"), ("help", "--help")],
)
def test_words_that_users_of_yolo_begin_with_lead_on(capsys, word, words):
    code, error = fails(capsys, word, "train", "data=coco.yaml")
    assert code == 2
    assert f"No such command '{word}'" in error
    assert words in error
