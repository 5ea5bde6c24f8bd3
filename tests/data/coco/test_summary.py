"""Counts of a conversion against those of the official files."""

from kdyolo.data.coco import summary
from kdyolo.data.coco_to_yolo import convert_coco
from tests.builders.coco import box, image, make_split


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
