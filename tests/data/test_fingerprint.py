"""Fingerprints of data sets: what counts as the same data, and what does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from kdyolo.data.fingerprint import content_fingerprint, place_fingerprint
from kdyolo.errors import RunError


def dataset(
    folder: Path, names: Sequence[str] = ("cat", "dog"), annotations: str | None = None, lists: str | None = None
) -> Path:
    """A dataset YAML, with the COCO annotation files and the image lists that are given."""
    folder.mkdir()
    content = {"path": str(folder), "train": "train.txt", "val": "val.txt", "names": dict(enumerate(names))}
    if annotations is not None:
        content["annotations"] = {"train": "ann.json", "val": "ann.json"}
        (folder / "ann.json").write_text(annotations)
    for split in ("train", "val") if lists is not None else ():
        (folder / f"{split}.txt").write_text(lists)
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


def test_the_same_place_under_another_name(tmp_path):
    data = dataset(tmp_path / "one")
    again = data.with_name("again.yaml")
    again.write_text(data.read_text())
    assert place_fingerprint(data) == place_fingerprint(again)
    assert place_fingerprint(data) != place_fingerprint(dataset(tmp_path / "two"))


def test_a_copy_is_the_same_by_annotations_or_image_lists(tmp_path):
    one, copy = (dataset(tmp_path / name, annotations="{}") for name in ("one", "copy"))
    assert content_fingerprint(one) == content_fingerprint(copy) is not None
    listed, copied = (dataset(tmp_path / name, lists="images/0.jpg\n") for name in ("listed", "copied"))
    assert content_fingerprint(listed) == content_fingerprint(copied) is not None
    assert content_fingerprint(listed) != content_fingerprint(one)


@pytest.mark.parametrize("change", [{"names": ["cat", "cow"]}, {"annotations": '{"a": 1}'}])
def test_other_classes_or_boxes_are_other_data(tmp_path, change):
    one, other = dataset(tmp_path / "one", annotations="{}"), dataset(tmp_path / "b", **{"annotations": "{}", **change})
    assert content_fingerprint(one) != content_fingerprint(other)


def test_no_fingerprint_by_content_without_files(tmp_path):
    assert content_fingerprint(dataset(tmp_path / "bare")) is None


def test_a_file_that_has_changed_is_read_again(tmp_path):
    data = dataset(tmp_path / "one", annotations="{}")
    before = content_fingerprint(data)
    (data.parent / "ann.json").write_text('{"images": []}')
    assert content_fingerprint(data) != before


def test_a_damaged_yaml_is_named(tmp_path):
    (tmp_path / "d.yaml").write_text("names: [")
    with pytest.raises(RunError, match=r"d\.yaml: damaged"):
        place_fingerprint(tmp_path / "d.yaml")
