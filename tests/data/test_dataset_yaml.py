"""The one reader of dataset YAMLs: what it refuses, what it overlooks, and which annotations a split has."""

from __future__ import annotations

import os
import socket
import zipfile
from pathlib import Path
from typing import Any

import pytest
import ultralytics.data.utils
import ultralytics.engine.exporter
import ultralytics.engine.trainer
import ultralytics.engine.validator
import ultralytics.utils.downloads
import yaml
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER

from kdyolo.data.dataset_yaml import (
    check_for_ultralytics,
    find_annotations,
    from_ultralytics,
    load_dataset,
    look_at_dataset,
)
from kdyolo.engine.options.validation import split_options
from kdyolo.engine.validator import KDValidator
from kdyolo.errors import ConfigError, DatasetError
from kdyolo.utils.ultralytics_patches import data_sets_read_by


def write(path: Path, /, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def converted(tmp_path) -> Path:
    """A YAML as kdyolo convert writes it, beside its annotation files."""
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"annotations/{split}.json").touch()
    return write(
        tmp_path / "data.yaml",
        path=str(tmp_path),
        train="train.txt",
        val=["val.txt", "more/images"],
        names={0: "cat", 1: "dog"},
        category_ids={0: 17, 1: 3},
        annotations={"train": "annotations/train.json", "val": "annotations/val.json"},
    )


@pytest.mark.parametrize("read", [load_dataset, look_at_dataset])
def test_what_a_converted_data_set_says(converted, tmp_path, read):
    dataset = read(converted)
    assert (dataset.path, dataset.root) == (converted, tmp_path)
    assert dataset.class_names == {0: "cat", 1: "dog"}
    assert dataset.category_ids == dataset.recorded_ids == {0: 17, 1: 3}
    assert dataset.places("train") == [tmp_path / "train.txt"]
    assert dataset.places("val") == [tmp_path / "val.txt", tmp_path / "more/images"]
    assert dataset.places("test") == []
    assert dataset.annotations("val") == tmp_path / "annotations/val.json"
    assert dataset.annotations("test") is None


def test_names_may_be_a_list_and_ids_may_be_absent(tmp_path):
    dataset = load_dataset(write(tmp_path / "data.yaml", names=["a", "b"], val="images"))
    assert dataset.root == tmp_path
    assert dataset.class_names == {0: "a", 1: "b"}
    assert dataset.recorded_ids is None
    assert dataset.category_ids == {0: 1, 1: 2}


def test_a_role_that_repeats_another_is_read_once(tmp_path):
    dataset = load_dataset(write(tmp_path / "data.yaml", names=["a"], train="images", val="images", test="others"))
    assert dataset.roles(None) == {"train": [tmp_path / "images"], "test": [tmp_path / "others"]}
    assert dataset.roles("val") == {"val": [tmp_path / "images"]}
    with pytest.raises(DatasetError, match="expected a key 'x', found train, val, test"):
        dataset.roles("x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected keys such as"),
        ("a: [", "not a YAML file"),
        ("train: images/train", "expected under 'names' a name for each class"),
        ("names: {0: a, 2: b}\ntrain: images/train", "expected under 'names' a name for each class"),
        (f"names: [a, {'b' * 1001}]\ntrain: images/train", "expected names of at most 1000 characters, found 'bbb"),
        ("names: [a]", "expected at least one of the keys train, val, test"),
        ("names: [a]\ntrain: 5", "expected under 'train' a path or a list of paths, found 5"),
        ("names: [a]\npath: /no/where\ntrain: x", "'path' leads nowhere: there is no /no/where"),
        ("names: [a]\ntrain: images/train\ncategory_ids: {0: 1, 1: 2}", "expected a category id of its own"),
        ("names: [a, b]\ntrain: images/train\ncategory_ids: {0: 1, 1: 1}", "expected a category id of its own"),
        *(
            (
                f"names: [a, b]\ntrain: images/train\ncategory_ids: {{0: 1, 1: {odd}}}",
                "expected a category id of its own",
            )
            for odd in ("x", "0x1p", "null", "[1]", "{a: 1}", "1.e400", ".nan", "'\\e]0;'")
        ),
    ],
)
def test_what_cannot_be_worked_with_is_refused(tmp_path, content, message):
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(DatasetError) as caught:
        load_dataset(tmp_path / "data.yaml")
    assert message in str(caught.value)
    if "category_ids" in content:  # training and evaluation take the YAML by another way
        with pytest.raises(DatasetError) as caught:
            check_for_ultralytics(tmp_path / "data.yaml", "train")
        assert message in str(caught.value)


def test_looking_overlooks_what_is_missing_or_malformed(tmp_path):
    content = {"path": "/no/where", "names": {0: "a", 2: "b"}, "category_ids": [1], "train": 5, "annotations": "none"}
    dataset = look_at_dataset(write(tmp_path / "data.yaml", **content, val="val.txt"))
    assert dataset.root == Path("/no/where")
    assert (dataset.class_names, dataset.recorded_ids) == ({}, None)
    assert (dataset.places("train"), dataset.places("val")) == ([], [Path("/no/where/val.txt")])
    assert dataset.annotations("val") is None
    for text in ("a: [", "[1]"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(DatasetError):
            look_at_dataset(tmp_path / "data.yaml")
    with pytest.raises(DatasetError, match="cannot be read"):
        look_at_dataset(tmp_path / "missing.yaml")


def test_classes_without_names_are_called_as_ultralytics_calls_them(tmp_path):
    assert look_at_dataset(write(tmp_path / "data.yaml", nc=2)).class_names == {0: "class_0", 1: "class_1"}


def test_a_relative_folder_may_be_in_ultralytics_own(tmp_path, monkeypatch):
    monkeypatch.setattr("ultralytics.utils.DATASETS_DIR", tmp_path / "datasets")
    path = write(tmp_path / "there/data.yaml", path="d", names=["a"], train="images", val="images")
    (tmp_path / "datasets/d").mkdir(parents=True)
    assert load_dataset(path).root == tmp_path / "datasets/d"
    (tmp_path / "there/d/images").mkdir(parents=True)  # the only one that has the images
    assert load_dataset(path).root == tmp_path / "there/d"
    (tmp_path / "datasets/d/images").mkdir()
    assert load_dataset(path).root == tmp_path / "datasets/d"


@pytest.mark.parametrize("read", [load_dataset, look_at_dataset])
def test_validation_is_val_as_for_ultralytics(tmp_path, read):
    content = {"names": ["a"], "train": "t", "validation": "v"}
    assert read(write(tmp_path / "data.yaml", **content)).images == {"train": ["t"], "val": ["v"]}
    assert read(write(tmp_path / "data.yaml", **content, val="w")).images == {"train": ["t"], "val": ["w"]}


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"names": {"0": "cat", "1": 5}}, ["cat", "5"]),
        ({"names": {1: "dog", "0": "cat"}, "nc": "2"}, ["cat", "dog"]),
        ({"names": ["cat"], "nc": 1.0}, ["cat"]),
        ({"nc": 2}, ["class_0", "class_1"]),
        ({"nc": "2", "names": None}, ["class_0", "class_1"]),
    ],
)
def test_classes_as_ultralytics_names_them(tmp_path, content, names):
    from ultralytics.data.utils import check_det_dataset

    (tmp_path / "images").mkdir()
    path = write(tmp_path / "data.yaml", train="images", val="images", **content)
    assert load_dataset(path).class_names == dict(enumerate(names)) == check_det_dataset(str(path))["names"]


@pytest.mark.parametrize("nc", [1, 3, 1.5, "many"])
def test_names_and_their_number_that_differ_are_refused(tmp_path, nc):
    with pytest.raises(DatasetError, match="as many names as 'nc' says, found 2 names and nc"):
        load_dataset(write(tmp_path / "data.yaml", names=["a", "b"], nc=nc, train="x"))


def test_places_follow_links_and_leave_out_two_points_that_lead_nowhere(tmp_path):
    (tmp_path / "raw/images").mkdir(parents=True)
    (tmp_path / "d/train/images").mkdir(parents=True)
    (tmp_path / "d/images").symlink_to(tmp_path / "raw/images")
    dataset = load_dataset(
        write(tmp_path / "d/data.yaml", names=["a"], train="../train/images", val="images", test="../raw/images")
    )
    assert dataset.places("train") == [tmp_path / "d/train/images"]
    assert dataset.places("val") == dataset.places("test") == [tmp_path / "raw/images"]


def test_a_relative_folder_starts_where_training_does_and_for_looking_beside_the_yaml(tmp_path, monkeypatch):
    path = write(tmp_path / "there/data.yaml", path="d", names=["a"], train="x")
    here, beside = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(DatasetError, match=f"there is no {here / 'd'}"):
        load_dataset(path)
    assert look_at_dataset(path).root == here / "d"
    (beside / "d").mkdir()
    assert load_dataset(path).root == look_at_dataset(path).root == beside / "d"
    (here / "d").mkdir()  # Ultralytics takes this one
    assert load_dataset(path).root == here / "d"
    assert look_at_dataset(path).root == beside / "d"


def test_ids_hold_in_the_file_that_the_split_was_converted_from(converted, tmp_path):
    dataset, own = load_dataset(converted), tmp_path / "annotations/val.json"
    (tmp_path / "link.json").symlink_to(own)
    assert dataset.ids_in(own, "val") == [17, 3]
    assert dataset.ids_in(Path(os.path.relpath(own)), "val") == [17, 3]
    assert dataset.ids_in(tmp_path / "link.json", "val") == [17, 3]
    assert dataset.ids_in(own, "train") is None
    assert dataset.ids_in(own, "test") is None
    plain = load_dataset(write(tmp_path / "plain.yaml", names=["a"], val="x", annotations={"val": str(own)}))
    assert plain.ids_in(own, "val") is None  # a hand-made YAML names the file, and no ids


def test_the_recorded_file(tmp_path):
    data: dict[str, Any] = {"path": tmp_path, "annotations": {"val": "annotations/any.json"}, "val": "x/val.txt"}
    with pytest.raises(DatasetError, match="names this annotation file"):
        find_annotations(from_ultralytics(data), "val")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/any.json").touch()
    assert find_annotations(from_ultralytics(data), "val") == tmp_path / "annotations/any.json"
    assert find_annotations(from_ultralytics(data), "test") is None


def test_coco_as_ultralytics_downloads_it(tmp_path):
    data = {"path": tmp_path, "val": f"{tmp_path}/coco/val2017.txt"}
    assert find_annotations(from_ultralytics(data), "val") is None
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").touch()
    assert find_annotations(from_ultralytics(data), "val") == tmp_path / "annotations/instances_val2017.json"
    assert find_annotations(from_ultralytics({**data, "val": f"{tmp_path}/val.txt"}), "val") is None
    assert find_annotations(from_ultralytics({**data, "val": [data["val"], "more"]}), "val") is None


@pytest.mark.parametrize(("said", "taken"), [(4, 3), ("x", 3), (None, 1)])
def test_images_of_other_channels_than_the_model_takes(tmp_path, said, taken):
    (tmp_path / "a").mkdir()
    path = write(tmp_path / "data.yaml", train="a", val="a", names=["x"], **({"channels": said} if said else {}))
    with pytest.raises(DatasetError, match=rf"'channels: {said or 3}'\. Expected 'channels: {taken}' in its YAML"):
        check_for_ultralytics(path, "val", channels=taken)
    assert check_for_ultralytics(path, "val")["channels"] == (said or 3)


# ---- what would fetch a data set -------------------------------------------------------------------------------------

SCRIPTS = {
    "python": "from pathlib import Path\nPath('RAN').touch()",
    "shell": "bash -c :>RAN",
    "address": "https://example.invalid/data.zip",
}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """An empty current folder, without any network."""

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError(f"fetches {arguments}")

    for module in (ultralytics.data.utils, ultralytics.utils.downloads):
        monkeypatch.setattr(module, "safe_download", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_is_shown_and_never_run(elsewhere, kind):
    path = write(elsewhere / "data.yaml", path="nowhere", train="a", val="b", names=["x"], download=SCRIPTS[kind])
    with pytest.raises(DatasetError, match=r"images not found.*not run unless you say so") as caught:
        check_for_ultralytics(path, "val")
    assert all(line in str(caught.value) for line in SCRIPTS[kind].splitlines())
    assert "--run-download" in str(caught.value)
    assert [path.name for path in elsewhere.iterdir()] == ["data.yaml"]


def test_a_long_script_is_cut_and_what_a_terminal_would_obey_is_escaped(elsewhere):
    script = "\n".join(["print('\x1b[2J\x9b')", "y" * 5000, *(f"line {i}" for i in range(10_000))])
    path = write(elsewhere / "data.yaml", path="nowhere", train="a", val="b", names=["x"], download=script)
    with pytest.raises(DatasetError, match="and 9,962 lines more") as caught:
        check_for_ultralytics(path, "val")
    assert len(str(caught.value)) < 5000
    assert r"\x1b[2J\x9b" in str(caught.value)
    assert not {"\x1b", "\x9b"} & set(str(caught.value))


def test_where_the_images_are_a_script_matters_not(elsewhere):
    for split in ("a", "b"):
        (elsewhere / split).mkdir()
    path = write(elsewhere / "data.yaml", train="a", val="b", names=["x"], download=SCRIPTS["python"])
    for run_download in (False, True):
        found = check_for_ultralytics(path, "val", run_download)
        assert (found["val"], found["nc"]) == (str(elsewhere / "b"), 1)
    assert not (elsewhere / "RAN").exists()


def test_a_script_runs_when_it_is_asked_for_after_it_was_shown(elsewhere, caplog, monkeypatch):
    script = "import os\nos.mkdir('a')\nos.mkdir('b')"
    path = write(elsewhere / "data.yaml", path=str(elsewhere), train="a", val="b", names=["x"], download=script)
    monkeypatch.setattr(LOGGER, "propagate", True)
    found = check_for_ultralytics(path, "val", run_download=True)
    assert found["val"] == str(elsewhere / "b")
    assert "as asked:\n    import os\n    os.mkdir('a')" in caplog.text
    bad = write(elsewhere / "bad.yaml", path="nowhere", train="a", val="b", names=["x"], download="raise OSError('no')")
    with pytest.raises(DatasetError, match="its download failed"):
        check_for_ultralytics(bad, "val", run_download=True)


@pytest.mark.parametrize(
    "data",
    ["https://example.invalid/data.yaml", "http://x/d.zip", "ul://user/datasets/x", "gs://bucket/x.yaml", "rtsp://x"],
)
@pytest.mark.parametrize("run_download", [False, True])
def test_an_address_is_refused_before_any_network(elsewhere, data, run_download):
    with pytest.raises(DatasetError, match=r"found an address.*Download the data set"):
        check_for_ultralytics(data, "val", run_download)


@pytest.mark.parametrize("name", ["data.zip", "data.yaml", "data.ndjson"])
def test_an_archive_is_refused_whatever_its_name(elsewhere, name):
    with zipfile.ZipFile(elsewhere / name, "w") as archive:
        archive.writestr("data.yaml", "train: a\nval: b\nnames: [x]")
    with pytest.raises(DatasetError, match="found an archive"):
        check_for_ultralytics(elsewhere / name, "val")
    assert [path.name for path in elsewhere.iterdir()] == [name]


def test_a_shipped_name_says_how_its_images_are_fetched(elsewhere):
    for name in ("coco8", "coco8.yaml"):
        with pytest.raises(DatasetError, match=r"(?s)images not found.*https://.*coco8\.zip.*--run-download"):
            check_for_ultralytics(name, "val")
    with pytest.raises(DatasetError, match="does not exist"):
        check_for_ultralytics("no-such-data", "val")


def test_ultralytics_own_ways_to_a_data_set_are_closed(elsewhere):
    path = write(elsewhere / "data.yaml", path="nowhere", train="a", val="b", names=["x"], download=SCRIPTS["python"])
    validator = KDValidator(args={"data": str(path), "device": "cpu", "save_dir": str(elsewhere / "val")})
    with pytest.raises(DatasetError, match="not run unless"):
        validator(model=DetectionModel("yolov8n.yaml", nc=1, verbose=False))
    with data_sets_read_by(check_for_ultralytics):
        for module in (ultralytics.engine.trainer, ultralytics.engine.validator, ultralytics.engine.exporter):
            with pytest.raises(DatasetError, match="not run unless"):
                module.check_det_dataset(str(path))
        assert ultralytics.engine.trainer.convert_ndjson_to_yolo_if_needed("ul://a/datasets/b") == "ul://a/datasets/b"
    assert ultralytics.engine.trainer.check_det_dataset is ultralytics.data.utils.check_det_dataset
    assert not (elsewhere / "RAN").exists()


@pytest.mark.parametrize("key", ["trust", "run_download"])
def test_no_recipe_can_ask_for_code_to_run(elsewhere, key):
    recipe = write(elsewhere / "recipe.yaml", **{key: True})
    with pytest.raises(ConfigError, match=f"recipe: {key} lets"):
        split_options({"recipe": str(recipe), "weights": "yolov8n.pt"})
