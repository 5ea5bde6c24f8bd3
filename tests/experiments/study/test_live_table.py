"""The live table: what it shows of runs that wait, go on, fail and finish; plain lines where there is no terminal."""

from __future__ import annotations

import io
import os
import re

import pytest
from rich.console import Console

from kdyolo.experiments.study.live_table import LiveTable, ProgressReader, RunProgress
from kdyolo.runs.history import read_run
from kdyolo.utils.text import format_duration
from tests.builders.run_folders import write_run


def test_progress_of_a_run_that_thaws(tmp_path):
    run = write_run(tmp_path / "run", (0.1, 0.25), planned=6, freeze=3, seconds=10)
    progress = RunProgress.of(read_run(run))
    assert (progress.epoch, progress.epochs, progress.phase) == (2, 6, "backbone frozen")
    assert progress.map == 0.25
    assert progress.losses
    assert progress.losses["box"] == 2.0
    assert progress.seconds == 10
    assert progress.left == 40
    ended = RunProgress.of(read_run(write_run(tmp_path / "ended", (0.1, 0.2, 0.3))))
    assert (ended.phase, ended.left) == ("all train", 0)
    begun = RunProgress.of(read_run(write_run(tmp_path / "begun", (), planned=4, freeze=2)))
    assert (begun.epoch, begun.epochs, begun.phase) == (0, 4, "backbone frozen")


def test_time_left_takes_each_epoch_to_be_as_long_as_those_of_its_phase(tmp_path):
    run = write_run(tmp_path / "run", (0.1, 0.2, 0.3, 0.4), planned=6, freeze=2)
    lines = (run / "results.csv").read_text().splitlines()
    times = iter((10, 20, 50, 80))  # 10 s frozen, 30 s thawed
    changed = [",".join([line.split(",")[0], str(next(times)), *line.split(",")[2:]]) for line in lines[1:]]
    (run / "results.csv").write_text("\n".join([lines[0], *changed]) + "\n")
    assert RunProgress.of(read_run(run)).left == 60


def test_files_are_read_again_only_when_they_change(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", (0.1,), planned=3)
    reads = []
    monkeypatch.setattr(
        "kdyolo.experiments.study.live_table.read_run", lambda path: reads.append(path) or read_run(path)
    )
    reader = ProgressReader()
    assert reader.look(tmp_path / "nothing") == RunProgress()
    assert [reader.look(run).epoch for _ in range(3)] == [1, 1, 1]
    assert len(reads) == 1
    lines = (run / "results.csv").read_text()
    with (run / "results.csv").open("a") as file:
        file.write("2" + lines.splitlines()[1][1:].replace(",10.0,", ",20.0,") + "\n")
    assert reader.look(run).epoch == 2
    (run / "results.csv").write_text("epoch,time\n1,x\n2,3\n")
    os.utime(run / "results.csv", (1, 1))
    assert reader.look(run).epoch == 2  # half written, perhaps: what was known stands


@pytest.fixture
def folders(tmp_path):
    return {
        "random/seed0": write_run(tmp_path / "a", (0.1, 0.2, 0.3)),
        "frozen/seed0": write_run(tmp_path / "b", (0.1, 0.25), planned=6, freeze=3),
        "frozen/seed1": tmp_path / "c",
    }


STATES = {"random/seed0": "finished", "frozen/seed0": "runs on 5", "frozen/seed1": "waiting"}


def test_a_table_on_a_terminal(folders):
    out = io.StringIO()
    with LiveTable("question", folders, Console(file=out, force_terminal=True, width=140, color_system=None)) as table:
        table.update(STATES)
    rows = [line for line in out.getvalue().splitlines() if "seed" in line]
    assert len(rows) % 3 == 0
    assert all(text in rows[0] for text in ("random/seed0", "finished", "3/3", "0.300"))
    assert all(text in rows[1] for text in ("runs on 5", "backbone frozen", "2/6", "0.250", "10 s/epoch", "40 s"))
    assert "waiting" in rows[2]
    for heading in ("run", "state", "phase", "epoch", "mAP50-95", "speed", "time left"):
        assert heading in out.getvalue()


@pytest.mark.parametrize(
    ("width", "dropped"), [(140, ()), (80, ("box cls dfl",)), (60, ("box cls dfl", "speed", "phase"))]
)
def test_a_narrow_terminal_shows_whole_what_counts(folders, width, dropped):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    with LiveTable("question", folders, console) as table:
        table.update(STATES)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    heading = next(line for line in lines if "state" in line)
    for name in ("run", "state", "phase", "epoch", "box cls dfl", "mAP50-95", "speed", "time left"):
        assert (name in heading) is (name not in dropped), name
    row = next(line for line in lines if "runs on 5" in line)
    assert all(text in row for text in ("frozen/seed0", "2/6", "0.250", "40 s"))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_short_names_leave_room_for_the_rest(folders, width):
    out = io.StringIO()
    named = {name.replace("frozen", "f"): folder for name, folder in folders.items()}
    with LiveTable("question", named, Console(file=out, force_terminal=True, width=width, color_system=None)) as table:
        table.update({name.replace("frozen", "f"): state for name, state in STATES.items()})
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    assert next(line for line in lines if "state" in line).endswith("  time left")
    assert next(line for line in lines if "runs on 5" in line).endswith("  40 s")


def test_plain_lines_elsewhere_and_only_news(folders):
    out = io.StringIO()
    with LiveTable("question", folders, Console(file=out, width=40)) as table:
        for _ in range(3):
            table.update(STATES)
        table.update({**STATES, "frozen/seed0": "failed"})
    lines = out.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == ["random/seed0", "frozen/seed0", "frozen/seed0"]
    assert "runs on 5 · backbone frozen · epoch 2/6 · box 2 · mAP50-95 0.250 · 10 s/epoch · 40 s left" in lines[1]
    assert "failed" in lines[2]
    assert "\x1b" not in out.getvalue()


@pytest.mark.parametrize(("seconds", "words"), [(0.42, "0.42 s"), (12.3, "12 s"), (600, "10.0 min"), (9000, "2.5 h")])
def test_durations(seconds, words):
    assert format_duration(seconds) == words
