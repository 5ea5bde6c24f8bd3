"""``compare()``: arms of a study, the baseline, notes, options, mistakes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest

from kdyolo import compare, write_report
from kdyolo.experiments.comparison.dataframes import runs_frame
from kdyolo.experiments.comparison.result import ComparisonResult
from kdyolo.experiments.comparison.text_tables import markdown, text
from tests.builders.run_folders import write_run
from tests.builders.studies import compare_to_first, refusal


def test_a_study_as_arms_in_the_order_of_its_file(study):
    comparison = compare(study)
    assert comparison.title == "does-it-help"
    assert [arm.name for arm in comparison.arms] == ["random", "frozen", "low-lr"]
    assert comparison.baseline == "random"
    assert all(arm.seeds == (0, 1, 2) for arm in comparison.arms)
    assert comparison.arms[1].points["mAP50-95"] == (0.31, 0.312, 0.306)


def test_one_arm_has_no_difference(study):
    comparison = compare(study / "random")
    assert [arm.name for arm in comparison.arms] == ["random"]
    assert comparison.baseline is None
    assert comparison.differences == ()
    assert any("only one arm" in note for note in comparison.notes)


BACKBONE = {"settings": {"random_init": False, "backbone": "ckpt.pth"}}


def test_the_arm_that_started_random_is_the_baseline(tmp_path):
    for number, (arm, own) in enumerate({"a": BACKBONE, "none": {}, "z": BACKBONE}.items()):
        write_run(tmp_path / arm, [0.1, 0.2 + 0.01 * number], lr0=0.01 * (1 + number), **own)
    assert compare(tmp_path / "a", tmp_path / "none", tmp_path / "z").baseline == "none"
    assert compare(tmp_path / "a", tmp_path / "none").baseline == "none"
    assert "what is the baseline? No arm started random." in refusal(tmp_path / "z", tmp_path / "a")


def test_of_several_random_ones_it_is_the_one_of_that_name(tmp_path):
    for number, (arm, own) in enumerate({"low": {}, "random": {}, "a": BACKBONE}.items()):
        write_run(tmp_path / arm, [0.1, 0.2 + 0.01 * number], lr0=0.01 * (1 + number), **own)
    assert compare(*(tmp_path / arm for arm in ("low", "a", "random"))).baseline == "random"
    (tmp_path / "low").rename(tmp_path / "low2")
    write_run(tmp_path / "x" / "random", [0.1, 0.3], lr0=0.05, **BACKBONE)
    assert "No arm started random" in refusal(tmp_path / "x" / "random", tmp_path / "a"), "a name alone is not enough"


@pytest.mark.parametrize(("own", "why"), [(BACKBONE, "No arm started random"), ({}, "Several arms started random")])
def test_without_one_that_is_random_the_baseline_is_asked_for(tmp_path, own, why):
    for number, arm in enumerate("abc"):
        write_run(tmp_path / arm, [0.1, 0.2 + 0.01 * number], lr0=0.01 * (1 + number), **own)
    runs = [tmp_path / arm for arm in "abc"]
    error = refusal(*runs)
    assert f"what is the baseline? {why}." in error
    assert "--baseline" in error
    assert error.endswith("one of: a, b, c.")
    assert compare(*runs, baseline="b").baseline == "b"


def test_stock_runs_tell_by_their_arguments_what_they_started_from(tmp_path):
    for number, (arm, model) in enumerate({"coco": "yolov8n.pt", "scratch": "yolov8n.yaml", "x": "yolov8n.pt"}.items()):
        write_run(tmp_path / arm, [0.1, 0.2 + 0.01 * number], stock=True, lr0=0.01 * (1 + number), model=model)
    assert compare(*(tmp_path / arm for arm in ("coco", "scratch", "x")), anyway=True).baseline == "scratch"


def test_the_baseline_by_name_run_or_folder(study):
    for wanted in ("low-lr", study / "low-lr", study / "low-lr" / "seed1", study / "low-lr" / "seed1/weights/best.pt"):
        assert compare(study, baseline=wanted).baseline == "low-lr"
    error = refusal(study, baseline="low-rl")
    assert "Did you mean 'low-lr'" in error
    assert "random, frozen, low-lr" in error


def test_a_line_cut_off_is_noted(pair):
    a, b = pair({"planned": 4}, {"planned": 4})
    with (b / "results.csv").open("a") as file:
        file.write("4,40,0.")
    assert "b: results.csv: its last line is cut off and was left out" in compare_to_first(a, b).notes


def test_options_that_cannot_be(study):
    error = refusal(study, metric="mAP5095", at="end")
    assert "2 mistakes" in error
    assert "'mAP50-95'" in error
    assert "at must be best or last" in error
    assert "official AP" in refusal(study, metric="official AP", at="last")
    assert "found 35" in refusal(study, targets=[0.1, 35])
    assert "nothing to compare" in refusal()


def test_the_method_is_named_and_cited(study):
    comparison = compare(study)
    for name in ("Student 1908", "Welch 1947", "Holm 1979", "Cohen 1988", "SciPy"):
        assert name in comparison.method
        assert name in comparison.to_markdown()


def test_comparing_needs_no_torch(study):
    code = (
        "import sys, kdyolo\n"
        f"comparison = kdyolo.compare({str(study)!r})\n"
        "comparison.table(), comparison.to_markdown(), comparison.to_csv()\n"
        "assert not {'torch', 'ultralytics', 'matplotlib', 'plotly'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_comparison_is_data_that_every_writer_takes(study, tmp_path):
    comparison = compare(study)
    data = ComparisonResult(**{field.name: getattr(comparison, field.name) for field in fields(ComparisonResult)})
    assert not hasattr(data, "table")
    assert text(data) == comparison.table() == str(comparison)
    assert markdown(data) == comparison.to_markdown()
    assert runs_frame(data).equals(comparison.to_frame())
    assert comparison.write_report(tmp_path / "report") == tmp_path / "report" / "report.html"
    assert write_report(data, tmp_path / "same").stat().st_size == (tmp_path / "report/report.html").stat().st_size
