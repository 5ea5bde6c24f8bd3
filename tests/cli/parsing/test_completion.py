"""Completion by the shell, through click's protocol as bash, zsh and fish speak it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.shell_completion import get_completion_class

from kdyolo.cli import cli
from kdyolo.cli.sections import SECTIONS
from tests.builders.commands import run_command

SHELLS = ("bash", "zsh", "fish")


def completions(shell: str, *words: str) -> list[tuple[str, str]]:
    """What a shell is offered for the last of some words: value and kind."""
    begun = words[-1] if shell == "fish" else str(len(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMP_WORDS", " ".join(("kdyolo", *words)))
        patch.setenv("COMP_CWORD", begun)
        lines = get_completion_class(shell)(cli, {}, "kdyolo", "_KDYOLO_COMPLETE").complete().splitlines()
    if shell == "zsh":
        return list(zip(lines[1::3], lines[::3], strict=True))
    kinds, _, values = zip(*(line.partition(",") for line in lines), strict=True) if lines else ((), (), ())
    return [(value.partition("\t")[0], kind) for kind, value in zip(kinds, values, strict=True)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("tr", ["train"]),
        ("train --mo", ["--model"]),
        ("train --model kdyolo11", ["kdyolo11n.yaml", "kdyolo11s.yaml", "kdyolo11m.yaml", "kdyolo11l.yaml"]),
        ("train --recipe coco-", ["coco-mosaic"]),
        ("train --freeze-bn a", ["always"]),
        ("distill --model yolov8n", ["kdyolov8n.yaml"]),
        ("train --data x.yaml lr", ["lr0=", "lrf="]),
        ("train mod", ["model="]),
        ("train freeze_e", ["freeze_epochs="]),
        ("val best.pt con", ["conf="]),
        ("study --engine r", ["ray"]),
        ("compare --at l", ["last"]),
    ],
)
def test_the_shell_completes_commands_options_values_and_settings(shell, words, expected):
    found = completions(shell, *words.split())
    assert [value for value in expected if (value, "plain") not in found] == []
    assert all(
        value.removeprefix("kd" if " yolov" in words else "").startswith(words.split()[-1]) for value, _ in found
    )


def test_values_behind_a_key_are_completed_as_each_shell_splits_words():
    for key in ("recipe", "--recipe"):
        assert completions("zsh", "train", f"{key}=coco-") == [(f"{key}=coco-mosaic", "plain")]
        assert completions("fish", "train", f"{key}=coco-") == [(f"{key}=coco-mosaic", "plain")]
        assert completions("bash", "train", key, "=", "coco-") == [("coco-mosaic", "plain")]
        assert ("coco", "plain") in completions("bash", "train", key, "=")
    assert completions("bash", "train", "random_init", "=", "T") == [("True", "plain")]
    for shell in ("zsh", "fish"):
        assert completions(shell, "train", "data=da") == [("data=da", "keyed-file")]
    assert completions("bash", "train", "--data", "=", "da") == [("da", "keyed-file")]
    assert completions("zsh", "inspect", "epoch=9") == [("epoch=9", "file")]  # a name, as Lightning gives them


def test_where_a_file_may_stand_files_are_completed():
    for words in (("val", "be"), ("train", "--data", "x"), ("logs", "ru")):
        assert ("file") in {kind for _, kind in completions("bash", *words)}, words


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_its_script(shell):
    done = run_command(sys.executable, "-m", "kdyolo", cwd=".", fresh=True, _KDYOLO_COMPLETE=f"{shell}_source")
    assert "_KDYOLO_COMPLETE" in done.stdout or "kdyolo_completion" in done.stdout


def test_bash_completes_as_it_does_for_a_person(tmp_path):
    if subprocess.run(["bash", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no bash")
    words = {"COMP_WORDS": "kdyolo ", "COMP_CWORD": "1", "_KDYOLO_COMPLETE": "bash_complete"}
    done = run_command(sys.executable, "-m", "kdyolo", cwd=tmp_path, fresh=True, **words)
    commands = [name for section in SECTIONS.values() for name in section]
    assert done.stdout.splitlines() == [f"plain,{name}" for name in commands]
