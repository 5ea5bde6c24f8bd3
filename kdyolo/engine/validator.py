"""Evaluation: Ultralytics' validator, and after its table the official COCO metrics on the user's own annotations.

Boxes reach :meth:`KDValidator.pred_to_json` from ``scale_preds``, the one place that turns them into pixels of the
original image. On several ranks each evaluates its part of the images (:mod:`kdyolo.engine.ranks.sharding`); what they
found is joined on rank 0 in the order of one process, and scored there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.models.rtdetr.val import RTDETRValidator
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.nn.backends.base import BaseBackend
from ultralytics.utils import DEFAULT_CFG, LOGGER

from kdyolo.data.dataset_yaml import check_for_ultralytics, find_annotations, from_ultralytics
from kdyolo.data.image_names import refuse_odd_images
from kdyolo.data.label_cache import read_label_cache
from kdyolo.engine.early_ends import images_explained
from kdyolo.engine.options.train_options import LETTERBOX, STRETCH
from kdyolo.engine.options.ultralytics_settings import chosen_classes
from kdyolo.engine.ranks.agreement import agree, in_agreement, is_sharing
from kdyolo.engine.ranks.sharding import shard
from kdyolo.errors import ConfigError, DatasetError, KDYOLOError
from kdyolo.metrics.coco_metrics import CocoScores, score_detections
from kdyolo.metrics.ground_truth import of_categories
from kdyolo.metrics.names import COLUMNS, DEFAULT_EVALUATOR
from kdyolo.metrics.reference import Reference, build_reference
from kdyolo.runs.files import PREDICTIONS_NAME, SCORES_NAME
from kdyolo.utils import distributed
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.progress import details, heading_of_metrics
from kdyolo.utils.text import number_and_noun
from kdyolo.utils.ultralytics_patches import (
    data_sets_read_by,
    label_caches_read_by,
    progress_bars_escaped,
    torchvision_left_out,
)


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate beside Ultralytics' own metrics.

    Attributes:
        annotations: COCO JSON of the split; by default the one that the data set YAML names.
        evaluator: The package that computes the official metrics.
        per_class: Print AP of every category too.
        errors: Analyse the errors, and save a plot and the worst images.
        run_download: Run what the dataset YAML has under ``download`` if images are missing, after showing it.
    """

    annotations: str | None = None
    evaluator: str = DEFAULT_EVALUATOR
    per_class: bool = False
    errors: bool = False
    run_download: bool = False

    @property
    def asked_for(self) -> bool:
        """Whether something was asked for that cannot be had without annotations."""
        return replace(self, run_download=False) != EvaluationOptions()


KEYS = tuple(f.name for f in fields(EvaluationOptions))


class KDValidator(DetectionValidator):  # type: ignore[misc]
    """Ultralytics' detection validator with official COCO metrics, on its own and at the end of a training.

    They are computed over all images of the annotation file with its crowds, areas, image ids and category ids,
    wherever it lies; with ``classes`` over the categories of these classes alone. If they cannot be computed the
    evaluation fails; only a data set that names no COCO JSON is evaluated without, and then says so.

    Takes the fields of :class:`EvaluationOptions` among its ``args``. The result is in :attr:`scores`, in
    ``metrics.coco`` and, under the names ``coco/AP``, ``coco/AP50``, …, among the returned statistics.

    Attributes:
        evaluation: What is asked for.
        resize: How images are resized, as in the model's training: ``"letterbox"`` or ``"stretch"``.
        period: While training, every how many epochs there are official metrics; 0 for never.
        scores: The official metrics of the last evaluation that had them.

    Examples:
        >>> from kdyolo import KDValidator
        >>> validator = KDValidator(args={"data": "datasets/coco/coco.yaml", "evaluator": "pycocotools"})
        >>> validator.evaluation.evaluator  # validator(model=…) then scores a model with it
        'pycocotools'
    """

    # Set by Ultralytics' validator, which carries no type information.
    data: dict[str, Any]
    dataloader: Any
    jdict: list[dict[str, Any]]
    loss: dict[str, torch.Tensor]
    save_dir: Path
    training: bool
    period: int = 0

    def __init__(
        self,
        dataloader: Any = None,
        save_dir: Any = None,
        args: Any = None,
        _callbacks: dict[str, Any] | None = None,
        resize: str = LETTERBOX,
    ) -> None:
        self.resize = resize
        self.evaluation = EvaluationOptions()
        if isinstance(args, dict):  # Ultralytics refuses what it does not know
            self.evaluation = EvaluationOptions(**{k: v for k, v in args.items() if k in KEYS and v is not None})
            args = {k: v for k, v in args.items() if k not in KEYS}
        if save_dir is None and is_sharing():  # else each rank would make one of its own
            save_dir = Path(distributed.run_on_rank_zero(lambda: str(get_save_dir(get_cfg(overrides=args)))))
        with torchvision_left_out():
            super().__init__(dataloader, save_dir, args, _callbacks)
        self.scores: CocoScores | None = None
        self._reference: Reference | None = None
        self._prepared = False
        self._save_json, self._quantize = self.args.save_json, self.args.quantize  # what the user said
        self._losses: list[dict[str, torch.Tensor]] = []  # of each batch
        self._due = False
        self._may_change_model = False

    def __call__(self, trainer: Any = None, model: Any = None, **keywords: Any) -> Any:
        """Ultralytics' evaluation, then the official one; on several ranks all of them share it.

        Returns:
            The statistics on rank 0; of the other ranks, what Ultralytics returns there: None while training.
        """
        self.scores = None
        self._due = trainer is None or (self.period > 0 and (trainer.epoch + 1) % self.period == 0)
        if trainer is None:
            self.args.quantize = self._quantize  # while training, Ultralytics makes it that of mixed precision
        loader = self.dataloader
        try:
            with in_agreement():
                checked = self._checked_data(model) if trainer is None else {}  # before a word is printed
                with data_sets_read_by(lambda *_: checked):
                    return self._evaluate(trainer, model, **keywords)
        except KDYOLOError:
            mine = trainer is None and distributed.is_rank_zero()
            if mine and not any(self.save_dir.iterdir()):  # made when this was constructed
                self.save_dir.rmdir()
            raise
        finally:
            if trainer is not None:
                self.dataloader = loader

    def _checked_data(self, model: Any) -> dict[str, Any]:
        """The description of the data set, checked for this model."""
        split = self.args.split or DEFAULT_CFG.split
        channels = _channels(model or self.args.model)
        return check_for_ultralytics(self.args.data, split, self.evaluation.run_download, channels)

    def _evaluate(self, trainer: Any, model: Any, **keywords: Any) -> Any:
        import torchvision  # noqa: F401 - without it, Ultralytics suppresses overlapping boxes in another way

        self._losses = []
        stats = super().__call__(trainer, model, **keywords)
        self.metrics.coco = None
        if self._due and self._reference is not None and distributed.is_rank_zero():
            stats = {**stats, **self._official(self._reference)}
        return stats

    def as_command(self, plots: bool) -> None:
        """Load images and compute, from now on, as ``kdyolo val`` does by default: its batches, padding and precision.

        As there, a model is read for the evaluation alone, which may fuse its layers.

        Args:
            plots: Whether to save plots.
        """
        self.dataloader, self._may_change_model = None, True
        self.args.rect, self.args.batch, self.args.cache = True, DEFAULT_CFG.batch, False
        self.args.plots, self.args.compile = plots, False

    def get_model(self, model: Any, trainer: Any = None) -> Any:
        """Extend ``get_model``: no copy of a model that nobody else uses."""
        return model if self._may_change_model and trainer is None else super().get_model(model, trainer)

    def get_dataloader(self, dataset_path: str, batch_size: int) -> Any:
        """Ultralytics' data loader; on several ranks, this one's part of its batches."""
        return shard(super().get_dataloader(dataset_path, batch_size), batch_size)

    def build_dataset(self, img_path: str | list[str], mode: str = "val", batch: int | None = None) -> Any:
        """Ultralytics' data set; with ``resize=stretch`` the one of RT-DETR, which stretches."""
        build = RTDETRValidator.build_dataset if self.resize == STRETCH else DetectionValidator.build_dataset
        refuse_odd_images(map(Path, img_path if isinstance(img_path, list) else [img_path]))
        access = details(f"{mode}: Fast image access")
        waits = is_sharing() and not distributed.is_rank_zero()
        if waits:
            agree()  # rank 0 has read the labels first, and written their cache
        with images_explained(mode), label_caches_read_by(read_label_cache), progress_bars_escaped(), access:
            dataset = build(self, img_path, mode, batch)
        if is_sharing() and not waits:
            agree()
        return dataset

    def prepare(self, data: dict[str, Any]) -> None:
        """Find and read the annotations, so that what is wrong with them is known before anything is computed.

        Args:
            data: The data set, as Ultralytics' ``check_det_dataset`` returns it.

        Raises:
            ConfigError: Official metrics were asked for but cannot be had with these settings or this data set.
            DatasetError: The annotation file is not what it should be.
        """
        if not self._prepared:
            self._reference = self._shared_reference(data)
            self._prepared = True

    def _shared_reference(self, data: dict[str, Any]) -> Reference | None:
        """The reference; on ranks other than 0 without its objects, for this rank's own image files."""
        found: list[Reference | None] = []

        def read() -> Reference | None:
            found.append(self._read_reference(data))
            return found[0] and found[0].without_objects()

        shared = distributed.run_on_rank_zero(read)
        return found[0] if found else shared and shared.of_files(self.dataloader.dataset.im_files)

    def _read_reference(self, data: dict[str, Any]) -> Reference | None:
        named = self.evaluation.annotations
        if named is not None and not Path(named).is_file():
            raise ConfigError(f"--annotations {named}: no such file.")
        dataset, split = from_ultralytics(data), self.args.split or "val"
        path = Path(named) if named else find_annotations(dataset, split)
        # with single_cls, the data set has given its classes up
        classes = None if self.args.single_cls else chosen_classes(self.args.classes, dataset.class_names)
        if self.args.single_cls:
            self._do_without("with single_cls a detection has no category")
        elif path is None:
            self._do_without(
                f"the data set names no COCO annotations for {split!r}; name the JSON file with --annotations, or "
                "convert it with kdyolo convert"
            )
        else:
            names, ids = list(dataset.class_names.values()), dataset.ids_in(path, split)
            return build_reference(path, self.dataloader.dataset.im_files, names, ids, classes)
        return None

    def _do_without(self, reason: str) -> None:
        if self.evaluation.asked_for or self.period:
            raise ConfigError(f"no official COCO metrics: {reason}.")
        LOGGER.info(f"no official COCO metrics: {reason}.")

    # ---- inside Ultralytics' evaluation --------------------------------------------------------------------------

    def init_metrics(self, model: Any) -> None:
        """Prepare the metrics; Ultralytics' own idea of which data set is COCO's, and of its ids, is not used.

        It goes by the path's spelling, rebuilds ground truth from the labels (no crowds, area w·h), and turns a failure
        into a warning.
        """
        if self._due:
            self.prepare(self.data)
        official = self._due and self._reference is not None
        super().init_metrics(model)
        self.is_custom_json = self.build_gdict = False
        self.gdict = None
        if self._reference is not None:
            self.is_coco = self.is_lvis = False
            keys = self._reference.truth.category_keys
            self.class_map = [keys.get(category, category) for category in self._reference.category_ids]
            if len(model.names) > len(self.class_map):
                raise DatasetError(
                    f"the model has {number_and_noun(len(model.names), 'class{|es}')}, the data set "
                    f"{len(self.class_map)}. Expected a model of this data set, or of a part of its classes."
                )
            self.args.save_json = official or self._save_json  # collects the detections

    def pred_to_json(self, predn: dict[str, Any], pbatch: dict[str, Any]) -> None:
        """Add one image's detections, already in pixels of the original image, with the ids of the annotation file."""
        start = len(self.jdict)
        super().pred_to_json(predn, pbatch)
        if self._reference is not None:
            image_id, truth = self._reference.image_ids[pbatch["im_file"]], self._reference.truth
            for detection in self.jdict[start:]:
                detection.update(image_id=truth.image_keys.get(image_id, image_id), file_name=truth.images[image_id])

    def update_metrics(self, preds: Any, batch: dict[str, Any]) -> None:
        """Count a batch's detections; keep its losses apart, so that they can be added up in order over all ranks."""
        super().update_metrics(preds, batch)
        if self.training and is_sharing():
            self._losses.append({name: value.cpu() for name, value in self.loss.items()})
            self.loss = {name: torch.zeros_like(value) for name, value in self.loss.items()}

    def gather_stats(self) -> None:
        """Join what the ranks found on rank 0, in the order of one process, if nothing went wrong on any of them."""
        if not is_sharing():
            return
        agree()
        parts: list[Any] = [None] * dist.get_world_size()
        dist.gather_object(self._losses, parts if distributed.is_rank_zero() else None, dst=0)
        super().gather_stats()
        if self.training and distributed.is_rank_zero():
            for losses in chain(*parts):
                self.loss = {name: value.cpu() + losses[name] for name, value in self.loss.items()}
            self.dataloader = self.dataloader.of_all_ranks  # whose number of batches Ultralytics divides by

    def print_results(self) -> None:
        """Ultralytics' table, with its heading where that stood before a progress bar without room for it."""
        if heading := heading_of_metrics():
            LOGGER.info(heading)
        super().print_results()

    def get_stats(self) -> dict[str, Any]:
        """Ultralytics' statistics, without its own COCO evaluation of labels that stands in for the annotations."""
        save_json, self.args.save_json = self.args.save_json, False
        try:
            return super().get_stats()  # type: ignore[no-any-return]
        finally:
            self.args.save_json = save_json

    def eval_json(self, stats: dict[str, Any]) -> dict[str, Any]:
        """Nothing: the official metrics come after. LVIS, which has other rules, stays Ultralytics' own."""
        return super().eval_json(stats) if self.is_lvis else stats

    # ---- the official metrics ------------------------------------------------------------------------------------

    @property
    def precision(self) -> str:
        """What the network computed with in the last evaluation: ``fp32``, ``fp16``, or ``fp16 autocast``."""
        if self.args.quantize != 16:
            return "fp32"
        return "fp16 autocast" if self.training else "fp16"

    def _official(self, reference: Reference) -> dict[str, float]:
        """Score the collected detections, print the result and return it by column."""
        detections = reference.truth.in_use(self.jdict)
        found = score_detections(reference.truth, detections, self.evaluation.evaluator, categories=reference.chosen)
        scores = replace(found, precision=self.precision)
        self.scores = self.metrics.coco = scores
        if self.training:
            LOGGER.info(scores.line())
        else:
            LOGGER.info(scores.table(self.evaluation.per_class))
            if not self.jdict:  # Ultralytics writes no empty file, and would leave an older one
                write_atomic(self.save_dir / PREDICTIONS_NAME, "[]")
            self._keep(scores, reference)
            LOGGER.info(f"kept {self.save_dir / PREDICTIONS_NAME} for kdyolo score")
            if self.evaluation.errors:
                self._analyse(reference)
        return {column: round(value, 5) for column, value in zip(COLUMNS, scores.metrics, strict=True)}

    def _keep(self, scores: CocoScores, reference: Reference) -> None:
        """Write the official metrics, per class too, beside the predictions that they are of."""
        content = {"annotations": str(Path(reference.truth.path).resolve()), "resize": self.resize, **scores.to_dict()}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        write_atomic(self.save_dir / SCORES_NAME, text + "\n")

    def _analyse(self, reference: Reference) -> None:
        """Split the loss of AP into kinds of errors; save a plot and the worst images."""
        from kdyolo.metrics.tide import find_errors
        from kdyolo.metrics.tide_plots import draw_worst, plot_errors

        found = reference.truth.in_use(self.jdict)
        truth, detections = of_categories(reference.truth, found, reference.chosen)
        report = find_errors(truth, detections)
        self.metrics.errors = report
        LOGGER.info(report.table())
        picture = plot_errors(report, self.save_dir / "errors.png")
        files = {image_id: Path(file) for file, image_id in reference.image_ids.items()}
        pictures = draw_worst(report, truth, detections, files, self.save_dir / "errors")
        LOGGER.info(f"saved {picture} and the {len(pictures)} worst images in {self.save_dir / 'errors'}")


def _channels(model: nn.Module | str) -> int | None:
    """Channels of the images that a model takes: of its first convolution, or as an export says; None if unknown."""
    if isinstance(model, nn.Module):
        return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    said = BaseBackend.read_metadata(model).get("channels")
    return None if said is None else int(said)
