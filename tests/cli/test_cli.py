"""The command line as a user meets it: help, messages, exit codes, and the main job."""

from __future__ import annotations

import logging
import os
import sys

import pytest
from click.testing import CliRunner
from ultralytics.utils import LOGGER

import kdyolo
from kdyolo.cli import cli, main
from kdyolo.cli.sections import SECTIONS
from kdyolo.runs.process_control import Terminated
from tests.builders.coco import make_split

KDYOLO = (sys.executable, "-m", "kdyolo")
COMMANDS = [name for section in SECTIONS.values() for name in section]


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a command that must fail; no traceback, nothing on the way."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    error = capsys.readouterr().err
    assert isinstance(end.value.code, int)
    assert end.value.code != 0
    assert "Traceback" not in error
    return end.value.code, error


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_real_examples(command):
    result = CliRunner().invoke(cli, [*command.split(), "--help"])
    assert result.exit_code == 0
    assert f"kdyolo {command}".strip() in result.output


def test_the_name_alone_shows_the_help_as_a_result(capsys):
    main([])
    out, error = capsys.readouterr()
    assert error == ""
    assert "Compare" in out
    assert "kdyolo train" in out


@pytest.mark.parametrize("name", kdyolo.__all__)
def test_every_public_name_can_be_imported(name):
    assert getattr(kdyolo, name) is not None


def test_version():
    assert kdyolo.__version__ in CliRunner().invoke(cli, ["--version"]).output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train"], 2, ["--data"]),
        (
            ["train", "--data", "x.yaml", "lrO=1", "epohcs=3"],
            2,
            ["3 mistakes", "'lrO'", "Did you mean 'epochs'", "x.yaml"],
        ),
        (["train", "--data", "x.yaml", "--lr0", "1"], 2, ["No such option", "lr0=0.01"]),
        (["train", "--data", "x.yaml", "lr0"], 2, ["KEY=VALUE", "'lr0'"]),
        (["train", "--data", "x.yaml", "--epochs", "3", "epochs=4"], 2, ["epochs is given twice"]),
        (["train", "--data", "x.yaml", "--freeze", "5", "freeze=10"], 2, ["number of layers", "thaws"]),
        (["train", "--data", "x.yaml", "--freeze", "half"], 2, ["'all'"]),
        (["train", "--data", "x.yaml", "--backbone", "b.pth", "--random-init"], 2, ["exclude"]),
        (["train", "--data", "x.yaml", "--detach", "--dry-run"], 2, ["--detach and --dry-run exclude each other"]),
        (["train", "--resume", "run", "--dry-run"], 2, ["--dry-run is for a new run"]),
        (["study", "study.yaml", "--detach", "--dry-run"], 2, ["--detach and --dry-run exclude each other"]),
        (
            ["train", "--data", "x.yaml", "--model", "kdyolo8n.yaml"],
            2,
            ["2 mistakes", "no such model", "kdyolov8n.yaml"],
        ),
        (["train", "--data", "x.yaml", "--model", "kdyolov8n.yaml"], 1, ["x.yaml"]),
        (
            ["train", "--data", "x.yaml", "--backbone", "nope.pth"],
            2,
            ["2 mistakes", "x.yaml", "nope.pth: no such file"],
        ),
        (["train", "--resume", "nowhere"], 1, ["last.pt"]),
        (
            ["val", "--model", "nope.pt", "--data", "x.yaml"],
            2,
            ["2 mistakes", "nope.pt: no such file", "'x.yaml' does not exist"],
        ),
        (["predict", "nope.pt", "images/"], 2, ["--model nope.pt: no such file", "--source images/: no such"]),
        (["convert", "nowhere", "--out", "out"], 1, ["nowhere"]),
        (["convert", "--annotations", "a.json", "--split", "val", "--out", "out"], 2, ["belong together"]),
        (["trian"], 2, ["No such command"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_message(capsys, tmp_path, arguments, code, words):
    found, error = fails(capsys, *arguments)
    assert found == code
    assert all(word in error for word in words), error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("val b.pth data.yaml", ["b.pth: expected a trained detector", "backbone without a head", "--backbone b.pth"]),
        ("predict b.safetensors i.jpg", ["found weights alone", "kdyolo train --backbone b.safetensors"]),
        ("train --data data.yaml --model b.pth", ["found weights alone", "kdyolo train --backbone b.pth"]),
        ("val run data.yaml", ["run: expected a trained detector, found a folder", "run/weights/best.pt"]),
        ("predict run/weights i.jpg", ["found a folder", "e.g. a run's weights/best.pt"]),
        ("predict i.jpg i.jpg", ["i.jpg: expected a trained detector", "found another kind of file"]),
        ("train --data data.yaml --model i.jpg", ["i.jpg: expected a model YAML or a trained detector"]),
        ("train --data data.yaml --model run", ["run: expected a model YAML or a trained detector"]),
        ("train --data data.yaml --model x.pt", ["x.pt: no such file. Expected a trained detector"]),
        ("train --data data.yaml --model empty.pt", ["empty.pt: the file is empty"]),
        ("val data.yaml run/weights/best.pt", ["found a YAML file", "best.pt: expected a dataset YAML, found weights"]),
        ("val run/weights/best.pt run", ["best.pt: not a weights file", "data run: ", "Name the YAML"]),
        ("probe run --data data.yaml", ["checkpoint run: expected a file, found a folder"]),
    ],
)
def test_a_file_of_another_kind_is_one_error_before_anything_else(capsys, tmp_path, shapes, arguments, words):
    (tmp_path / "run/weights").mkdir(parents=True)
    for name in ("b.pth", "b.safetensors", "i.jpg", "run/weights/best.pt"):
        (tmp_path / name).write_bytes(b"something")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "data.yaml").symlink_to(shapes)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    out, error = capsys.readouterr()
    assert end.value.code == (2 if "2 mistakes" in error else 1)
    assert out == "", "no banner"
    assert all(word in error for word in words), error


def test_strict_checkpoint_before_any_data(capsys, checkpoint, tmp_path):
    code, error = fails(capsys, "train", "--data", "x.yaml", "--backbone", checkpoint, "--model", "kdyolov8s.yaml")
    assert code == 2, "the data set is not there either"
    for words in (
        "a checkpoint of yolov8n, the model is yolov8s",
        "missing 0",
        "wrong shape 135",
        "shapes fit yolov8n",
        "use --model kdyolov8n.yaml",
    ):
        assert words in error
    assert not any(tmp_path.iterdir())


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "nowhere", "--out", "out", "--debug"])
    assert "Traceback" in capsys.readouterr().err


def test_errors_from_below_have_no_traceback_either(capsys, monkeypatch, shapes, tmp_path):
    def fail(*_: object, **__: object) -> None:
        raise ValueError("no seeds here")

    monkeypatch.setattr("ultralytics.engine.trainer.init_seeds", fail)
    command = ("train", "--data", shapes, "--model", "kdyolov8n.yaml", "--device", "cpu", "--work-dir", "run")
    _, error = fails(capsys, *command)
    assert "Error: ValueError: no seeds here" in error
    assert "--debug" in error
    assert not (tmp_path / "run").exists()


def test_convert_prints_the_yaml_as_it_was_asked_for(capsys, shapes, tmp_path):
    main(["convert", str(shapes.parent.parent / "root"), "--out", "datasets/coco"])
    assert capsys.readouterr().out.splitlines()[-1] == "datasets/coco/coco.yaml"
    assert (tmp_path / "datasets/coco/coco.yaml").is_file()


@pytest.mark.parametrize(("raised", "code"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_exit_codes_of_a_command_that_a_signal_ended(monkeypatch, raised, code):
    def end(given):
        raise raised

    monkeypatch.setattr(sys.modules["kdyolo.cli.train"], "_start", end)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", "coco.yaml"])
    assert ended.value.code == code


def test_a_package_that_is_missing_is_named(capsys, monkeypatch):
    def opens(path, **how):
        raise ModuleNotFoundError("No module named 'ai_edge_litert'", name="ai_edge_litert")

    monkeypatch.setattr("kdyolo.checkpoints.inspection.inspect_checkpoint", opens)
    code, error = fails(capsys, "inspect", "x.tflite")
    assert code == 1
    assert "the package ai_edge_litert, which this needs, is not installed" in error
    assert "--debug" not in error


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize(
    "arguments",
    [
        ["convert", "coco", "--out", "loop"],
        ["train", "--data", "data.yaml", "--work-dir", "loop"],
        ["demo", "--out", "loop"],
    ],
)
def test_a_link_that_leads_to_itself_is_named(capsys, monkeypatch, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    make_split(tmp_path / "coco", "train")
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert "loop" in error
    assert "a symbolic link that leads to itself" in error


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
@pytest.mark.parametrize(
    ("path", "words"),
    [("n" * 5000, "longer than a path can be"), ("a\udcff", "no text in UTF-8"), ("a\0", "a zero byte")],
)
def test_a_path_that_none_can_be_is_named(capsys, monkeypatch, tmp_path, path, words):
    monkeypatch.chdir(tmp_path)
    make_split(tmp_path / "coco", "train")
    code, error = fails(capsys, "convert", "coco", "--out", path)
    assert code == 1
    assert words in error
    assert "--debug" not in error
    assert len(error) < 1000
    assert [entry.name for entry in tmp_path.iterdir()] == ["coco"]


def test_only_a_later_process_of_a_run_leaves_an_error_to_the_first(capsys, monkeypatch):
    """Schedulers set RANK by itself for jobs of a single process, too."""
    monkeypatch.setenv("RANK", "1")
    code, error = fails(capsys, "inspect", "missing.pt")
    assert (code, "missing.pt" in error) == (1, True)
    for name in ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert fails(capsys, "inspect", "missing.pt") == (1, "")


@pytest.mark.parametrize("words", ["--help", "-V", "ps --help", "ps"])
@pytest.mark.parametrize("prints", [print, LOGGER.warning])
def test_a_reader_that_goes_away_is_exit_code_141_and_no_traceback(capsys, monkeypatch, prints, words):
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr("kdyolo.cli.jobs.echo", prints)
    with os.fdopen(writer, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(LOGGER, "handlers", [logging.StreamHandler(stdout)])
        with pytest.raises(SystemExit) as end:
            main(words.split())
    assert end.value.code == 141
    assert capsys.readouterr().err == ""
