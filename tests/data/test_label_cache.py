"""Label cache of verified images: what Ultralytics itself would write."""

import numpy as np

from kdyolo.data.coco_to_yolo import convert_coco
from tests.builders.coco import box, exif, image, make_split, photo


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
