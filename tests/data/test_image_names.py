"""File names of images: Ultralytics' suffixes, and absolute names."""

import json
import os
from pathlib import Path

import pytest

from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.data.image_names import IMAGE_SUFFIXES, image_files, refuse_odd_images
from kdyolo.data.yolo_labels import label_path
from kdyolo.errors import DatasetError
from tests.builders.coco import box, image, make_split, write_file


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
    for name, reason in (
        (tmp_path / "root/images/other.jpg", "file_name leaves the image folder"),
        (folder / "../../../b.jpg", "image file is another record's too"),
    ):
        document["images"][0]["file_name"] = str(name)
        write_file(tmp_path / "root", "train", document)
        with pytest.raises(DatasetError, match=reason):
            convert_coco(tmp_path / "root", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_follow_ultralytics():
    from ultralytics.data.utils import IMG_FORMATS, img2label_paths

    assert IMAGE_SUFFIXES == IMG_FORMATS
    for name in ("a.jpg", "sub/a.b.jpg", "images/a.jpg", "x/images/y/a.png"):
        assert img2label_paths([f"/out/images/train/{name}"]) == [f"/out/{label_path('train', name)}"]


@pytest.mark.skipif(os.name == "nt", reason="has no such files")
@pytest.mark.parametrize("kind", ["device", "pipe", "8 GB"])
def test_what_never_ends_is_no_image(tmp_path, kind):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "sound.jpg").write_bytes(b"\xff\xd8")
    (folder / "gone.jpg").symlink_to(tmp_path / "nothing")
    odd, listed = folder / "odd.jpg", tmp_path / "list.txt"
    listed.write_text("images/sound.jpg\nimages/gone.jpg\nimages/missing.jpg\nimages/odd.jpg\n")
    refuse_odd_images([folder, listed])
    if kind == "device":
        odd.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        with odd.open("wb") as file:
            file.truncate(8 << 30)
    for paths in ([folder], [listed], [odd]):
        with pytest.raises(DatasetError, match=r"odd\.jpg: expected an image, found a (pipe or a device|file of 8,5)"):
            refuse_odd_images(paths)


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_is_refused(tmp_path):
    """OpenCV ends the whole process when it is given one."""
    (tmp_path / "a\udcff.jpg").write_bytes(b"\xff\xd8")
    for look in (refuse_odd_images, image_files):
        with pytest.raises(DatasetError, match=r"a\\udcff\.jpg: its name or folder is no UTF-8 text"):
            look([tmp_path])


@pytest.mark.parametrize("line", [".", "..", "/", "list.txt", "n" * 300, "n" * 5000, "a.jpg"])
def test_what_a_list_names_is_an_image_and_nothing_is_looked_for_in_it(tmp_path, monkeypatch, line):
    """As to Ultralytics; else a list that names its own folder, or the whole disk, would be read without end."""
    listed = tmp_path / "list.txt"
    listed.write_text(f"{line}\nimages/a.jpg\n./{line}\n")
    monkeypatch.setattr(Path, "rglob", lambda *args: pytest.fail("looked into a folder"))
    refuse_odd_images([listed])
    os.mkfifo(tmp_path / "b.jpg")
    listed.write_text(f"{line}\n./b.jpg\n")
    with pytest.raises(DatasetError, match="found a pipe"):
        refuse_odd_images([listed])
