"""Trainer of a detector with a distilled backbone: what of a training is detection's."""

from __future__ import annotations

from copy import copy
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOGGER

from kdyolo.data.empty_splits import no_objects
from kdyolo.data.image_names import refuse_odd_images
from kdyolo.data.label_cache import read_label_cache
from kdyolo.engine.early_ends import images_explained
from kdyolo.engine.options.train_options import STRETCH
from kdyolo.engine.options.ultralytics_settings import chosen_classes
from kdyolo.engine.training import KDTraining
from kdyolo.engine.validator import KDValidator
from kdyolo.errors import DatasetError
from kdyolo.models.detector import KDDetectionModel, to_stock
from kdyolo.models.model_yaml import Yaml
from kdyolo.models.taught_detector import TaughtDetector, student_of
from kdyolo.utils.progress import details
from kdyolo.utils.text import number_and_noun
from kdyolo.utils.ultralytics_patches import label_caches_read_by, progress_bars_escaped


class KDTrainer(KDTraining, DetectionTrainer):  # type: ignore[misc]
    """Trains a detector whose backbone comes from a distillation checkpoint and may be frozen at first.

    Takes every Ultralytics setting, and kdyolo's own
    (:class:`kdyolo.engine.options.train_options.TrainOptions`) among the same overrides.
    Works as ``YOLO("yolov8n.yaml").train(trainer=KDTrainer, backbone="ckpt.pth", freeze_epochs=50, data=…)`` too.
    Arguments, attributes and errors are those of :class:`KDTraining`.
    """

    def build_model(self, description: Yaml, verbose: bool) -> KDDetectionModel:
        """A detector with a distilled backbone in row 0."""
        model = KDDetectionModel(description, ch=self.data["channels"], nc=self.data["nc"], verbose=verbose)
        self.set_model_names_for_load(model)
        return model

    def stock_model(self, model: KDDetectionModel | TaughtDetector) -> nn.Module:
        """The same detector with Ultralytics' own layers only, without a teacher; tensors are shared, not copied."""
        stock: nn.Module = to_stock(student_of(model))
        return stock

    def set_model_attributes(self) -> None:
        """Extend ``set_model_attributes``: a detector with a teacher gets it here, before Ultralytics opens the file.

        Raises:
            ModelError: The teacher does not fit.
        """
        super().set_model_attributes()
        if (teacher := self.plan.teacher) is not None:
            self.model = TaughtDetector(self.model, teacher.model)
            weight = f"{self.args.dis:g} × the L2 distance of what both heads read, weighted by its scores"
            LOGGER.info(f"teacher: {teacher.path} · {number_and_noun(teacher.classes, 'class{|es}')} · {weight}")

    def densest_batch(self, images: int) -> dict[str, Any]:
        """Images of the largest size, each with the boxes of a mosaic of the images that have the most."""
        pixels = ceil(self.args.imgsz * (1 + self.args.multi_scale) / self.stride) * self.stride
        counts = sorted(len(label["cls"]) for label in self.train_loader.dataset.labels)
        boxes = max(sum(counts[-4:]) if self.args.mosaic else counts[-1], 1)
        drawn = torch.rand(images * boxes, 4, generator=torch.Generator().manual_seed(0))
        return {
            "img": torch.zeros(images, self.data["channels"], pixels, pixels, device=self.device),
            "cls": torch.zeros(images * boxes, 1, device=self.device),
            "bboxes": (0.1 + 0.2 * drawn + 0.4 * drawn.new_tensor([1, 1, 0, 0])).to(self.device),
            "batch_idx": torch.arange(images, device=self.device).repeat_interleave(boxes).float(),
        }

    def build_dataset(self, img_path: str | list[str], mode: str = "train", batch: int | None = None) -> Any:
        """Extend ``build_dataset``: with ``resize=stretch`` the data set of RT-DETR, which stretches.

        Raises:
            ConfigError: ``classes`` chooses what the data set does not have.
            DatasetError: There is no image, or no object in any of them.
        """
        build = RTDETRTrainer.build_dataset if self.settings.resize == STRETCH else DetectionTrainer.build_dataset
        if not self.args.single_cls:  # with it, the data set has given its classes up
            chosen_classes(self.args.classes, self.data["names"])
        refuse_odd_images(map(Path, img_path if isinstance(img_path, list) else [img_path]))
        access = details(f"{mode}: Fast image access")
        with images_explained(mode), label_caches_read_by(read_label_cache), progress_bars_escaped(), access:
            dataset = build(self, img_path, mode, batch)
        if not any(len(label["cls"]) for label in dataset.labels):
            raise DatasetError(no_objects(mode, img_path, len(dataset.labels), self.data))
        return dataset

    def get_validator(self) -> KDValidator:
        """Replace ``get_validator``: kdyolo's, for every epoch and for ``best.pt``."""
        keywords = {"save_dir": self.save_dir, "args": copy(self.args), "_callbacks": self.callbacks}
        return KDValidator(self.test_loader, resize=self.settings.resize, **keywords)
