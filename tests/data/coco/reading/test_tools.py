"""Files as people's tools write them: the labels they mean, a regular annotation file, and a note; or a reason."""

import json

import pytest
from pycocotools.coco import COCO

from kdyolo.cli import main
from kdyolo.data.coco_to_yolo import CocoSplit, convert_coco
from kdyolo.errors import DatasetError
from tests.builders.coco import box, image, make_split, photo
from tests.builders.coco_tools import LABELS, TOOLS, regular, write_tool_files


def converted(path, images, out, **options):
    return convert_coco(out=out, sources=[CocoSplit(path, images, "train")], **options)


def labels(out):
    return {path.stem[:1]: path.read_text() for path in (out / "labels").rglob("*.txt")}


@pytest.mark.parametrize("case", TOOLS)
def test_what_has_one_meaning_is_read_so(tmp_path, case):
    change, note = TOOLS[case]
    path, images = write_tool_files(tmp_path, change)
    summary = converted(path, images, tmp_path / "out")
    assert {name.replace("ä", "a"): text for name, text in labels(tmp_path / "out").items()} == LABELS
    assert list(summary.names.values()) == ["cat", "dog"]
    assert note in " | ".join(summary.splits["train"].notes)
    assert bool(note) == bool(summary.splits["train"].notes)
    check_annotations(tmp_path / "out", linked_to=None if note else path)


def check_annotations(out, linked_to):
    """The new annotation file is one that pycocotools reads, with the values that COCO has, or the original."""
    written = out / "annotations/instances_train.json"
    assert written.is_symlink() == bool(linked_to)
    if linked_to:
        assert written.samefile(linked_to)
        return
    document = json.loads(written.read_text(), parse_constant=lambda text: pytest.fail(text))
    truth = COCO(str(written))
    assert {type(i) for i in (*truth.anns, *truth.imgs, *truth.cats)} <= {int, float}
    assert len(truth.anns) == 2
    listed = (out / "train.txt").read_text().splitlines()
    assert sorted(f"./images/train/{record['file_name']}" for record in truth.imgs.values()) == listed
    for record, expected in zip(document["annotations"], regular()["annotations"], strict=True):
        assert record["bbox"] == expected["bbox"]
        assert (record["area"], record["iscrowd"]) == (expected["area"], 0)
        assert truth.cats[record["category_id"]]["name"] == {1: "cat", 2: "dog"}[expected["category_id"]]
    assert [(record["width"], record["height"]) for record in document["images"]] == [(100, 80)] * 2


@pytest.mark.parametrize("case", ["nothing odd", "all ids as texts"])
def test_gzipped_files_are_read_and_written_unpacked(tmp_path, case):
    path, images = write_tool_files(tmp_path, TOOLS[case][0], "ann.json.gz")
    converted(path, images, tmp_path / "out")
    assert labels(tmp_path / "out") == LABELS
    check_annotations(tmp_path / "out", linked_to=None)


def test_the_files_that_failed(shared, tmp_path):
    """Each gives the labels of the regular one, or says why not."""
    folder = shared / "cases/convert"
    expected = None
    for case in ["base", *sorted(path.parent.name for path in folder.glob("*/ann.json"))]:
        source, out = folder / case, tmp_path / case
        if case == "cvat_all_crowd":
            with pytest.raises(DatasetError, match="2 of 2 are crowd regions"):
                converted(source / "ann.json", source / "img", out)
        converted(source / "ann.json", source / "img", out, include_crowd=case == "cvat_all_crowd")
        expected = expected or labels(out)
        assert labels(out) == expected, case
    assert sorted(expected.values()) == sorted(LABELS.values())


def test_coco128_with_whole_numbers_as_floats(shared, tmp_path):
    images = shared / "coco128/val2017"
    converted(shared / "coco128/annotations/instances_val2017.json", images, tmp_path / "expected")
    converted(shared / "cases/convert/coco128_iscrowd_float.json", images, tmp_path / "out")
    read = [{p.name: p.read_text() for p in (tmp_path / o / "labels").rglob("*.txt")} for o in ("expected", "out")]
    assert read[0] == read[1]


# --- Categories -------------------------------------------------------------------------------------------------------


def test_a_row_without_class_is_told_and_can_be_kept(tmp_path):
    path, images = write_tool_files(tmp_path, TOOLS["a supercategory's row with the name of a class"][0])
    summary = converted(path, images, tmp_path / "out")
    assert "no class for 'cat' (id 0)" in summary.notes[0]
    assert "--keep-empty-categories" in summary.notes[0]
    kept = converted(path, images, tmp_path / "kept", keep_empty_categories=True)
    assert list(kept.names.values()) == ["cat", "cat", "dog"]
    assert labels(tmp_path / "kept")["a"].startswith("1 ")
    assert kept.notes == ()


def test_a_row_that_another_split_uses_is_a_class(tmp_path):
    """'animal' is the supercategory of 'cat', has no object in val, and one in train."""
    categories = [{"id": 1, "name": "animal"}, {"id": 2, "name": "cat", "supercategory": "animal"}]
    make_split(tmp_path / "root", "train", [image()], [box(1), box(2, category_id=2)], categories)
    make_split(tmp_path / "root", "val", [image()], [box(1, category_id=2)], categories)
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    assert (list(summary.names.values()), summary.notes) == (["animal", "cat"], ())


def test_categories_that_only_have_no_objects_are_classes(tmp_path):
    categories = [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog"}]
    make_split(tmp_path / "root", "train", [image()], [box(1)], categories)
    assert list(convert_coco(tmp_path / "root", tmp_path / "out").names.values()) == ["cat", "dog"]


def test_of_two_empty_rows_of_a_name_one_is_the_class(tmp_path):
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "cat", "supercategory": "cat"}, {"id": 2, "name": "dog"}]
    make_split(tmp_path / "root", "train", [image()], [box(1, category_id=2)], categories)
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    assert (summary.names, summary.category_ids) == ({0: "cat", 1: "dog"}, {0: 1, 1: 2})


def test_category_ids_that_are_texts_agree_in_all_splits(tmp_path):
    rows = [{"id": "c", "name": "cat"}, {"id": "d", "name": "dog"}]
    make_split(tmp_path / "root", "train", [image()], [box(1, category_id="d")], rows)
    make_split(tmp_path / "root", "val", [image()], [box(1, category_id="d")], rows[::-1])
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    assert summary.names == {0: "cat", 1: "dog"}
    for split in ("train", "val"):
        assert (tmp_path / f"out/labels/{split}/a.txt").read_text().startswith("1 ")


def test_splits_that_number_their_categories_apart_are_matched_by_name(tmp_path):
    """As FiftyOne and labelme2coco write them: the classes that occur in a file, from 0."""
    rows = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "owl"}]
    make_split(tmp_path / "root", "train", [image()], [box(i, category_id=i) for i in range(3)], rows)
    rows = [{"id": 0, "name": "dog"}, {"id": 1, "name": "bee"}]
    val = make_split(tmp_path / "root", "val", [image()], [box(i, category_id=i) for i in range(2)], rows)
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    assert summary.names == {0: "cat", 1: "dog", 2: "owl", 3: "bee"}
    lines = (tmp_path / "out/labels/val/a.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["1", "3"]
    for split in ("train", "val"):
        truth = COCO(str(tmp_path / f"out/annotations/instances_{split}.json"))
        for index, key in summary.category_ids.items():
            assert truth.cats.get(key, {"name": summary.names[index]})["name"] == summary.names[index]
    assert "the splits number their categories differently: matched by name" in summary.warnings[0]
    assert f"{val.annotations} has no category 'cat', 'owl', which another split has" in summary.warnings


def test_names_that_are_numbers_are_classes(tmp_path):
    rows = [{"id": 1, "name": 7}, {"id": 2, "name": 7.5}]
    make_split(tmp_path / "root", "train", [image()], [box(1)], rows)
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    assert summary.names == {0: "7", 1: "7.5"}
    assert summary.splits["train"].notes == ("2 category names are numbers: read as text",)


# --- Images -----------------------------------------------------------------------------------------------------------


def test_the_nearest_name_is_shown(tmp_path):
    path, images = write_tool_files(tmp_path, lambda d, _: d["images"][0].update(file_name="7f3a-a.jpeg"))
    with pytest.raises(DatasetError) as caught:
        converted(path, images, tmp_path / "out")
    assert "1 of 2 image files are missing" in str(caught.value)
    assert "7f3a-a.jpeg (image 0, id 1). The nearest name that exists is 'a.jpg'." in str(caught.value)


@pytest.mark.parametrize("written", ["/data/upload/7f3a-a.jpg", "..\\7f3a-a.jpg"])
def test_the_nearest_name_is_shown_of_paths_that_lead_elsewhere(tmp_path, written):
    path, images = write_tool_files(tmp_path, lambda d, _: d["images"][0].update(file_name=written))
    with pytest.raises(DatasetError, match=r"file_name leaves the image folder: .* The nearest name that exists is 'a"):
        converted(path, images, tmp_path / "out")


def test_a_base_name_that_several_files_have_is_no_answer(tmp_path):
    def change(document, images):
        for place in ("one", "two"):
            photo(images / place / "c.jpg", (100, 80))
        document["images"][0]["file_name"] = "elsewhere/c.jpg"

    path, images = write_tool_files(tmp_path, change)
    with pytest.raises(DatasetError, match=r"missing .*elsewhere/c\.jpg .* Several files have the name 'c\.jpg'"):
        converted(path, images, tmp_path / "out")


def test_a_file_that_several_records_could_mean_is_given_to_none(tmp_path):
    """Two cameras number their frames alike, and only one of the folders was unpacked."""

    def change(document, images):
        document["images"][0]["file_name"], document["images"][1]["file_name"] = "cam1/a.jpg", "cam2/a.jpg"

    path, images = write_tool_files(tmp_path, change)
    with pytest.raises(DatasetError, match=r"image file is another record's too: 'cam1/a\.jpg' would be 'a\.jpg'"):
        converted(path, images, tmp_path / "out")


# --- What is left out -------------------------------------------------------------------------------------------------


def many(tmp_path, bad, of=100, category=1):
    """A split of boxes of 'cat' but one of 'dog', of which some belong to no image."""
    boxes = [box(i, image_id=99 if i < bad else 1, category_id=category) for i in range(of)]
    return make_split(tmp_path / "root", "train", [image()], [*boxes, box(of, category_id=2)])


def test_a_few_invalid_records_may_go_and_no_more(tmp_path):
    many(tmp_path, 5)
    counts = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid=True).splits["train"]
    assert (counts.boxes, counts.skipped_annotations) == (96, {"unknown image": 5})
    many(tmp_path, 6)
    with pytest.raises(DatasetError) as caught:
        convert_coco(tmp_path / "root", tmp_path / "new", skip_invalid=True)
    assert "would leave out 6 of 101 objects, 6% (expected at most 5%, and no whole category), of 1 image: " in str(
        caught.value
    )
    assert str(caught.value).endswith("unknown image (6). Correct the file, or go on with --skip-invalid=any.")
    assert not (tmp_path / "new").exists()
    assert convert_coco(tmp_path / "root", tmp_path / "new", skip_invalid="any").splits["train"].boxes == 95


def test_no_category_goes_with_all_of_its_objects(tmp_path):
    boxes = [box(i) for i in range(100)]
    make_split(tmp_path / "root", "train", [image()], [*boxes, box(100, (1, 1), category_id=2)])
    with pytest.raises(DatasetError, match=r"would leave out 1 of 101 objects, .*; among them all of 'dog'\."):
        convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid=True)
    assert convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid="any").splits["train"].boxes == 100


def test_the_command_takes_both_forms(tmp_path, capsys):
    many(tmp_path, 6)
    with pytest.raises(SystemExit) as end:
        main(["convert", "--skip-invalid", str(tmp_path / "root"), "--out", str(tmp_path / "out")])
    assert end.value.code == 1
    assert "go on with --skip-invalid=any" in capsys.readouterr().err
    main(["convert", "--skip-invalid=any", str(tmp_path / "root"), "--out", str(tmp_path / "out")])
    assert "train: skipped 6 annotations: unknown image" in capsys.readouterr().out
    main(["convert", f"root={tmp_path / 'root'}", f"out={tmp_path / 'out'}", "skip_invalid=any", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["yaml"], found["names"]) == (str(tmp_path / "out/coco.yaml"), {"0": "cat", "1": "dog"})
    assert found["splits"]["train"]["skipped_annotations"] == {"unknown image": 6}
    main(["to-coco", found["yaml"], "--out", str(tmp_path / "back.json"), "--json"])
    assert json.loads(capsys.readouterr().out)["annotations"] == 95


EMPTY = {
    "crowds": (lambda a: a.update(iscrowd=1), {}, "1 of 1 are crowd regions (iscrowd 1), which --include-crowd writes"),
    "invalid": (lambda a: a.update(bbox=[1]), {"skip_invalid": "any"}, "1 of 1 were left out as invalid"),
    "outside": (lambda a: a.update(bbox=[900, 0, 9, 9]), {}, "1 of 1 have no area inside their image"),
    "other classes": (lambda a: None, {"classes": ["dog"]}, "1 of 1 are of other classes than --classes names"),
    "small": (lambda a: None, {"min_area": 1e6}, "1 of 1 are smaller than --min-area"),
    "nothing": (lambda a: a.clear(), {}, "the file has no annotations"),
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_split_without_a_box_is_refused_with_the_reason(tmp_path, case):
    change, options, reason = EMPTY[case]
    record = box()
    change(record)
    make_split(tmp_path / "root", "train")
    make_split(tmp_path / "root", "val", [image()], [record] if record else [])
    if case in ("other classes", "small"):
        make_split(tmp_path / "root", "train", [image()], [box(category_id=2, area=1e7)])
    with pytest.raises(DatasetError, match="expected an object in the split 'val', found none") as caught:
        convert_coco(tmp_path / "root", tmp_path / "out", **options)
    assert reason in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_many_crowds_are_a_warning(tmp_path):
    make_split(tmp_path / "root", "train", [image()], [box(i, iscrowd=i % 2) for i in range(4)])
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    assert "train: 2 of 4 objects are crowd regions (iscrowd 1) and become background" in summary.warnings[1]
    assert "--include-crowd" in summary.table()


# --- Folders ----------------------------------------------------------------------------------------------------------


def folder(root, places):
    """A folder with annotations and images at these places: annotation file → image folder."""
    for annotations, pictures in places.items():
        path = root / annotations
        path.parent.mkdir(parents=True, exist_ok=True)
        document = json.dumps(regular()).encode()
        if path.suffix == ".gz":
            import gzip

            document = gzip.compress(document, mtime=0)
        path.write_bytes(document)
        for record in regular()["images"]:
            photo(root / pictures / record["file_name"], (100, 80))


FOLDERS = {
    "Roboflow": (
        {f"{s}/_annotations.coco.json": s for s in ("train", "valid", "test")},
        {"train": "train", "val": "valid", "test": "test"},
    ),
    "Roboflow, zipped": ({f"{s}/_annotations.coco.json.gz": s for s in ("train", "valid")}, {"val": "valid"}),
    "CVAT": (
        {f"annotations/instances_{s}.json": "images" for s in ("Train", "Validation", "Test")},
        {"train": "Train", "val": "Validation", "test": "Test"},
    ),
    "CVAT, images by split": (
        {f"annotations/instances_{s}.json": f"images/{s}" for s in ("Train", "Validation")},
        {"train": "Train", "val": "Validation"},
    ),
    "CVAT, one task": ({"annotations/instances_default.json": "images"}, {"train": "default", "val": "default"}),
    "COCO, zipped": ({f"annotations/instances_{s}.json.gz": s for s in ("train2017", "val2017")}, {"val": "val2017"}),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_folders_of_tools_convert_by_their_root(tmp_path, case):
    places, roles = FOLDERS[case]
    folder(tmp_path / "root", places)
    summary = convert_coco(tmp_path / "root", tmp_path / "out")
    assert {role: summary.roles[role] for role in roles} == roles
    for split in summary.splits:
        texts = {path.stem: path.read_text() for path in (tmp_path / "out/labels" / split).glob("*.txt")}
        assert texts == LABELS


def test_a_file_that_is_there_plain_and_gzipped_is_a_question(tmp_path):
    folder(tmp_path / "root", {f"annotations/instances_train.json{end}": "images" for end in ("", ".gz")})
    with pytest.raises(DatasetError, match="the same annotations could be in"):
        convert_coco(tmp_path / "root", tmp_path / "out")
