"""Evaluation: Ultralytics' validator, and after its table the official COCO metrics on the user's own annotations.

Boxes reach :meth:`KDValidator.pred_to_json` from ``scale_preds``, the one place that turns them into pixels of the
original image.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from ultralytics.models.rtdetr.val import RTDETRValidator
from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import LOGGER

from kdyolo.data.dataset_yaml import check_for_ultralytics, find_annotations, from_ultralytics
from kdyolo.data.label_cache import read_label_cache
from kdyolo.engine.options.train_options import LETTERBOX, STRETCH
from kdyolo.errors import ConfigError, DatasetError, KDYOLOError
from kdyolo.metrics.coco_metrics import CocoScores, score_detections
from kdyolo.metrics.names import COLUMNS, DEFAULT_EVALUATOR
from kdyolo.metrics.reference import Reference, build_reference
from kdyolo.runs.files import PREDICTIONS_NAME, SCORES_NAME
from kdyolo.utils.ultralytics_patches import data_sets_read_by, label_caches_read_by


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
    wherever it lies. If they cannot be computed the evaluation fails; only a data set that names no COCO JSON is
    evaluated without, and then says so.

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
    jdict: list[dict[str, Any]]
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
        super().__init__(dataloader, save_dir, args, _callbacks)
        self.scores: CocoScores | None = None
        self._reference: Reference | None = None
        self._save_json = self.args.save_json  # what the user said
        self._due = False

    def __call__(self, trainer: Any = None, model: Any = None, **keywords: Any) -> Any:
        """Ultralytics' evaluation, then the official one."""
        self.scores = None
        self._due = trainer is None or (self.period > 0 and (trainer.epoch + 1) % self.period == 0)
        try:
            with data_sets_read_by(partial(check_for_ultralytics, run_download=self.evaluation.run_download)):
                stats = super().__call__(trainer, model, **keywords)
        except KDYOLOError:
            if trainer is None and not any(self.save_dir.iterdir()):  # made when this was constructed
                self.save_dir.rmdir()
            raise
        self.metrics.coco = None
        if self._due and self._reference is not None:
            stats = {**stats, **self._official(self._reference)}
        return stats

    def build_dataset(self, img_path: str, mode: str = "val", batch: int | None = None) -> Any:
        """Ultralytics' data set; with ``resize=stretch`` the one of RT-DETR, which stretches."""
        build = RTDETRValidator.build_dataset if self.resize == STRETCH else DetectionValidator.build_dataset
        with label_caches_read_by(read_label_cache):
            return build(self, img_path, mode, batch)

    def prepare(self, data: dict[str, Any]) -> None:
        """Find and read the annotations, so that what is wrong with them is known before anything is computed.

        Args:
            data: The data set, as Ultralytics' ``check_det_dataset`` returns it.

        Raises:
            ConfigError: Official metrics were asked for but cannot be had with these settings or this data set.
            DatasetError: The annotation file is not what it should be.
        """
        if self._reference is not None:
            return
        named = self.evaluation.annotations
        if named is not None and not Path(named).is_file():
            raise ConfigError(f"annotations {named}: no such file.")
        dataset, split = from_ultralytics(data), self.args.split or "val"
        path = Path(named) if named else find_annotations(dataset, split)
        if self.args.single_cls:
            self._do_without("with single_cls a detection has no category")
        elif path is None:
            self._do_without(
                f"the data set names no COCO annotations for {split!r}; name the JSON file with --annotations, or "
                "convert it with kdyolo convert"
            )
        else:
            names, ids = list(dataset.class_names.values()), dataset.ids_in(path, split)
            self._reference = build_reference(path, self.dataloader.dataset.im_files, names, ids)

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
            self.class_map = self._reference.category_ids
            if len(model.names) > len(self.class_map):
                raise DatasetError(
                    f"the model has {len(model.names)} classes, the data set {len(self.class_map)}. Expected a model "
                    "of this data set, or of a part of its classes."
                )
            self.args.save_json = official or self._save_json  # collects the detections

    def pred_to_json(self, predn: dict[str, Any], pbatch: dict[str, Any]) -> None:
        """Add one image's detections, already in pixels of the original image, with the ids of the annotation file."""
        start = len(self.jdict)
        super().pred_to_json(predn, pbatch)
        if self._reference is not None:
            image_id = self._reference.image_ids[pbatch["im_file"]]
            for detection in self.jdict[start:]:
                detection.update(image_id=image_id, file_name=self._reference.truth.images[image_id])

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

    def _official(self, reference: Reference) -> dict[str, float]:
        """Score the collected detections, print the result and return it by column."""
        detections: Any = self.jdict
        scores = score_detections(reference.truth, detections, self.evaluation.evaluator)
        self.scores = self.metrics.coco = scores
        if self.training:
            named = ", ".join(f"{name} {value:.3f}" for name, value in list(scores.named().items())[:6])
            LOGGER.info(f"official COCO metrics: {named}")
        else:
            LOGGER.info(scores.table(self.evaluation.per_class))
            if not self.jdict:  # Ultralytics writes no empty file, and would leave an older one
                (self.save_dir / PREDICTIONS_NAME).write_text("[]", encoding="utf-8")
            self._keep(scores, reference)
            LOGGER.info(f"kept {self.save_dir / PREDICTIONS_NAME} for kdyolo score")
            if self.evaluation.errors:
                self._analyse(reference)
        return {column: round(value, 5) for column, value in zip(COLUMNS, scores.metrics, strict=True)}

    def _keep(self, scores: CocoScores, reference: Reference) -> None:
        """Write the official metrics, per class too, beside the predictions that they are of."""
        content = {"annotations": str(Path(reference.truth.path).resolve()), "resize": self.resize, **scores.to_dict()}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (self.save_dir / SCORES_NAME).write_text(text + "\n", encoding="utf-8")

    def _analyse(self, reference: Reference) -> None:
        """Split the loss of AP into kinds of errors; save a plot and the worst images."""
        from kdyolo.metrics.tide import find_errors
        from kdyolo.metrics.tide_plots import draw_worst, plot_errors

        detections: Any = self.jdict
        report = find_errors(reference.truth, detections)
        self.metrics.errors = report
        LOGGER.info(report.table())
        picture = plot_errors(report, self.save_dir / "errors.png")
        files = {image_id: Path(file) for file, image_id in reference.image_ids.items()}
        pictures = draw_worst(report, reference.truth, detections, files, self.save_dir / "errors")
        LOGGER.info(f"saved {picture} and the {len(pictures)} worst images in {self.save_dir / 'errors'}")
