"""The help of commands, how much they tell, and the exit codes that all of them keep."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path

import click
import click.shell_completion
import pytest
from click.testing import CliRunner

from kdyolo.cli import cli, main
from kdyolo.cli.parsing.exit_codes import EXIT_CODES
from kdyolo.cli.parsing.output import echo, note, print_result
from kdyolo.cli.sections import SECTIONS
from kdyolo.utils.progress import verbosity
from tests.builders.commands import run_command
from tests.builders.run_folders import write_run

COMMANDS = [name for section in SECTIONS.values() for name in section]


def ended(*words: str) -> int:
    """The exit code of a command."""
    try:
        main(list(words))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_help_of_distill_has_groups():
    text = CliRunner().invoke(cli, ["distill", "--help"]).output
    titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert titles[0] == "What it starts from"
    assert "Options" not in titles
    assert titles[-3:] == ["Controlling the run", "Reading the checkpoint that it starts from", "Help and output"]
    control = text[text.index(titles[-3]) : text.index(titles[-2])]
    assert all(option in control for option in ("--config", "--resume", "--dry-run", "--detach", "--work-dir"))
    assert all(f"  {option} " in text for option in ("--bn-eps", "--input-norm", "--key-map"))


def test_the_help_of_train_has_groups():
    text = CliRunner().invoke(cli, ["train", "--help"]).output
    titles = re.findall(r"^(\w.*):$", text, re.MULTILINE)
    assert titles == [
        "What it starts from",
        "Freezing the backbone",
        "Training",
        "Controlling the run",
        "Reading the backbone checkpoint",
        "Help and output",
    ]
    start = text[text.index(titles[0]) : text.index(titles[1])]
    assert all(option in start for option in ("--data", "--backbone", "--model", "--weights", "--random-init"))
    options = {flag for param in cli.get_command(None, "train").params for flag in param.opts if flag.startswith("--")}
    assert all(len(re.findall(rf"^  .*{option}\b", text, re.MULTILINE)) >= 1 for option in options)


@pytest.mark.parametrize("name", ["", *COMMANDS])
@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_fits_the_terminal_and_has_no_colours(name, width):
    result = CliRunner(env={"COLUMNS": str(width)}).invoke(cli, [*name.split(), "--help"], terminal_width=width)
    text = result.output.partition("Examples:")[0]  # which are lines to copy
    wide = [line for line in text.splitlines() if len(line) > width and "yolo " not in line]
    assert all(line.startswith("  -") for line in wide), "an option with its values stands in one line"
    assert "\x1b" not in text


def test_every_command_has_what_all_have():
    for name in COMMANDS:
        flags = {flag for param in cli.get_command(None, name).params for flag in param.opts}
        assert flags >= {"-V", "--version", "-q", "--quiet", "-v", "--verbose", "--debug"}, name


def test_commands_with_a_result_print_json_if_asked():
    for name in set(COMMANDS) - {"logs"}:
        assert "--json" in {flag for param in cli.get_command(None, name).params for flag in param.opts}, name


def test_version(capsys):
    for words in (["-V"], ["train", "-V"], ["ps", "--version", "nowhere"]):
        main(words)
        assert re.fullmatch(r"kdyolo, version \S+\n", capsys.readouterr().out)


# ---- exit codes ------------------------------------------------------------------------------------------------------

# Command → a line in which nothing is wrong but that a file or folder is not there.
MISSING = {
    "card": "nowhere",
    "compare": "nowhere",
    "convert": "nowhere --out out",
    "demo": "--out loop",
    "distill": "--config nowhere.yaml",
    "doctor": "--data nowhere.yaml",
    "export-stock": "nowhere",
    "extract": "nowhere --out b.safetensors",
    "inspect": "nowhere.pth",
    "logs": "nowhere",
    "predict": "nowhere.pt here.yaml",
    "probe": "nowhere.pth --data here.yaml",
    "ps": "nowhere",
    "score": "a.json here.yaml",
    "stop": "nowhere",
    "study": "nowhere.yaml",
    "to-coco": "nowhere.yaml --out a.json",
    "train": "--data nowhere.yaml --random-init",
    "val": "nowhere.pt here.yaml run_download=True",  # then a data set is not looked into beside mistakes
}
# Command → a line with a wrong value or a contradiction.
WRONG = {
    "card": "runs --out",
    "compare": "nowhere --metric speed",
    "convert": "--annotations a.json --out out",
    "demo": "--out here.yaml",
    "distill": "--teacher t.pt --images . --epochs 0",
    "doctor": "--model kdyolov8n.yaml",
    "export-stock": "",
    "extract": "nowhere",
    "inspect": "a.pth b.pth c.pth",
    "logs": "nowhere -n x",
    "predict": "here.yaml here.yaml conf=2",
    "probe": "a.pth --data x.yaml --images 0",
    "ps": "-q -v",
    "score": "here.yaml",
    "stop": "nowhere --timeout x",
    "study": "study.yaml --detach --dry-run",
    "to-coco": "here.yaml --out a.json --split tset",
    "train": "--data here.yaml --random-init lr0=x",
    "val": "here.yaml here.yaml batch=0",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_keeps_the_table_of_exit_codes(name, capsys):
    Path("here.yaml").write_text("a: 1\n")
    Path("loop").symlink_to("loop")
    assert ended(name, "--help") == 0
    assert ended(name, "--nonsense") == 2
    assert "No such option: '--nonsense'" in capsys.readouterr().err
    assert ended(name, *WRONG[name].split()) == 2, capsys.readouterr().err
    assert ended(name, *MISSING[name].split()) == 1, capsys.readouterr().err
    assert capsys.readouterr().err.count("Error: ") == 2


@pytest.mark.parametrize("line", ["train --config nowhere.yaml", "train --resume nowhere", "distill --resume nowhere"])
def test_other_files_that_are_missing_are_no_wrong_call_either(line, capsys):
    Path("here.yaml").write_text("a: 1\n")
    assert ended(*line.split()) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("train --random-init --data here.yaml lr0=abc epoch=3 mosaic=2", ["lr0", "'epoch'", "mosaic", "here.yaml"]),
        (
            "train --random-init --data here.yaml --imgsz 100 --epochs 0 --batch 0 device=cuda:99 model=kdyolo7n.yaml",
            ["imgsz", "epochs", "batch", "GPU 99", "kdyolo7n.yaml", "here.yaml"],
        ),
        ("train --config asked.yaml --epochs 0 mosaic=2 --nonsens=3", ["lr0", "epochs", "mosaic", "'--nonsens'"]),
        ("train --config nowhere.yaml --epochs 0 mosaic=2", ["nowhere.yaml", "epochs", "mosaic"]),
        ("train detect lr0=x lr0=2 data=no.yaml", ["'detect'", "lr0 is given twice", "'x'", "no.yaml"]),
        ("train EPOCHS=3 data=no.yaml", ["Did you mean 'epochs'?", "no.yaml"]),
        ("train epochs=0 device=cuda:99", ["no data set", "epochs", "GPU 99"]),
        ("train work_dir=r project=p name=n lr0=abc data=here.yaml", ["excludes project and name", "lr0", "here.yaml"]),
        (
            "distill images=nowhere epochs=0 --imgsz 100 --device cuda:99",
            ["no teacher", "nowhere", "epochs", "imgsz", "GPU 99"],
        ),
        (
            "distill images=no teacher=no.pt model=yolov9x backbone=no.pth val_images=no2 --nonsens bn_eps=x",
            ["there is no no.", "there is no no.pt", "yolov9x", "no.pth", "no no2", "'--nonsens'", "'x'"],
        ),
        (
            "distill images=. teacher=here.pt backbone=here.pt taps=p9:1 seed=-1 input_norm=x --imgsz",
            ["here.pt", ".: expected images", "seed", "input_norm", "'--imgsz' requires"],
        ),
        ("distill --config nowhere.yaml --epochs 0 lr=abc", ["nowhere.yaml", "epochs", "'abc'"]),
        (
            "predict nowhere.pt nowhere conf=2 imgsz=abc device=cuda:99",
            ["--model nowhere.pt", "--source nowhere", "conf", "imgsz", "GPU 99"],
        ),
        ("val nowhere.pt here.yaml batch=0 --nonsens x", ["--model nowhere.pt", "batch", "'--nonsens'", "here.yaml"]),
        ("val here.pt here.yaml conf=2", ["here.pt: not a weights file", "conf", "here.yaml"]),
        ("predict here.yaml nowhere", ["--model here.yaml: expected a trained detector", "--source nowhere"]),
        (
            "compare no1 no2 --targets x --metric speed --watch",
            ["--targets", "--watch", "'speed'", "no1: no run", "no2: no run"],
        ),
        (
            "probe no1.pth no2.pth --data no.yaml --imgsz 100 --batch 0 --plot p.bmp --device cuda:99 --nonsens",
            ["no1.pth", "no2.pth", "no.yaml", "multiple of 32", "'--batch'", "p.bmp", "GPU 99", "'--nonsens'"],
        ),
        ("convert no1 no2 --link y min_area=x", ["'y'", "'x'", "'--out'", "(no2)", "no1: no such"]),
        (
            "convert --annotations a.json --images i --split s --annotations b.json --images j --split s out=o name=a/",
            ["'s' is used more than once", "a.json", "i: expected", "b.json", "j: expected", "--name 'a/'"],
        ),
        ("convert no1 --annotations a.json --out o", ["belong together", "no1: no such", "a.json: no such"]),
        ("study nowhere.yaml --engine x", ["'x'", "nowhere.yaml"]),
        ("compare no1 no2 --metrc x --at y", ["'--metrc'", "'y'", "no1: no run", "no2: no run"]),
        ("to-coco no.yaml --split x", ["'x'", "'--out'", "no.yaml"]),
        ("doctor --data no.yaml --backbone no.pth --model yolov9", ["no.yaml", "no.pth", "yolov9"]),
        ("inspect no.pth --image no.jpg --imgsz x", ["no.pth", "no.jpg", "'x'"]),
        ("extract nowhere --out no/x.pt", ["nowhere", "ends in .safetensors", "no folder no"]),
        ("stop no1 no2 --timeout -1", ["no1", "no2", "-1"]),
        ("logs nowhere -n x", ["nowhere", "'x'"]),
        ("score no1.json no2.json --resamples x --nonsense", ["no1.json", "no2.json", "'x'", "'--nonsense'"]),
        ("score no1.json no2.json --ci --resamples 0", ["--resamples", "no1.json", "no2.json"]),
        ("inspect no1.pth no2.pth --image no.jpg", ["expected one file", "no1.pth", "no2.pth", "no.jpg"]),
    ],
)
def test_mistakes_in_options_settings_config_and_files_are_told_at_once(line, words, capsys):
    Path("here.yaml").write_text("a: 1\n")
    Path("here.pt").write_text("no weights\n")
    Path("asked.yaml").write_text("data: here.yaml\nrandom_init: true\nlr0: abc\n")
    assert ended(*line.split()) == 2
    error = capsys.readouterr().err
    count = int(re.search(r"Error: (\d+) mistakes:", error)[1])
    assert count >= len(words)
    assert error.count("\n  - ") == count
    assert all(word in error for word in words), error


def test_the_help_lists_the_exit_codes():
    text = CliRunner().invoke(cli, ["--help"]).output
    assert all(re.search(rf"^ +{code} +{re.escape(words)}$", text, re.MULTILINE) for code, words in EXIT_CODES.items())


# ---- how much is told ------------------------------------------------------------------------------------------------


@pytest.fixture
def talking(monkeypatch):
    """``kdyolo card`` in place of its work talks through every channel that a command has."""

    def talk(run: str, out: str | None) -> str:
        logger = logging.getLogger("ultralytics")
        handler = logging.StreamHandler(sys.stdout)  # as Ultralytics' own, made when it is first imported
        logger.addHandler(handler)
        try:
            print("a print on the way")
            note("a note")
            logger.info("a line of the log")
            logger.warning("a warning")
            echo(verbosity())
        finally:
            logger.removeHandler(handler)
        return "card.md"

    monkeypatch.setattr("kdyolo.runs.model_card.write_model_card", talk)


@pytest.mark.parametrize(
    ("flags", "out", "err", "neither"),
    [
        ("", ["a print", "a line of the log", "normal\n", "card.md\n"], ["a note"], []),
        ("-v", ["a print", "a line of the log", "verbose\n"], ["a note"], []),
        ("-q", ["quiet\n", "card.md\n"], ["a warning\n"], ["a print", "a note", "a line of the log"]),
        ("--json", ['"file": "card.md"'], ["a print", "a line of the log", "a note"], []),
        ("--json -q", ['"file": "card.md"'], ["a warning\n"], ["a print", "a note", "a line of the log"]),
    ],
)
@pytest.mark.usefixtures("talking")
def test_stdout_has_the_result(capsys, flags, out, err, neither):
    main(["card", "runs", *flags.split()])
    found = capsys.readouterr()
    assert all(words in found.out for words in out), found
    assert all(words in found.err for words in err), found
    assert not [words for words in neither if words in found.out + found.err]
    if "--json" in flags:
        assert "a print" not in found.out
    assert verbosity() == "normal"


def test_quiet_and_verbose_exclude_each_other(capsys):
    assert ended("ps", "-q", "-v") == 2
    assert ended("-q", "ps", "-v") == 2
    assert "exclude each other" in capsys.readouterr().err


def test_json_alone_is_on_the_stdout_of_a_real_process(tmp_path):
    run = write_run(tmp_path / "runs" / "one", planned=5)
    for flags in (["--json"], ["--json", "-q"]):
        done = run_command(sys.executable, "-m", "kdyolo", "ps", *flags, cwd=tmp_path, fresh=True)
        assert json.loads(done.stdout)[0]["run"] == str(run.relative_to(tmp_path))
    done = run_command(sys.executable, "-m", "kdyolo", "-q", "ps", cwd=tmp_path, fresh=True)
    assert "runs/one" in done.stdout


def test_results_are_printed_also_within_each_other(capsys):
    with click.Context(click.Command("x")):
        print_result({"a": [1]})
        print_result("table")
    assert capsys.readouterr().out == '{\n  "a": [\n    1\n  ]\n}\ntable\n'
