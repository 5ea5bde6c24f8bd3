"""The progress line: rate and time left, and only where a person waits."""

import sys

import pytest

from kdyolo.utils.progress import Progress, notice


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
