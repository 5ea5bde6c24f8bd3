"""Shares of the labels: nested, drawn by the seed, the same for all arms, and taken for what they are a share of."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kdyolo import Study
from kdyolo.data.dataset_yaml import load_dataset
from kdyolo.data.fingerprint import content_fingerprint, place_fingerprint
from kdyolo.data.image_names import image_files, label_file
from kdyolo.data.training_subset import LabelSubset, draw
from kdyolo.engine.start.plan import check_data
from kdyolo.errors import ConfigError


@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0, 1), st.integers(0, 9))
def test_a_larger_share_holds_a_smaller_one(count: int, first: float, second: float, seed: int) -> None:
    small, large = (draw(count, share, seed) for share in sorted((first, second)))
    assert set(small) <= set(large) <= set(range(count))
    assert len(small) == round(min(first, second) * count)


def test_another_seed_draws_other_images() -> None:
    assert draw(1000, 0.1, 0) != draw(1000, 0.1, 1)


def test_a_subset_is_a_data_set_of_links(shapes: Path, tmp_path: Path) -> None:
    subset = LabelSubset(shapes, 0.5, 3, tmp_path / "half")
    subset.write()
    whole, half = load_dataset(shapes), load_dataset(subset.yaml)
    folder, names = image_files(half.places("train"))
    of_whole, all_names = image_files(whole.places("train"))
    assert len(names) == 4
    assert set(names) < set(all_names)
    for name in names:
        original, linked = label_file(of_whole / name), label_file(folder / name)
        assert linked.is_file() is original.is_file()
        assert not linked.is_file() or linked.read_text() == original.read_text()
    assert half.places("val") == whole.places("val")
    assert half.annotations("val") == whole.annotations("val")
    assert half.annotations("train") is None
    assert half.class_names == whole.class_names
    assert check_data(str(subset.yaml))["nc"] == 3
    before = subset.yaml.stat().st_mtime_ns
    subset.write()
    assert subset.yaml.stat().st_mtime_ns == before


def test_of_one_share_all_seeds_are_the_same_data_and_no_share_is_another(shapes: Path, tmp_path: Path) -> None:
    files = []
    for share, seed in ((0.5, 0), (0.5, 1), (0.25, 0)):
        subset = LabelSubset(shapes, share, seed, tmp_path / f"{share}-{seed}")
        subset.write()
        files.append(subset.yaml)
    for fingerprint in (place_fingerprint, content_fingerprint):
        first, second, fewer = map(fingerprint, files)
        assert first == second
        assert len({first, fewer, fingerprint(shapes)}) == 3


def test_a_yaml_that_is_a_share_of_itself_is_read_as_it_stands(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a"), ("c", "c")):
        content = {
            "names": ["x"],
            "train": name,
            "kdyolo_subset": {"of": str(tmp_path / f"{other}.yaml"), "share": 0.5},
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    assert len({place_fingerprint(tmp_path / f"{name}.yaml") for name in "abc"}) == 3


def test_every_arm_is_trained_with_every_share(shapes: Path) -> None:
    content = {
        "data": str(shapes),
        "base": {"epochs": 4, "imgsz": 64, "batch": 4, "model": "kdyolov8n.yaml"},
        "arms": {"a": {}, "b": {"lr0": 0.1}},
        "seeds": [0, 1],
        "devices": ["cpu"],
        "labels": [1.0, 0.25, 0.5],
    }
    Path("study.yaml").write_text(yaml.safe_dump(content))
    study = Study.from_file("study.yaml")
    assert [run.name for run in study.runs[:6]] == [f"{arm}@{share}/seed0" for share in ("25%", "50%", "100%")
                                                    for arm in "ab"]  # fmt: skip
    assert study.runs[0].data == study.runs[1].data != study.runs[6].data
    assert study.runs[4].data == str(shapes)
    assert study.plan()["labels"].tolist() == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0] * 2
    estimate = {"a": [1.0] * 4, "b": [1.0] * 4}
    assert study.time_left(estimate) == pytest.approx(2 * 2 * 4 * 1.75)
    assert not Path("studies").exists()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0.0, 1.0], "labels: expected shares of the training images above 0"),
        (["1%"], "labels: expected shares"),
        ([0.5, 0.5], "labels: a share is given twice"),
        ([0.1, 1.0], "labels: 10% of 8 training images are 1. Expected 2 or more."),
        ([0.5, 0.51], "labels: of 8 training images, some shares have the same number"),
    ],
)
def test_shares_that_are_none(shapes: Path, labels: list[object], says: str) -> None:
    content = {"data": str(shapes), "base": {"imgsz": 64, "batch": 4}, "arms": {"a": {}}, "devices": ["cpu"]}
    Path("study.yaml").write_text(yaml.safe_dump({**content, "labels": labels}))
    with pytest.raises(ConfigError) as error:
        Study.from_file("study.yaml")
    assert says in str(error.value)
