"""Run folders read back, whatever state they are in."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from kdyolo.errors import RunError
from kdyolo.runs.files import MAP50
from kdyolo.runs.history import read_run
from tests.builders.run_folders import write_run

HEADER = "epoch,time,metrics/mAP50(B),metrics/mAP50-95(B)\n"


def results(folder: Path, text: str) -> Path:
    (folder / "results.csv").write_text(text)
    return folder


def timed(folder: Path, times: list[float], epochs: list[int] | None = None) -> Path:
    numbers = epochs or range(1, len(times) + 1)
    return results(folder, HEADER + "".join(f"{e},{t},0.2,0.1\n" for e, t in zip(numbers, times, strict=True)))


def test_a_run_as_it_was(tmp_path):
    run = read_run(write_run(tmp_path / "run", [0.1, 0.3, 0.2], freeze=1, ap=0.25, per_class={"cat": 0.25}))
    assert run.epochs == [1, 2, 3]
    assert run.best_epoch() == 2
    assert run.value() == 0.3
    assert run.value(MAP50) == pytest.approx(0.45)
    assert run.value(at="last") == 0.2
    assert run.seconds == [10, 10, 10]
    assert [run.phase(epoch) for epoch in run.epochs] == ["backbone frozen", "all train", "all train"]
    assert run.scores["per_class"][0]["name"] == "cat"
    assert run.finished
    assert run.trained
    assert not run.notes
    assert all(math.isnan(value) for value in run.column("lr/none"))


def test_a_checkpoint_stands_for_its_run(tmp_path):
    folder = write_run(tmp_path / "run")
    assert read_run(folder / "weights" / "best.pt").path == folder


def test_a_run_that_training_left(train, tmp_path):
    train({"model": "kdyolov8n.yaml"}, freeze_epochs=1)
    run = read_run(tmp_path / "run")
    assert run.epochs == [1, 2]
    assert run.finished
    assert run.schedule.unfreezes == {1: ("stem", "p2", "p3", "p4", "p5")}
    assert all(0 < seconds < 300 for seconds in run.seconds)
    assert all(0 < memory < 100 for memory in run.column("memory/GB"))
    assert run.scores["images"] == 4


def test_a_stock_run_freezes_nothing(tmp_path):
    run = read_run(write_run(tmp_path / "run", stock=True))
    assert run.record is None
    assert run.phase(1) == "all train"
    assert run.finished


def test_interrupted_runs_are_not_finished(tmp_path):
    for name, stock in (("kd", False), ("stock", True)):
        run = read_run(write_run(tmp_path / name, [0.1, 0.2], planned=5, stock=stock))
        assert run.epochs == [1, 2]
        assert run.planned_epochs == 5
        assert not run.finished
        assert not run.trained


def test_a_run_that_was_never_evaluated_is_trained_but_not_finished(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "weights" / "resume.pt").touch()  # as long as the final evaluation lasts
    assert read_run(folder).trained
    assert not read_run(folder).finished


@pytest.mark.parametrize(("curve", "ended"), [([0.1, 0.3, 0.2, 0.2], True), ([0.1, 0.3, 0.2], False)])
def test_a_stock_run_ends_by_its_patience(tmp_path, curve, ended):
    folder = write_run(tmp_path / "run", curve, planned=100, stock=True, patience=2)
    (folder / "weights" / "best.pt").touch()
    assert read_run(folder).finished is ended


def test_a_kdyolo_run_ends_when_it_says_so(tmp_path):
    folder = write_run(tmp_path / "run", [0.1, 0.3, 0.2, 0.2], planned=100, patience=2)
    assert not read_run(folder).finished  # patience counts unfrozen epochs only, so it is no sign
    (folder / "weights" / "resume.pt").unlink()
    (folder / "weights" / "best.pt").touch()
    assert read_run(folder).finished


# ---- results.csv ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["3,30,0.3,0.2", "3,30,0.", "3", "3,30,-"])
def test_a_line_cut_off_is_left_out_and_said(tmp_path, end):
    folder = timed(write_run(tmp_path / "run"), [10, 20])
    with (folder / "results.csv").open("a") as file:
        file.write(end)
    run = read_run(folder)
    assert run.epochs == [1, 2]
    assert "cut off" in run.notes[0]


@pytest.mark.parametrize("text", ["", "epoch,ti", HEADER])
def test_nothing_in_it_yet(tmp_path, text):
    run = read_run(results(write_run(tmp_path / "run"), text))
    assert run.epochs == []
    assert run.best_epoch() is None
    assert math.isnan(run.value())


def test_no_results_at_all(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "results.csv").unlink()
    assert read_run(folder).epochs == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3,30,0.1,abc", ["line 4", "numbers", "abc", "remove that line"]),
        ("3,30,0.14,2,0.2,0.1", ["line 4", "expected 4 values, found 6", "remove that line"]),  # a resume after a cut
        ("3,30,0.2", ["line 4", "expected 4 values, found 3"]),
        ("nan,30,0.2,0.1", ["line 4", "number of an epoch", "nan"]),
        ("2.5,30,0.2,0.1", ["line 4", "number of an epoch", "2.5"]),
        ("1,30,0.2,0.1", ["line 4", "epoch 1 again", "two"]),
    ],
)
def test_damage_is_named_by_line(tmp_path, line, words):
    folder = timed(write_run(tmp_path / "run"), [10, 20])
    with (folder / "results.csv").open("a") as file:
        file.write(line + "\n4,40,0.2,0.1\n")
    with pytest.raises(RunError) as error:
        read_run(folder)
    assert all(word in str(error.value) for word in ["results.csv", *words]), error.value


def test_epochs_done_again_count_as_done_last(tmp_path):
    text = HEADER + "1,10,0.1,0.1\n2,20,0.2,0.2\n3,30,0.3,0.9\n3,11,0.3,0.3\n4,21,0.3,0.4\n"
    run = read_run(results(write_run(tmp_path / "run"), text))
    assert run.epochs == [1, 2, 3, 4]
    assert run.column("metrics/mAP50-95(B)") == [0.1, 0.2, 0.3, 0.4]
    assert run.seconds == [10, 10, 11, 10]
    assert "done again" in run.notes[0]


def test_old_tables_with_padded_names_and_blank_lines(tmp_path):
    text = "   epoch,   time,   metrics/mAP50-95(B)\n   1,   10,   0.1\n\n   2,   20,   \n"
    run = read_run(results(write_run(tmp_path / "run"), text))
    assert run.epochs == [1, 2]
    assert run.column("metrics/mAP50-95(B)")[0] == 0.1
    assert run.best_epoch() == 1


# ---- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ([10, 20, 30, 12, 22], [10, 10, 10, 12, 10]),  # resumed after three epochs
        ([10, 12, 22, 32], [10, 12, 10, 10]),  # resumed after one: time goes on rising
        ([10, 20, 11, 10, 21], [10, 10, 11, 10, 11]),  # twice
        ([4, 8, 12, 22, 32, 42, 52], [4, 4, 4, 10, 10, 10, 10]),  # a thaw is no resume
        ([30, 40, 50, 60], [30, 10, 10, 10]),  # a first epoch that warms up is none either
        ([90, 100, 110, 120], [90, 10, 10, 10]),
        ([10, 20, 3620, 3630], [10, 10, 3600, 10]),  # the machine slept: so long it took
    ],
)
def test_durations_from_the_time_of_each_process(tmp_path, times, seconds):
    run = read_run(timed(write_run(tmp_path / "run"), times))
    assert run.seconds == pytest.approx(seconds)
    assert not run.notes


def test_a_clock_that_goes_back_costs_that_duration_only(tmp_path):
    run = read_run(timed(write_run(tmp_path / "run"), [100, 200, 300, 400, -3100, -3000, -2900]))
    assert math.isnan(run.seconds[4])
    assert [*run.seconds[:4], *run.seconds[5:]] == [100] * 6
    assert run.notes == ("epoch 5: the clock went back, its duration is unknown",)


def test_a_clock_set_back_in_a_long_run_is_no_resume(tmp_path):
    times = [10.0 * epoch for epoch in range(1, 101)] + [10.0 * epoch - 400 for epoch in range(101, 111)]
    run = read_run(timed(write_run(tmp_path / "run"), times))
    assert math.isnan(run.seconds[100])
    assert run.seconds.count(10) == 109


def test_missing_epochs_have_no_duration(tmp_path):
    run = read_run(timed(write_run(tmp_path / "run"), [10, 20, 50, 60], epochs=[1, 2, 5, 6]))
    assert math.isnan(run.seconds[2])
    assert run.seconds[3] == 10


def test_no_column_of_time(tmp_path):
    run = read_run(results(write_run(tmp_path / "run"), "epoch,metrics/mAP50-95(B)\n1,0.1\n2,0.2\n"))
    assert [math.isnan(seconds) for seconds in run.seconds] == [True, True]


# ---- the other files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("args.yaml", "a: [1\n", ["args.yaml", "damaged"]),
        ("args.yaml", "", ["args.yaml", "damaged", "NoneType"]),
        ("args.yaml", "- 1\n", ["args.yaml", "damaged", "list"]),
        ("args.yaml", "epochs: many\n", ["args.yaml", "damaged", "epochs"]),
        ("kdyolo.yaml", "just text\n", ["kdyolo.yaml", "damaged"]),
        ("kdyolo.yaml", "schedule: 3\n", ["kdyolo.yaml", "damaged", "schedule"]),
        ("coco_metrics.json", '{"AP": 0.', ["coco_metrics.json", "damaged", "kdyolo val"]),
        ("coco_metrics.json", "[]", ["coco_metrics.json", "damaged", "object"]),
        ("coco_metrics.json", '{"AP": 0.1, "per_class": [{"ap": 1}]}', ["coco_metrics.json", "damaged", "per_class"]),
        ("results.csv", "a,b\n1,2\n", ["results.csv", "'epoch'", "a, b"]),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, words):
    folder = write_run(tmp_path / "run")
    (folder / name).write_text(content)
    with pytest.raises(RunError) as error:
        read_run(folder)
    assert all(word in str(error.value) for word in words), error.value


def test_a_schedule_of_another_version_is_named(tmp_path):
    folder = write_run(tmp_path / "run")
    record = yaml.safe_load((folder / "kdyolo.yaml").read_text())
    record["schedule"]["melt"] = 3
    (folder / "kdyolo.yaml").write_text(yaml.safe_dump(record))
    run = read_run(folder)
    with pytest.raises(RunError, match=r"kdyolo\.yaml: its schedule .*melt"):
        run.phase(1)


def test_what_is_no_run(tmp_path):
    with pytest.raises(RunError, match="no such run folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"args\.yaml"):
        read_run(tmp_path)
