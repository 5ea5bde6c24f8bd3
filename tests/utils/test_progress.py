"""The progress line: rate and time left, and only where a person waits."""

import io
import logging
import math
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from kdyolo import score_coco
from kdyolo.checkpoints.zip_archive import file_sha256
from kdyolo.utils.progress import (
    Progress,
    details,
    each_line_once,
    heading_of_metrics,
    narrow_row,
    notice,
    progress_over,
    verbosity,
    verbosity_set,
    waiting,
)
from tests.builders.coco_results import random_detections, random_ground_truth, write_json


def test_progress_line_has_rate_and_time_left():
    with Progress("writing", 2000, "files") as progress:
        progress.advance(500)
        assert progress.line(2.0) == "writing  25%  500/2,000 files  250/s  6 s left"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_appears_on_a_terminal_only_when_it_takes_long(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for patience, shown in ((60, False), (0, True)):
        monkeypatch.setattr("kdyolo.utils.progress.PATIENCE", patience)
        with Progress("writing", 10, "files") as progress:
            progress.advance()
        assert ("writing  10%  1/10 files" in capsys.readouterr().err) is shown


def test_a_notice_is_for_a_person_at_a_terminal(monkeypatch, capsys):
    for terminal, shown in ((False, ""), (True, "waiting for another\n")):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        notice("waiting for another")
        assert capsys.readouterr().err == shown


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
def test_forked_processes_count_into_the_same_line():
    import multiprocessing

    with Progress("writing", 10, "files") as progress:

        def work():
            progress.number = 1
            progress.advance(3)

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        progress.advance(2)
        assert progress.line(1.0).startswith("writing  50%  5/10 files")


def test_things_are_counted_one_by_one(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("kdyolo.utils.progress.PATIENCE", 0)
    assert list(progress_over("abc", "drawing", 3, "letters")) == ["a", "b", "c"]
    assert "drawing  33%  1/3 letters" in capsys.readouterr().err


def test_how_much_is_told_is_inherited_by_child_processes(monkeypatch):
    code = "from kdyolo.utils.progress import verbosity; print(verbosity())"
    monkeypatch.setenv("KDYOLO_VERBOSITY", "nonsense")
    assert verbosity() == "normal"
    for level in ("quiet", "verbose"):
        with verbosity_set(level):
            assert verbosity() == level
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            assert done.stdout == f"{level}\n"
    assert verbosity() == "normal"


def test_a_person_who_wants_quiet_is_told_of_no_wait(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with verbosity_set("quiet"):
        notice("waiting")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("level", "hidden"), [("normal", True), ("verbose", False)])
def test_details_are_for_the_log_and_for_those_who_want_all(level, hidden):
    logger, terminal, log = logging.getLogger("ultralytics"), io.StringIO(), io.StringIO()

    class Log(logging.StreamHandler):
        pass

    handlers = [logging.StreamHandler(terminal), Log(log)]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        with verbosity_set(level):
            with details("layer "):
                logger.info("\x1b[1mlayer 1\x1b[0m")
                logger.info("another")
            with details():
                logger.info("table")
                logger.warning("warned")
        logger.info("after")
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
    assert [word in terminal.getvalue() for word in ("layer 1", "table")] == [not hidden] * 2
    assert all(word in terminal.getvalue() for word in ("another", "warned", "after"))
    assert all(word in log.getvalue() for word in ("layer 1", "table", "another", "warned", "after"))


def test_a_line_that_several_runs_have_is_told_once():
    logger, terminal = logging.getLogger("ultralytics"), io.StringIO()
    logger.addHandler(handler := logging.StreamHandler(terminal))
    try:
        for _ in range(2):  # the second block tells it anew
            with each_line_once():
                for name in ("first", "second"):
                    logger.warning("crowd regions")
                    logger.warning("%s arm", name)
    finally:
        logger.removeHandler(handler)
    told = [line.removeprefix("WARNING ⚠️ ") for line in terminal.getvalue().splitlines()]
    assert told == ["crowd regions", "first arm", "second arm"] * 2


def test_what_cannot_say_how_far_it_is_shows_how_long_it_takes(monkeypatch, capsys):
    monkeypatch.setattr("kdyolo.utils.progress.PATIENCE", 0.01)
    for terminal in (False, True):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal, raising=False)
        with waiting("scoring 5 images"):
            time.sleep(0.1)
        shown = capsys.readouterr().err
        assert ("scoring 5 images … 0 s" in shown) is terminal
        assert shown.endswith("\r\x1b[K") is terminal, "nothing of it stays"
    monkeypatch.setattr("kdyolo.utils.progress.PATIENCE", 60)
    with waiting("scoring 5 images"):
        pass
    assert capsys.readouterr().err == ""


def test_hashing_a_checkpoint_and_scoring_are_told_on_a_terminal(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("kdyolo.utils.progress.PATIENCE", 0)
    (tmp_path / "ckpt.pth").write_bytes(b"0" * 100)
    file_sha256(tmp_path / "ckpt.pth")
    assert "hashing ckpt.pth 100%" in capsys.readouterr().err


def test_the_ends_of_an_evaluation_are_told(monkeypatch, tmp_path):
    told = []

    @contextmanager
    def recorded(what):
        told.append(what)
        yield

    monkeypatch.setattr("kdyolo.metrics.evaluators.waiting", recorded)
    truth = random_ground_truth(images=4)
    score_coco(write_json(tmp_path / "d.json", random_detections(truth)), write_json(tmp_path / "t.json", truth))
    assert told == ["scoring 4 images"]


@pytest.mark.parametrize("room", [60, 80, 88])
def test_rows_of_metrics_fit_the_terminal(room):
    """Ultralytics' table takes 88 cells; in a narrower terminal the heading and every number stay whole."""
    heading = f"{'Class':>22}" + "".join(
        f"{w:>11}" for w in ("Images", "Instances", "Box(P", "R", "mAP50", "mAP50-95)")
    )
    rows = [
        ("%22s" + "%11i" * 2 + "%11.3g" * 4) % (name, 5000, 36335, 0.694, 1, 0.000123, math.nan)
        for name in ("all", "a class of a long name")
    ]
    fitted = [narrow_row(line, room) for line in (heading, *rows)]
    assert max(map(len, fitted)) <= room
    if room == 88:
        assert fitted == [heading, *rows]
        return
    assert fitted[0].split() == ["Class", "Images", "Boxes", "P", "R", "mAP50", "mAP50-95"]
    assert fitted[1].split() == ["all", "5000", "36335", "0.694", "1.000", "0.000", "nan"]
    assert fitted[2].lstrip().startswith("a class of")
    assert narrow_row("Starting training for 3 epochs of a very long sentence " * 2, room).startswith("Starting")


def test_the_heading_is_told_where_the_progress_bar_cuts_it_off(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for room, told in ((80, True), (120, True), (140, False)):
        monkeypatch.setenv("COLUMNS", str(room))
        assert ("mAP50-95" in heading_of_metrics()) is told
    monkeypatch.undo()
    assert heading_of_metrics() == ""
