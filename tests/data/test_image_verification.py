"""Images that are opened: unusable ones, and those of another size than their records say."""

import os

import pytest

from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.data.image_verification import verify_image
from kdyolo.errors import DatasetError
from tests.builders.coco import exif, label_rows, one_box_each, photo


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


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_what_never_ends_is_not_opened(tmp_path):
    folder = one_box_each(tmp_path / "root", ["pipe.jpg"])
    (folder / "pipe.jpg").unlink()
    os.mkfifo(folder / "pipe.jpg")
    with pytest.raises(DatasetError, match=r"image cannot be used: .*expected an image, found a pipe or a device"):
        convert_coco(tmp_path / "root", tmp_path / "out", verify_images=True)
    (folder / "pipe.jpg").unlink()
    (folder / "pipe.jpg").touch()
    os.truncate(folder / "pipe.jpg", 8 << 30)
    assert "8,589,934,592 bytes" in verify_image(folder / "pipe.jpg").problem


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
    missing = convert_coco(tmp_path / "root", tmp_path / "missing", verify_images=True, skip_invalid="any")
    assert missing.splits["train"].skipped_images == {"image file is missing": 1, "image cannot be used": 1}
    (tmp_path / "text.jpg").rename(folder / "text.jpg")
    result = convert_coco(tmp_path / "root", tmp_path / "out", verify_images=True, skip_invalid="any")
    counts = result.splits["train"]
    assert counts.skipped_images == {"image cannot be used": 2}
    assert counts.skipped_annotations == {"its image was skipped": 2}
    assert "train: 1 JPEGs lack their end marker" in result.warnings[1]
    assert (folder / "cut.jpg").read_bytes() == before
    assert not (tmp_path / "out/labels/train.cache").exists()


def test_a_decoder_that_is_not_installed_is_not_named_by_its_module(tmp_path, monkeypatch):
    """Ultralytics imports one of HEIC, whatever is wrong with a file."""

    def without_decoder(_path):
        raise ModuleNotFoundError("No module named 'pi_heif'")

    (tmp_path / "text.jpg").write_text("no image")
    monkeypatch.setattr("PIL.Image.open", without_decoder)
    assert verify_image(tmp_path / "text.jpg").problem.startswith(
        "no image, or of a format that nothing here can decode"
    )
