"""What the converter's options write, against Ultralytics' converter, its data set class and pycocotools."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdyolo.data.coco import summary
from kdyolo.data.coco.schema import DetailedAnnotation
from kdyolo.data.coco.segmentation import decode_mask, polygon_of
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.errors import ConfigError, DatasetError
from tests.builders.coco import CATEGORIES, box, image, label_rows, make_split, write_file

# --- Segments ---------------------------------------------------------------------------------------------------------


def test_outlines_equal_ultralytics_converter(shared, tmp_path):
    from ultralytics.data.converter import convert_coco as peer

    convert_coco(shared / "coco128", tmp_path / "ours", segments=True)
    peer(str(shared / "coco128/annotations"), str(tmp_path / "peer"), use_segments=True)
    compared = 0
    for split in ("train2017", "val2017"):
        ours = label_rows(tmp_path / "ours/labels" / split)
        for name, rows in label_rows(tmp_path / "peer/labels" / split).items():
            assert len(ours[name]) == len(rows)
            for mine, theirs in zip(ours[name], rows, strict=True):
                assert mine == pytest.approx(np.clip(theirs, None, [100, *[1] * (len(theirs) - 1)]), abs=2e-6)
                compared += 1
    assert compared == 929


def test_segmentation_head_trains_on_outlines(shared, tmp_path):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    yaml = convert_coco(shared / "coco128", tmp_path / "out", segments=True).yaml
    data = check_det_dataset(str(yaml), autodownload=False)
    dataset = YOLODataset(img_path=data["val"], data=data, task="segment", augment=False, imgsz=64)
    assert sum(len(label["segments"]) for label in dataset.labels) == 206
    assert dataset[0]["masks"].shape[0] > 0


MASK = np.zeros((50, 100), dtype=np.uint8)
MASK[10:30, 20:60] = 1
MASK[35:45, 70:80] = 1


def run_lengths(mask):
    from pycocotools import mask as coco

    compressed = coco.encode(np.asfortranarray(mask))
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *changes, flat.size]).tolist()
    return {"size": [50, 100], "counts": [0, *runs] if flat[0] else runs}, {
        "size": [50, 100],
        "counts": compressed["counts"].decode(),
    }


@pytest.mark.parametrize("seed", range(5))
def test_masks_equal_pycocotools(seed):
    mask = (np.random.default_rng(seed).random((50, 100)) < 0.3 * seed).astype(np.uint8)
    for rle in run_lengths(mask):
        decoded = decode_mask(rle, 100, 50)
        assert decoded is not None
        np.testing.assert_array_equal(decoded, mask)


def test_masks_become_outlines_with_all_parts(tmp_path):
    for rle in run_lengths(MASK):
        outline = polygon_of(DetailedAnnotation(1, 1, 1, (0, 0, 1, 1), 0, None, rle), 100, 50)
        corners = set(zip(outline[::2], outline[1::2], strict=True))
        assert {(20, 10), (59, 10), (59, 29), (20, 29), (70, 35), (79, 35), (79, 44), (70, 44)} == corners


@pytest.mark.parametrize(
    "segmentation",
    [
        *(
            None,
            [],
            [[]],
            [[1, 2, 3, 4]],
            [[1, 2, 3, 4, 5, 6, 7]],
            [["a"] * 6],
            [[1e300] * 6],
            "text",
            5,
            [[[1, 2]] * 3],
        ),
        *({}, {"counts": [1, 2], "size": [50, 100]}, {"counts": [-1, 5001], "size": [50, 100]}),
        *(
            {"counts": "~~~", "size": [50, 100]},
            {"counts": "o", "size": [50, 100]},
            {"counts": [5000], "size": [1, 5000]},
        ),
        *(
            {"counts": [1 << 70], "size": [50, 100]},
            {"counts": "", "size": [50, 100]},
            [[900, 900, 901, 900, 901, 901]],
        ),
    ],
)
def test_unusable_segmentations_become_the_box(tmp_path, segmentation):
    make_split(tmp_path / "root", "train", [image()], [box(segmentation=segmentation)])
    result = convert_coco(tmp_path / "root", tmp_path / "out", segments=True)
    assert label_rows(tmp_path / "out/labels/train") == {"a.txt": [[0, 0.1, 0.2, 0.3, 0.2, 0.3, 0.6, 0.1, 0.6]]}
    assert result.splits["train"].box_fallback == 1
    assert "train: 1 outlines are those of the box, for want of a polygon" in str(result)


def test_outlines_are_clipped(tmp_path):
    make_split(tmp_path / "root", "train", [image()], [box(segmentation=[[-10, 10, 50, 10, 50, 60]])])
    convert_coco(tmp_path / "root", tmp_path / "out", segments=True)
    assert label_rows(tmp_path / "out/labels/train") == {"a.txt": [[0, 0, 0.2, 0.5, 0.2, 0.5, 1]]}


# --- Selections -------------------------------------------------------------------------------------------------------


def test_classes_and_areas_select(shared, tmp_path):
    from pycocotools.coco import COCO

    result = convert_coco(shared / "coco128", tmp_path / "out", classes=["car", "person"], min_area=1000)
    assert (result.names, result.category_ids) == ({0: "person", 1: "car"}, {0: 1, 1: 3})
    for split, counts in result.splits.items():
        coco = COCO(str(shared / f"coco128/annotations/instances_{split}.json"))
        ids = coco.getAnnIds(catIds=[1, 3], areaRng=[1000, 1e12], iscrowd=False)  # of pycocotools: above, not at
        assert counts.boxes == len(ids) > 0
        assert counts.unselected == len(coco.anns) - len(coco.getAnnIds(catIds=[1, 3]))
        assert counts.boxes + counts.crowds + counts.empty + counts.unselected + counts.small == counts.annotations
        assert counts.images == len(coco.imgs)
        assert counts.backgrounds == len(coco.imgs) - len({a["image_id"] for a in coco.loadAnns(ids)})


def test_area_is_the_annotations_own_or_that_of_the_box(tmp_path):
    boxes = [
        box(1, area=99),
        box(2, area=100),
        box(3, bbox=(0, 0, 10, 10)),
        box(4, bbox=(0, 0, 9, 10)),
        box(5, area=1e400),
    ]
    make_split(tmp_path / "root", "train", [image()], boxes)
    counts = convert_coco(tmp_path / "root", tmp_path / "out", min_area=100).splits["train"]
    assert (counts.boxes, counts.small) == (3, 2)
    make_split(tmp_path / "root", "train", [image()], [*boxes, box(6, area="big"), box(7, area=float("nan"))])
    with pytest.raises(DatasetError, match=r"annotation 5 \(id 6\): area is not a number: 'big'"):
        convert_coco(tmp_path / "root", tmp_path / "out", min_area=100)
    counts = convert_coco(tmp_path / "root", tmp_path / "out", min_area=100, skip_invalid=True).splits["train"]
    assert counts.skipped_annotations == {"area is not a number": 2}
    assert convert_coco(tmp_path / "root", tmp_path / "out").splits["train"].boxes == 7  # nobody asked for areas


def test_crowds_can_be_included(shared, tmp_path):
    left_out = convert_coco(shared / "coco128", tmp_path / "without").splits
    for split, counts in convert_coco(shared / "coco128", tmp_path / "out", include_crowd=True).splits.items():
        assert counts.crowds == 0
        assert counts.boxes == left_out[split].boxes + left_out[split].crowds > left_out[split].boxes


def test_unknown_classes_and_areas_are_told_together(shared, tmp_path):
    with pytest.raises(ConfigError) as caught:
        convert_coco(shared / "coco128", tmp_path / "out", classes=["person", "carr", "x-ray"])
    assert caught.value.mistakes[0] == "no category is called 'carr'. Did you mean 'car'?"
    assert caught.value.mistakes[1].startswith("no category is called 'x-ray'. There are person, ")
    for area in (-1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="expected min_area to be a number of pixels²"):
            convert_coco(shared / "coco128", tmp_path / "out", min_area=area)


# --- Official counts --------------------------------------------------------------------------------------------------


def test_official_counts():
    """As the official label archives have them; https://github.com/ultralytics/yolov5/wiki names the same."""
    assert summary.OFFICIAL == {"train2017": (118_287, 1_021), "val2017": (5_000, 48)}


def test_files_with_official_names_are_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "OFFICIAL", {"val2017": (3, 1)})

    def warnings(images, boxes, **options):
        records = [image(i, f"{i}.jpg") for i in range(images)]
        make_split(tmp_path / "root", "val2017", records, [box(i, image_id=i) for i in range(boxes)])
        return convert_coco(tmp_path / "root", tmp_path / "out", **options).warnings[1:]

    assert warnings(3, 2) == ()
    assert warnings(2, 2)[0].startswith("val2017 has 2 images, COCO's own has 3")
    assert warnings(3, 1)[0].startswith("val2017 has 2 images without labels, COCO's own has 1")
    assert warnings(3, 1, classes=["cat"]) == ()


# --- Image files ------------------------------------------------------------------------------------------------------


def photo(path: Path, size=(100, 50), **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 50).convert("RGB").save(path, **options)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def one_box_each(root: Path, names: list[str]) -> Path:
    """A split 'train' with a box in each of these images; gives the folder of its images."""
    boxes = [box(i, image_id=i) for i in range(len(names))]
    return make_split(root, "train", [image(i, name) for i, name in enumerate(names)], boxes).images


def test_absolute_names_inside_the_folder(tmp_path):
    folder = tmp_path / "root/images/train"
    source = make_split(tmp_path / "root", "train", [image(1, "sub/a.jpg"), image(2, "b.jpg")], [box()])
    document = json.loads(source.annotations.read_text())
    document["images"][0]["file_name"] = str(folder / "sub/a.jpg")
    write_file(tmp_path / "root", "train", document)
    convert_coco(tmp_path / "root", tmp_path / "out")
    lines = (tmp_path / "out/train.txt").read_text().splitlines()
    assert lines == ["./images/train/b.jpg", "./images/train/sub/a.jpg"]
    assert (tmp_path / "out/labels/train/sub/a.txt").read_text()
    for name in (tmp_path / "root/images/other.jpg", folder / "../../../b.jpg"):
        document["images"][0]["file_name"] = str(name)
        write_file(tmp_path / "root", "train", document)
        with pytest.raises(DatasetError, match="file_name leaves the image folder"):
            convert_coco(tmp_path / "root", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_verified_images_leave_the_cache_that_ultralytics_would_write(shared, tmp_path):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, load_dataset_cache_file

    boxes = [box(1, image_id=0), box(2, image_id=0), box(3, image_id=1, segmentation=[[1, 1, 9, 1, 9, 9]])]
    make_split(tmp_path / "root", "train", [image(i, f"{i}.jpg") for i in range(4)], boxes)
    for i in range(3):
        photo(tmp_path / f"root/images/train/{i}.jpg")
    photo(tmp_path / "root/images/train/3.jpg", (50, 100), exif=exif(6))
    for root in (tmp_path / "root", shared / "coco128"):
        for segments in (False, True):
            out = tmp_path / f"{root.name}-{segments}"
            result = convert_coco(root, out, verify_images=True, segments=segments)
            data = check_det_dataset(str(result.yaml), autodownload=False)
            for role, split in result.roles.items():
                path = out / f"labels/{split}.cache"
                ours = load_dataset_cache_file(path)
                path.unlink()
                YOLODataset(img_path=data[role], data=data, augment=False, imgsz=64)
                np.testing.assert_equal(ours, load_dataset_cache_file(path))


def test_a_new_cache_format_is_left_alone(tmp_path, monkeypatch):
    from kdyolo.data import label_cache

    monkeypatch.setattr(label_cache, "DATASET_CACHE_VERSION", "9.9.9")
    make_split(tmp_path / "root", "train")
    photo(tmp_path / "root/images/train/a.jpg")
    result = convert_coco(tmp_path / "root", tmp_path / "out", verify_images=True)
    assert "train: no label cache was written" in result.warnings[1]
    assert not (tmp_path / "out/labels/train.cache").exists()


def test_sizes_of_the_records_win_and_others_are_reported(tmp_path):
    names = ["a.jpg", "exif.jpg", "turned.png", "other.jpg"]
    folder = one_box_each(tmp_path / "root", names)
    photo(folder / "a.jpg")
    photo(folder / "exif.jpg", exif=exif(6))
    photo(folder / "turned.png", exif=exif(8))
    photo(folder / "other.jpg", (200, 100))
    result = convert_coco(tmp_path / "root", tmp_path / "out", verify_images=True)
    assert (
        "train: 3 images have another size than their records say, which labels follow; perhaps an EXIF orientation "
        "turns them: exif.jpg (100×50, the file 50×100), turned.png (100×50, the file 50×100), other.jpg (100×50, "
        "the file 200×100)"
    ) in result.warnings
    assert set(map(str, label_rows(tmp_path / "out/labels/train").values())) == {"[[0.0, 0.2, 0.4, 0.2, 0.4]]"}


def test_images_that_cannot_be_used(tmp_path):
    names = ["good.jpg", "text.jpg", "tiny.png", "cut.jpg"]
    folder = one_box_each(tmp_path / "root", names)
    photo(folder / "good.jpg")
    (folder / "text.jpg").write_text("no image")
    photo(folder / "tiny.png", (9, 9))
    photo(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-100])
    before = (folder / "cut.jpg").read_bytes()
    convert_coco(tmp_path / "root", tmp_path / "unopened")
    with pytest.raises(DatasetError, match=r"image 1 \(id 1\): image cannot be used: .*text\.jpg: "):
        convert_coco(tmp_path / "root", tmp_path / "out", verify_images=True)
    assert not (tmp_path / "out").exists()
    (folder / "text.jpg").rename(tmp_path / "text.jpg")
    missing = convert_coco(tmp_path / "root", tmp_path / "missing", verify_images=True, skip_invalid=True)
    assert missing.splits["train"].skipped_images == {"image file is missing": 1, "image cannot be used": 1}
    (tmp_path / "text.jpg").rename(folder / "text.jpg")
    result = convert_coco(tmp_path / "root", tmp_path / "out", verify_images=True, skip_invalid=True)
    counts = result.splits["train"]
    assert counts.skipped_images == {"image cannot be used": 2}
    assert counts.skipped_annotations == {"its image was skipped": 2}
    assert "train: 1 JPEGs lack their end marker" in result.warnings[1]
    assert (folder / "cut.jpg").read_bytes() == before
    assert not (tmp_path / "out/labels/train.cache").exists()


def test_what_was_skipped_is_not_in_the_annotations_either(tmp_path):
    """Scoring wants every image of the JSON to be among those that were converted, and no other."""
    images = [
        image(1, "a.jpg"),
        image(2, "gone.jpg"),
        image(1, "b.jpg"),
        image(3, "c.jpg", width=-1),
        image(4, "d.jpg"),
    ]
    annotations = [
        box(1, image_id=99),  # no such image; its id is free for the next
        box(1, image_id=1, area=7.5, segmentation=[[1, 2, 3, 4, 5, 6]]),
        box(1, image_id=4),  # the id is taken
        box(2, image_id=2),
        box(3, image_id=4, bbox=(1, 2, float("inf"), 3)),
        box(4, image_id=4, iscrowd=1),
        {"id": "x"},
    ]
    make_split(tmp_path / "root", "val", images, annotations)
    (tmp_path / "root/images/val/gone.jpg").unlink()
    summary = convert_coco(tmp_path / "root", tmp_path / "out", skip_invalid=True)
    written = tmp_path / "out/annotations/instances_val.json"
    assert not written.is_symlink()
    document = json.loads(written.read_text())
    assert [record["file_name"] for record in document["images"]] == ["a.jpg", "d.jpg"]
    assert document["annotations"] == [annotations[1], annotations[5]]
    assert document["categories"] == CATEGORIES
    assert sum(summary.splits["val"].skipped_images.values()) == 3
