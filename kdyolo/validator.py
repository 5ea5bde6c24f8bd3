"""Evaluation: Ultralytics' validator, kept from scoring other data sets as if they were COCO."""

from __future__ import annotations

from typing import Any

from ultralytics.data.converter import coco80_to_coco91_class
from ultralytics.models.rtdetr.val import RTDETRValidator
from ultralytics.models.yolo.detect import DetectionValidator

from kdyolo.settings import LETTERBOX, STRETCH


class KDValidator(DetectionValidator):  # type: ignore[misc]
    """Ultralytics' detection validator.

    Ultralytics takes any list named ``val2017.txt`` below a path with "coco" in it for COCO itself, renumbers classes
    to COCO's 91 ids and prints "official" figures. For a converted data set of other categories they would be wrong.

    Args:
        *arguments: Ultralytics' own.
        resize: How images are resized: ``"letterbox"`` or ``"stretch"``, as the model was trained.
        **keywords: Ultralytics' own.
    """

    data: dict[str, Any]

    def __init__(self, *arguments: Any, resize: str = LETTERBOX, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.resize = resize

    def build_dataset(self, img_path: str, mode: str = "val", batch: int | None = None) -> Any:
        """Ultralytics' data set; with ``resize=stretch`` the one of RT-DETR, which stretches."""
        build = RTDETRValidator.build_dataset if self.resize == STRETCH else DetectionValidator.build_dataset
        return build(self, img_path, mode, batch)

    def init_metrics(self, model: Any) -> None:
        """Prepare the metrics, as COCO only if the data set's own category ids are COCO's."""
        ids, val = self.data.get("category_ids"), self.data.get(self.args.split)
        if ids is not None and list(ids.values()) != coco80_to_coco91_class() and isinstance(val, str):
            self.data = {**self.data, self.args.split: [val]}  # only a plain string is ever taken for COCO
        super().init_metrics(model)
