"""``kdyolo score``: tables, JSON, comparisons, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdyolo import compare_coco, score_coco
from kdyolo.cli import base, main
from kdyolo.metrics.coco_files import read_ground_truth
from kdyolo.metrics.names import EVALUATORS, NAMES
from tests.builders.coco_results import random_detections, random_ground_truth, write_json
from tests.cli.test_cli import fails


@pytest.fixture
def files(tmp_path):
    truth = random_ground_truth()
    predictions = [write_json(tmp_path / f"{n}.json", random_detections(truth, n, 0.2 - 0.1 * n)) for n in (0, 1)]
    return [str(f) for f in (*predictions, write_json(tmp_path / "ann.json", truth))]


def printed(capsys, *arguments: str) -> str:
    capsys.readouterr()
    main(["score", *arguments])
    return capsys.readouterr().out


def test_the_evaluators_offered_are_those_there_are():
    assert base.EVALUATORS == EVALUATORS


def test_one_file(capsys, files):
    expected = score_coco(files[0], files[2])
    assert printed(capsys, files[0], files[2]) == expected.table() + "\n"
    assert printed(capsys, files[0], files[2], "--per-class") == expected.table(per_class=True) + "\n"
    assert json.loads(printed(capsys, files[0], files[2], "--json")) == expected.to_dict()
    reference = json.loads(printed(capsys, files[0], files[2], "--json", "--evaluator", "pycocotools"))
    assert reference["evaluator"].startswith("pycocotools ")
    assert [reference[n] for n in NAMES] == pytest.approx(expected.metrics, abs=1e-9)


def test_intervals_on_request(capsys, files):
    options = ("--ci", "--resamples", "50", "--seed", "3")
    found = json.loads(printed(capsys, files[0], files[2], *options, "--json"))
    low, high = found["interval"]["AP"]
    assert low < found["AP"] < high
    assert (found["interval"]["resamples"], found["interval"]["seed"]) == (50, 3)
    lines = printed(capsys, files[0], files[2], *options).splitlines()
    assert lines[1].endswith(f"95% CI {low:.3f} … {high:.3f}")


def test_categories_are_chosen_by_name_or_id(capsys, files):
    ids = list(read_ground_truth(files[2]).categories)[:2]
    expected = score_coco(files[0], files[2], categories=ids)
    options = ("--category", f"class {ids[1]}", "--category", str(ids[0]))
    assert printed(capsys, files[0], files[2], *options) == expected.table() + "\n"
    draws = ("--resamples", "20", "--seed", "1")
    found = json.loads(printed(capsys, files[0], files[2], *options, "--ci", *draws, "--json"))
    low, high = found["interval"]["AP"]
    assert low < expected.ap < high
    both = compare_coco(*files, resamples=20, seed=1, categories=ids)
    assert both.first == expected
    assert printed(capsys, *files, *options, *draws) == both.table((files[0], files[1])) + "\n"


def test_two_files_are_compared(capsys, files):
    expected = compare_coco(*files, resamples=50, seed=1)
    options = ("--resamples", "50", "--seed", "1")
    assert printed(capsys, *files, *options) == expected.table((files[0], files[1])) + "\n"
    assert json.loads(printed(capsys, *files, *options, "--json")) == expected.to_dict()


def test_shifted_categories_are_corrected_told_and_overruled(capsys, files, tmp_path):
    shift = min(read_ground_truth(files[2]).categories) - 7
    shifted = [{**d, "category_id": d["category_id"] - shift} for d in json.loads(Path(files[0]).read_text())]
    other = str(write_json(tmp_path / "shifted.json", shifted))
    expected = score_coco(files[0], files[2])
    option = f"--category-offset={shift}"
    found = json.loads(printed(capsys, other, files[2], option, "--json"))
    assert [found[name] for name in NAMES] == list(expected.metrics)
    assert f"shifted.json: category ids read with --category-offset {shift}: 7 → " in found["notes"][0]
    assert f"note: {found['notes'][0]}\n" in printed(capsys, other, files[2], option)
    both = json.loads(printed(capsys, other, other, files[2], option, "--resamples", "2", "--json"))
    assert both["first"]["notes"] == both["second"]["notes"] == found["notes"]
    for arguments in ((other, files[2]), (other, files[1], files[2])):
        code, error = fails(capsys, "score", *arguments)
        assert code == 1
        assert "--category-offset" in error


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ann"], 2, ["found 1 file."]),
        (["a", "b", "ann", "c"], 2, ["found 4 files."]),
        (["a", "nowhere.json"], 1, ["annotations nowhere.json: no such file"]),
        (["ann", "a"], 1, ["0.json", "expected COCO annotations", "exchanged"]),
        (["a", "b", "ann", "--per-class"], 2, ["--per-class"]),
        (["a", "ann", "--ci", "--resamples", "0"], 2, ["resamples"]),
        (["a", "ann", "--evaluator", "mine"], 2, ["faster-coco-eval"]),
        (["a", "ann", "--category-offset", "x"], 2, ["--category-offset 'x'", "auto"]),
        (["ann", "ann"], 1, ["expected predictions, found COCO annotations", "exchanged"]),
        (["ann", "a", "ann"], 1, ["expected predictions, found COCO annotations", "exchanged"]),
        (["a", "ann", "--category", "cat", "--category", "999"], 2, ["no category 'cat', '999'", "class "]),
    ],
)
def test_mistakes(capsys, files, arguments, code, words):
    names = {"a": files[0], "b": files[1], "ann": files[2], "c": files[0]}
    found, error = fails(capsys, "score", *(names.get(a, a) for a in arguments))
    assert found == code
    assert all(word in error for word in words), error
