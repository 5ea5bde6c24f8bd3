"""KEY=VALUE on the command line of every command, as ``yolo`` takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from kdyolo.cli import cli
from kdyolo.cli.sections import SECTIONS

COMMANDS = [name for section in SECTIONS.values() for name in section]


def read(*words: str) -> dict[str, Any]:
    """What a command line gives to its command."""
    name, *arguments = words
    return dict(cli.get_command(None, name).make_context(name, arguments).params)


def mistakes(*words: str) -> str:
    with pytest.raises(click.UsageError) as error:
        read(*words)
    return error.value.message


@pytest.mark.parametrize(
    "words",
    [
        "--model best.pt --data coco.yaml --imgsz 320 --errors conf=0.01",
        "--model=best.pt --data=coco.yaml --imgsz=320 --errors conf=0.01",
        "model=best.pt data=coco.yaml imgsz=320 errors=True conf=0.01",
        "conf=0.01 errors=yes imgsz=320 data=coco.yaml model=best.pt",
        "best.pt coco.yaml imgsz=320 errors=1 conf=0.01 per_class=False",
        "best.pt data=coco.yaml --imgsz 320 --errors conf=0.01 per-class=no",
    ],
)
def test_options_words_and_key_value_say_the_same(words):
    found = read("val", *words.split())
    assert {key: value for key, value in found.items() if value} == {
        "model": "best.pt",
        "data": "coco.yaml",
        "imgsz": "320",
        "errors": True,
        "evaluator": "faster-coco-eval",
        "settings": ("conf=0.01",),
    }


def test_predict_as_yolo_users_type_it():
    found = read("predict", "best.pt", "images/", "save_txt=True")
    assert (found["model"], found["source"], found["settings"]) == ("best.pt", "images/", ("save_txt=True",))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_may_be_given_so(name):
    command = cli.get_command(None, name)
    line = [name, *(f"{p.name}=x" for p in command.params if isinstance(p, click.Argument) and p.name != "settings")]
    options = [p for p in command.params if isinstance(p, click.Option) and p.expose_value]
    values = {}
    for option in options:
        key = (
            option.name
            if f"--{option.name.replace('_', '-')}" in option.opts
            else max(option.opts, key=len).lstrip("-")
        )
        one = {"choice": getattr(option.type, "choices", ["x"])[0], "integer": "3", "float": "0.5"}
        values[option.name] = "True" if option.is_flag else one.get(option.type.name.partition(" ")[0], "3")
        line.append(f"{key}={values[option.name]}")
    found = read(*line)
    for option in options:
        given = found[option.name][0] if isinstance(found[option.name], tuple) else found[option.name]
        assert str(given).replace("3.0", "3") == values[option.name], option.name


def test_ultralytics_own_freeze_is_not_the_option_of_that_name():
    assert read("train", "data=x", "freeze=10")["settings"] == ("freeze=10",)
    assert read("train", "data=x", "freeze_epochs=10")["freeze_epochs"] == "10"
    assert read("train", "data=x", "verbose=False")["settings"] == ("verbose=False",)


def test_what_a_shell_took_apart_and_quotes_are_as_yolo_has_them():
    apart = "model = best.pt data= coco.yaml imgsz =320 classes=[0, 2] conf = 0.01"
    found = read("val", *apart.split())
    assert (found["model"], found["data"], found["imgsz"]) == ("best.pt", "coco.yaml", "320")
    assert found["settings"] == ("classes=[0,2]", "conf=0.01")
    found = read("predict", "model = best.pt", "source='my images'", "--conf", "0.1")
    assert (found["model"], found["source"]) == ("best.pt", "my images")
    assert read("train", "data=x", "lr0=", "-1", "--seed", "3")["settings"] == ("lr0=-1",)


def test_values_may_be_negative_and_flags_may_say_no():
    for line in ("train --batch -1 --seed -2", "train --batch=-1 --seed=-2", "train batch=-1 seed=-2"):
        found = read(*line.split())
        assert (found["batch"], str(found["seed"])) == ("-1", "-2")
    assert read("distill", "--lr", "-1", "--amp=False", "--compile=True")["lr"] == -1
    assert (read("distill", "--amp=False")["amp"], read("distill", "--amp=yes")["amp"]) == (False, True)


def test_values_of_options_are_left_alone():
    assert read("train", "--data", "a=b", "--key-map", "trust=True") | {"settings": ()} == read(
        "train", "--data=a=b", "--key-map=trust=True"
    )
    assert read("logs", "run", "-n5", "-f")["lines"] == 5
    assert read("logs", "-fn", "7", "run")["lines"] == 7
    assert read("compare", "a", "--", "metric=b")["runs"] == ("a", "metric=b")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--skip-invalid COCO", "few"),
        ("COCO --skip-invalid=any", "any"),
        ("COCO skip_invalid=any", "any"),
        ("COCO skip_invalid=True", "few"),
        ("COCO skip_invalid=no", None),
        ("COCO", None),
    ],
)
def test_an_option_that_may_stand_alone_leaves_the_next_word(words, expected):
    found = read("convert", "out=x", *words.split())
    assert (found["root"], found["skip_invalid"]) == ("COCO", expected)


def test_a_file_may_have_an_equals_sign_in_its_name(tmp_path):
    Path("lr0=1").mkdir()
    assert read("compare", "lr0=1", "runs/lr0=2")["runs"] == ("lr0=1", "runs/lr0=2")
    assert "unknown setting 'lr0'" in mistakes("compare", "lr0=3")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("compare a metrik=mAP50", ["unknown setting 'metrik'. Did you mean 'metric'"]),
        ("card runs --ou x", ["No such option: '--ou'. Did you mean '--out'"]),
        ("val best.pt coco.yaml --batch 3 batch=4", ["batch is given twice."]),
        ("val best.pt coco.yaml batch=4 --batch 3", ["batch is given twice."]),
        ("val best.pt coco.yaml imgsz= --errors", ["expected KEY=VALUE, found 'imgsz='."]),
        ("val best.pt coco.yaml imgsz=3 imgsz=4", ["imgsz is given twice."]),
        ("val best.pt coco.yaml errors=perhaps", ["errors takes True or False; found 'perhaps'."]),
        ("val best.pt coco.yaml imgsz=", ["expected KEY=VALUE, found 'imgsz='."]),
        ("score a b --resamples x --seed y --ab c --cd", ["6 mistakes", "'x'", "'y'", "'--ab'", "'--cd'"]),
        ("val --errors=x --imgsz", ["4 mistakes", "errors takes True or False", "'--imgsz' requires", "'--data'"]),
        ("val --split x", ["3 mistakes", "'--split'", "Missing option '--model'", "Missing option '--data'"]),
    ],
)
def test_all_mistakes_of_a_line_at_once(line, words):
    message = mistakes(*line.split())
    for word in words:
        assert word in message
