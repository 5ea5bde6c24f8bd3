"""What commands print of names and files: shown, never obeyed by the terminal, and short."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from kdyolo.cli import main
from kdyolo.cli.parsing.output import echo
from kdyolo.runs.log_reader import readable
from kdyolo.utils.progress import log_escaped
from tests.builders.commands import CHECKOUT
from tests.builders.run_folders import write_run
from tests.contracts.source import modules

TITLE, CLIPBOARD = "\x1b]0;pwn\x07", "\x1b]52;c;cm0gLXJm\x07"
EVIL = f"a{TITLE}b\x9b31mc\u202ed\re\nfinished"
SHOWN = r"a\x1b]0;pwn\x07b\x9b31mc\u202ed\re\nfinished"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed since the last look, after a look for what a terminal obeys."""
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert not OBEYED.search(text), repr(OBEYED.search(text))
    return text


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with a name that a terminal would obey, and in its files the same."""
    monkeypatch.chdir(tmp_path)
    classes = {f"cat{EVIL}": 0.25, "a|b`c": 0.5}
    return write_run(Path("runs", EVIL), [0.1, 0.3], ap=0.25, per_class=classes, data=f"d{EVIL}.yaml")


def test_only_one_function_prints():
    calls = {
        path: [
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in {"click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write"}
        ]
        for path, tree in modules().items()
        if path.startswith("kdyolo/cli/")
    }
    assert [path for path, lines in calls.items() if lines] == ["kdyolo/cli/parsing/output.py"]
    assert len(calls["kdyolo/cli/parsing/output.py"]) == 1


@pytest.mark.parametrize("form", ["table", "md", "csv", "json"])
def test_compare(evil, capsys, form):
    main(["compare", str(evil), "--format", form])
    text = printed(capsys)
    if form == "json":
        assert EVIL in json.loads(text)["arms"][0]["name"]
    elif form == "table":
        assert SHOWN in text
    else:
        assert "pwn" in text


def test_ps_and_stop(evil, capsys):
    main(["ps"])
    lines = printed(capsys).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(f"runs/{SHOWN}  finished")
    main(["ps", "--json"])
    (found,) = json.loads(printed(capsys))
    assert found["run"] == f"runs/{EVIL}"
    main(["stop", str(evil)])
    assert printed(capsys) == f"runs/{SHOWN}: was not running. It is finished.\n"


def test_a_host_and_a_damaged_file(evil, capsys):
    (evil / "pid.txt").write_text("5")
    (evil / "process.json").write_text(json.dumps({"pid": 5, "host": EVIL, "started": 1.0, "launcher": None}))
    main(["ps"])
    assert f"on {SHOWN}, unseen from here" in printed(capsys)
    with pytest.raises(SystemExit):
        main(["stop", str(evil)])
    assert f"runs on {SHOWN}, if at all" in printed(capsys)
    (evil / "results.csv").write_text(f"{EVIL},b\n")
    main(["ps"])
    assert len(printed(capsys).splitlines()) == 3


def test_ps_on_a_terminal(evil):
    code = "import pty, sys; pty.spawn([sys.executable, '-m', 'kdyolo', 'ps'])"
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "200", "TERM": "xterm"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True
    )
    text = done.stdout.decode()
    assert r"\x1b]0;pwn\x07" in text
    assert not OBEYED.search(re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n"))


@pytest.mark.parametrize(
    "words",
    [
        ["logs", EVIL],
        ["card", EVIL],
        ["export-stock", EVIL],
        ["compare", EVIL],
        ["train", f"--{EVIL}"],
        ["train", EVIL],
        [EVIL],
        ["ps", "--debug", EVIL],
    ],
    ids=["logs", "card", "export-stock", "compare", "an option", "a setting", "a command", "with its traceback"],
)
def test_errors(tmp_path, words, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(words)
    assert "pwn" in printed(capsys)


def test_an_error_from_below_is_short_and_shown(capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise ValueError(f"{EVIL}{'x' * 1_000_000}")

    monkeypatch.setattr("kdyolo.runs.status.list_runs", fail)
    with pytest.raises(SystemExit):
        main(["ps"])
    text = printed(capsys)
    assert text.startswith(r"Error: ValueError: a\x1b]0;pwn")
    assert len(text) < 25_000


def test_lines_of_the_log_keep_their_colours_only(capsys):
    logger, seen = logging.getLogger("ultralytics"), []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger.addHandler(handler)
    try:
        with log_escaped():
            logger.info("\x1b[34mclass\x1b[0m %s\tb\n", f"{TITLE}\u202e")
        logger.info(TITLE)
    finally:
        logger.removeHandler(handler)
    assert seen == ["\x1b[34mclass\x1b[0m \\x1b]0;pwn\\x07\\u202e\tb\n", TITLE]


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_of_our_own_are_folded_on_a_terminal_and_whole_in_a_log(monkeypatch, terminal):
    monkeypatch.setenv("COLUMNS", "40")
    logger, screen, log = logging.getLogger("ultralytics"), io.StringIO(), io.StringIO()
    screen.isatty = lambda: terminal

    class RunLog(logging.StreamHandler):
        """Another kind of handler than the terminal's, as that of a run's log."""

    shown, kept = logging.StreamHandler(screen), RunLog(log)
    others = list(logger.handlers)
    logger.handlers[:] = [shown, kept]
    line = "weights: /a/path/that/is/longer/than/a/line/of/40 and last.pt are plain checkpoints"
    try:
        with log_escaped():
            exec(compile(f"logger.info({line!r})", str(CHECKOUT / "kdyolo/engine/training.py"), "exec"))
            logger.info(line)  # Ultralytics' own lines are not from kdyolo's files
    finally:
        logger.handlers[:] = others
    folded = "weights:\n  /a/path/that/is/longer/than/a/line/of/40\n  and last.pt are plain checkpoints"
    assert screen.getvalue() == f"{folded if terminal else line}\n{line}\n"
    assert log.getvalue() == f"{line}\n{line}\n"


def test_warnings_and_what_threads_end_with_are_shown_and_are_a_line(capsys, caplog, monkeypatch):
    """Matplotlib warns of the characters that a font lacks, and Pillow gives up on some, in Ultralytics' threads."""

    def draw() -> None:
        raise RuntimeError(f"cannot draw {TITLE}")

    monkeypatch.setattr(logging.getLogger("ultralytics"), "propagate", True)
    before = warnings.showwarning, threading.excepthook
    with log_escaped(), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"Glyph 27 ({TITLE}) missing from font", stacklevel=1)
        thread = threading.Thread(target=draw, name="plot")
        thread.start()
        thread.join()
    assert (warnings.showwarning, threading.excepthook) == before
    out, err = capsys.readouterr()
    assert r"Glyph 27 (\x1b]0;pwn\x07) missing" in err
    assert "Traceback" not in out + err
    assert "\x1b]0" not in out + err
    assert caplog.records[-1].getMessage().endswith(r"in plot: RuntimeError: cannot draw \x1b]0;pwn\x07")


def test_lines_and_paths_that_are_no_text(capsys):
    echo(Path(os.fsdecode(b"bad\xff.pt")), nl=False)
    assert printed(capsys) == r"bad\udcff.pt"
    echo("ä 日本 \t👩‍👩‍👧 | two\nlines")
    assert printed(capsys) == "ä 日本 \t👩‍👩‍👧 | two\nlines\n"


# ---- logs ------------------------------------------------------------------------------------------------------------

LOG = f"{TITLE}\x1b[2J\x1b[31mred\x1b[0m {CLIPBOARD}é\x9b1A\r\nover\rwritten\x1b[1;3"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_log_shows_colours_and_nothing_else(size):
    data = LOG.encode()
    shown = "".join(readable(data[i : i + size] for i in range(0, len(data), size)))
    expected = r"\x1b]0;pwn\x07\x1b[2J" + "\x1b[31mred\x1b[0m " + r"\x1b]52;c;cm0gLXJm\x07é\x9b1A" + "\n"
    assert shown == expected + r"over\rwritten\x1b[1;3" + "\x1b[0m"


def test_a_line_is_shown_before_it_ends():
    assert next(readable(iter([b"loading"]))) == "loading"


@pytest.mark.parametrize("terminal", [True, False])
def test_logs(evil, terminal):
    (evil / "train.log").write_text(LOG)
    command = [sys.executable, "-m", "kdyolo", "logs", str(evil)]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm"}
    if terminal:
        ours, theirs = pty.openpty()
        subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=theirs, check=True)
        text = os.read(ours, 10_000).decode().replace("\r\n", "\n")
    else:
        text = subprocess.run(command, env=env, capture_output=True, check=True).stdout.decode()
    assert ("\x1b[31mred\x1b[0m" in text) is terminal
    assert r"\x1b]0;pwn\x07\x1b[2J" in text
    assert not OBEYED.search(re.sub(r"\x1b\[[0-9;]*m", "", text))
