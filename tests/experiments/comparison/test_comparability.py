"""What is compared only on request, since it is not like for like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.builders.studies import compare_to_first, refusal


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"imgsz": 64}, {"imgsz": 96}, ["imgsz differs: 64 (a); 96 (b)"]),
        ({"curve": [0.1] * 4}, {"curve": [0.1] * 5}, ["epochs differs: 4 (a); 5 (b)"]),
        ({"settings": {"resize": "stretch"}}, {}, ["resize differs: stretch (a); letterbox (b)"]),
        ({"settings": {"resize": "stretch"}}, {"stock": True}, ["resize differs: stretch (a); letterbox (b)"]),
        ({"data": "coco8.yaml"}, {"data": "coco128.yaml"}, ["the data set differs: coco8.yaml (a); coco128.yaml (b)"]),
        ({"single_cls": True}, {}, ["single_cls differs: True (a); False (b)"]),
        ({"split": "test"}, {}, ["split differs: test (a); val (b)"]),
        ({"fraction": 0.5}, {"fraction": 1}, ["fraction differs: 0.5 (a); 1 (b)"]),
        ({"imgsz": 32, "iou": 0.5}, {"imgsz": 64, "iou": 0.7}, ["imgsz differs", "iou differs: 0.5 (a); 0.7 (b)"]),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_like_for_like_is_refused_unless_asked_for(pair, first, second, words):
    runs = pair(first, second)
    error = refusal(*runs)
    assert all(word in error for word in [*words, "--anyway", "not like for like"]), error
    comparison = compare_to_first(*runs, anyway=True)
    assert len(comparison.unlike) == len(words)
    for shown in (comparison.table(), comparison.to_markdown()):
        assert "LIKE FOR LIKE" in shown.upper()
    assert comparison.to_dict()["unlike"] == list(comparison.unlike)


def test_what_may_differ_is_not_refused(pair):
    comparison = compare_to_first(
        *pair({"batch": 8, "device": "0", "fraction": 1}, {"batch": 16, "workers": 2, "fraction": 1.0})
    )
    assert comparison.unlike == ()
    assert {"batch", "device", "workers", "lr0"} == set(comparison.differing)


def record_batch(run: Path, *used: int, in_record: int | None = None) -> None:
    """Have a run record its batch: in results.csv a value for each epoch, in kdyolo.yaml another if given."""
    header, *rows = (run / "results.csv").read_text().splitlines()
    if used:
        rows = [f"{row},{images}" for row, images in zip(rows, used, strict=True)]
        (run / "results.csv").write_text("\n".join([f"{header},batch/images", *rows]) + "\n")
    if in_record:
        record = yaml.safe_load((run / "kdyolo.yaml").read_text())
        (run / "kdyolo.yaml").write_text(yaml.safe_dump({**record, "batch": in_record}))


def test_batches_that_were_really_used_must_be_equal(pair):
    a, b = pair({"curve": [0.1] * 3, "lr0": 0.1}, {"curve": [0.1] * 3})
    record_batch(a, 16, 16, 16, in_record=16)
    record_batch(b, 16, 8, 8, in_record=16)
    assert "batch differs: 16 (a); 16 then 8 (b)" in refusal(a, b)
    assert any("batch differs" in sentence for sentence in compare_to_first(a, b, anyway=True).unlike)


def test_a_batch_that_autobatch_took_is_the_number_and_not_what_asked_for_it(pair):
    a, b = pair({"batch": -1, "lr0": 0.1}, {"batch": 16})
    record_batch(a, in_record=16)
    record_batch(b, in_record=16)
    comparison = compare_to_first(a, b)
    assert comparison.unlike == ()
    assert "batch" not in comparison.differing
    assert [facts["batch"] for facts in comparison.provenance] == ["16", "16"]


def test_runs_of_older_versions_which_do_not_record_their_batch_are_compared(pair):
    a, b = pair({"batch": 8}, {"batch": 16})
    record_batch(b, in_record=16)
    assert compare_to_first(a, b).unlike == ()


def test_settings_that_differ_within_an_arm_of_a_study_are_refused(study):
    args = yaml.safe_load((study / "frozen" / "seed1" / "args.yaml").read_text())
    (study / "frozen" / "seed1" / "args.yaml").write_text(yaml.safe_dump({**args, "lr0": 0.5}))
    error = refusal(study)
    assert "within the arm 'frozen', lr0 differs: 0.01 (frozen/seed0, frozen/seed2); 0.5 (frozen/seed1)" in error


def test_a_seed_twice_is_no_other_seed(pair):
    error = refusal(*pair({"lr0": 0.01}, {"lr0": 0.01}))
    assert "seed 0 occurs twice (a, b)" in error


def dataset(folder: Path, names: Sequence[str] = ("cat", "dog"), annotations: str | None = None) -> Path:
    folder.mkdir()
    content = {"path": str(folder), "train": "train.txt", "val": "val.txt", "names": dict(enumerate(names))}
    if annotations is not None:
        content["annotations"] = {"train": "ann.json", "val": "ann.json"}
        (folder / "ann.json").write_text(annotations)
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def test_data_are_told_by_what_is_in_them(tmp_path, pair):
    one, copy = dataset(tmp_path / "one", annotations="{}"), dataset(tmp_path / "copy", annotations="{}")
    (one.parent / "again.yaml").write_text(one.read_text())
    runs = pair({"data": str(one)}, {"data": str(copy)})
    assert compare_to_first(*runs).unlike == ()  # at another place, the same annotations
    args = yaml.safe_load((runs[1] / "args.yaml").read_text())

    def with_data(path: Path) -> tuple[Path, Path]:
        (runs[1] / "args.yaml").write_text(yaml.safe_dump({**args, "data": str(path)}))
        return runs

    assert compare_to_first(*with_data(one.parent / "again.yaml")).unlike == ()  # another name, the same place
    for name, change in (("names", {"names": ["cat", "cow"]}), ("boxes", {"annotations": '{"a": 1}'}), ("bare", {})):
        other = dataset(tmp_path / name, **{"annotations": "{}" if name == "names" else None, **change})
        assert "the data set differs" in refusal(*with_data(other))


def test_a_data_set_named_from_where_the_run_was_started(tmp_path, pair, monkeypatch):
    data = dataset(tmp_path / "data")
    write = {"path": "elsewhere", "names": ["cat"], "train": "images", "val": "images"}  # in Ultralytics' own folder
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "d.yaml").write_text(yaml.safe_dump(write))
    runs = pair({"data": "data/data.yaml"}, {"data": str(data)})
    monkeypatch.chdir("/")
    assert compare_to_first(*runs).unlike == ()
    for run, name in zip(runs, ("one", "two"), strict=True):
        args = yaml.safe_load((run / "args.yaml").read_text())
        (run / "args.yaml").write_text(yaml.safe_dump({**args, "data": str(tmp_path / name / "d.yaml")}))
    assert compare_to_first(*runs).unlike == ()


def test_official_metrics_of_other_images_are_noticed(pair):
    runs = pair(ap=0.3, per_class={"cat": 0.3})
    scores = json.loads((runs[1] / "coco_metrics.json").read_text())
    (runs[1] / "coco_metrics.json").write_text(json.dumps({**scores, "images": 5}))
    assert "4 images with 10 objects (a); 5 images with 10 objects (b)" in refusal(*runs)
