"""Trainer of a detector with a distilled backbone: what of a training is detection's."""

from __future__ import annotations

from copy import copy
from typing import Any

from torch import nn
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect import DetectionTrainer

from kdyolo.data.label_cache import read_label_cache
from kdyolo.engine.options.train_options import STRETCH
from kdyolo.engine.training import KDTraining
from kdyolo.engine.validator import KDValidator
from kdyolo.models.detector import KDDetectionModel, to_stock
from kdyolo.models.model_yaml import Yaml
from kdyolo.utils.ultralytics_patches import label_caches_read_by


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

    def stock_model(self, model: KDDetectionModel) -> nn.Module:
        """The same detector with Ultralytics' own layers only; tensors are shared, not copied."""
        stock: nn.Module = to_stock(model)
        return stock

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Extend ``build_dataset``: with ``resize=stretch`` the data set of RT-DETR, which stretches."""
        build = RTDETRTrainer.build_dataset if self.settings.resize == STRETCH else DetectionTrainer.build_dataset
        with label_caches_read_by(read_label_cache):
            return build(self, img_path, mode, batch)

    def get_validator(self) -> KDValidator:
        """Replace ``get_validator``: kdyolo's, for every epoch and for ``best.pt``."""
        keywords = {"save_dir": self.save_dir, "args": copy(self.args), "_callbacks": self.callbacks}
        return KDValidator(self.test_loader, resize=self.settings.resize, **keywords)
