"""Public model class: ``KDYOLO`` is Ultralytics' ``YOLO`` with a distilled backbone.

A training starts from what the model holds. Weights that a person has put into it, by whatever way, are seen by their
digests: Ultralytics itself would build a fresh model from the YAML unless they came by ``load``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from typing_extensions import Unpack
from ultralytics import YOLO
from ultralytics.utils import DEFAULT_CFG_DICT, RANK
from ultralytics.utils.checks import check_model_file_from_stem

from kdyolo.arguments import checked
from kdyolo.checkpoints.checks.exported_models import check_exported
from kdyolo.checkpoints.checks.missing_models import refuse_missing
from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.loading import load_into
from kdyolo.checkpoints.safe_load import stock_loading
from kdyolo.data.dataset_yaml import check_for_ultralytics
from kdyolo.data.label_cache import read_label_cache
from kdyolo.engine.foreign_errors import foreign_errors_explained
from kdyolo.engine.options.keywords import TrainKeywords, UltralyticsKeywords
from kdyolo.engine.options.train_options import READING, START, STRETCH, TrainOptions
from kdyolo.engine.options.ultralytics_settings import given_settings, require_names
from kdyolo.engine.predictor import StretchPredictor, predicting, refuse_odd_sources, resize_of, streamed
from kdyolo.engine.ranks.joining import joined_for_evaluation
from kdyolo.engine.start.detector_start import DetectorStart, held_start, read_start
from kdyolo.engine.start.plan import planned
from kdyolo.engine.trainer import KDTrainer
from kdyolo.engine.validator import KDValidator
from kdyolo.errors import ConfigError, ModelError, RunError
from kdyolo.metrics.names import DEFAULT_EVALUATOR, Evaluator
from kdyolo.models.detector import KDDetectionModel, load_whole_state
from kdyolo.models.tensor_digests import changed_names, short_sha256, tensor_digests
from kdyolo.runs.lifecycle.devices import Machine, one_device
from kdyolo.runs.process_control import ended_by_signals
from kdyolo.utils.text import quoted
from kdyolo.utils.ultralytics_patches import (
    called_from_python,
    data_sets_read_by,
    label_caches_read_by,
    runs_below_here,
    signals_pass,
)


class KDYOLO(YOLO):  # type: ignore[misc]
    """A YOLO detector with a distilled backbone; every other method is Ultralytics' own.

    Args:
        model: Model YAML (``"kdyolov8s.yaml"``, ``"kdyolov8n-p2.yaml"``, a path) or a trained checkpoint (``.pt``).
            Default: the YAML whose scale the backbone checkpoint fits, or ``kdyolov8s.yaml``.
        task: ``"detect"``, which is the only task; there because ``YOLO`` takes it.
        backbone: Distillation checkpoint to inject; see :func:`kdyolo.load_backbone` for the formats.
        weights: Ultralytics checkpoint that the whole detector starts from, before the backbone is laid over it.
        random_init: Says explicitly that the model starts random.
        allow_partial: Accept a backbone checkpoint that does not fill the backbone.
        bn_eps: BatchNorm epsilon of the backbone checkpoint, where the recognised one is wrong.
        input_norm: Normalisation of images that the backbone was trained with: ``"0-1"``, ``"imagenet"``, or numbers.
        key_map: YAML file with the names that the backbone checkpoint uses, if no known source does.
        trust: Unpickle checkpoints completely, which runs whatever code their authors put in.
        verbose: Log the model table.

    Raises:
        KDYOLOError: The checkpoint or the model YAML is not what it should be, or of another task.

    Examples:
        >>> model = KDYOLO(backbone="ckpt.pth")
        >>> model.train(data="datasets/coco/coco.yaml", freeze_epochs=50, epochs=100)
        >>> model.val()
    """

    @checked
    def __init__(
        self,
        model: str | Path | None = None,
        task: str | None = None,
        *,
        backbone: str | Path | None = None,
        weights: str | Path | None = None,
        random_init: bool = False,
        allow_partial: bool = False,
        bn_eps: float | None = None,
        input_norm: str | None = None,
        key_map: str | Path | None = None,
        trust: bool = False,
        verbose: bool = False,
    ) -> None:
        if task not in (None, "detect"):
            raise ConfigError(f"kdyolo trains detectors; found task={task}. Expected task=detect, or none.")
        if random_init and (backbone or weights):
            raise ConfigError("random_init excludes backbone and weights: they load weights, it asks for none.")
        files = {"backbone": backbone, "weights": weights, "key_map": key_map}
        given: dict[str, Any] = {option: str(file) if file else None for option, file in files.items()}
        given |= {"random_init": random_init, "allow_partial": allow_partial, "trust": trust}
        given |= {"bn_eps": bn_eps, "input_norm": input_norm}
        self.start = read_start(TrainOptions(**given), model)
        name = self.start.model
        if name.endswith(".pt") and any(value for key, value in given.items() if key != "trust"):
            raise ConfigError(
                f"model={name} is a whole trained detector. To lay a backbone over it, give it as weights={name} "
                "and leave model out."
            )
        self.report: LoadReport | None = None
        kind = type(self)
        super().__init__(name, task="detect", verbose=verbose)
        if type(self) is not kind or self.task != "detect":  # Ultralytics turns into another class, e.g. for RT-DETR
            raise ModelError(f"{name}: kdyolo takes YOLO detectors; this is one of {type(self).__name__}, {self.task}.")
        self.add_callback("on_predict_start", refuse_odd_sources)
        self._note_weights()

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """Detection only, with kdyolo's model and trainer, and images resized as the model was trained."""
        resize = resize_of(self.model)
        predictor = {"predictor": StretchPredictor} if resize == STRETCH else {}
        validator = partial(KDValidator, resize=resize)
        kd = {"model": KDDetectionModel, "trainer": KDTrainer, "validator": validator, **predictor}
        return {"detect": {**super().task_map["detect"], **kd}}

    def _new(self, cfg: str, task: str | None = None, verbose: bool = False) -> None:
        """Build from a YAML; a given backbone is injected right away, so that the model can be looked at."""
        start = self.start
        self.model = KDDetectionModel(start.description or cfg, verbose=verbose and RANK == -1)
        if start.weights is not None:
            self.model.load(start.weights, verbose=verbose)
        if start.checkpoint:
            self.report = load_into(self.model.backbone, start.checkpoint, start.options.allow_partial)
        self.cfg = self.model_name = cfg
        self.task = task or "detect"
        self.overrides.update(model=cfg, task=self.task)
        self.model.args = {**DEFAULT_CFG_DICT, **self.overrides}
        self.model.task = self.task

    def _load(self, weights: str, task: str | None = None) -> None:
        trust = self.start.options.trust
        refuse_missing(weights)
        if not trust and not check_model_file_from_stem(weights).lower().endswith(".pt"):
            check_exported(weights)
        with stock_loading(trust):
            super()._load(weights, task=task)

    @checked
    @ended_by_signals()
    @foreign_errors_explained()
    def train(self, trainer: Callable[..., Any] | None = None, **kwargs: Unpack[TrainKeywords]) -> Any:
        """Train; takes every Ultralytics setting and kdyolo's own.

        Args:
            trainer: Another trainer class; default :class:`kdyolo.KDTrainer`.
            **kwargs: ``data``; ``freeze_epochs`` (0, a number or ``"all"``), ``unfreeze_stages``, ``backbone_lr``,
                ``thaw_warmup``, ``freeze_bn``, ``resize``, ``recipe``, ``coco_eval_period``, ``run_download``,
                ``work_dir``; what the constructor takes: ``backbone``, ``weights``, ``random_init``, ``allow_partial``,
                ``bn_eps``, ``input_norm``, ``key_map``, ``trust``; and any Ultralytics setting (``epochs``, ``imgsz``,
                ``batch``, ``device``, …). :class:`kdyolo.TrainKeywords` has their types.

        Returns:
            Ultralytics' detection metrics of the best checkpoint.

        Raises:
            KDYOLOError: Something about options, checkpoint, model or data is wrong; nothing is left behind.
        """
        given: dict[str, Any] = dict(kwargs)
        if isinstance(given.get("data"), (list, tuple)):  # Ultralytics would go on behind a data set that failed
            raise ConfigError("data is one data set YAML; found several. Train on each by a call of its own.")
        require_names(given, "data", "cfg", "recipe", "resume")
        if given.get("resume"):
            last = self.ckpt_path if given["resume"] is True else given["resume"]
            if last is None:
                raise RunError(f"{self.model_name} cannot be resumed: expected the last.pt of an interrupted run.")
            return self._train(trainer or KDTrainer, {**given, "resume": str(last)})
        if not (given.get("data") or given.get("cfg")):
            raise ConfigError("no data: expected a data set YAML, e.g. data='datasets/coco/coco.yaml'.")
        in_memory = self._start_in_memory()
        if trainer is None or (isinstance(trainer, type) and issubclass(trainer, KDTrainer)):
            reads_again = given.keys() & {"backbone", *READING}  # another file, or the same as it is by now
            trainer = partial(planned, trainer or KDTrainer, in_memory or (None if reads_again else self.start))
        elif in_memory is not None:
            raise ConfigError(f"the model holds {in_memory.in_memory}; only a KDTrainer, or none, trains from them.")
        return self._train(trainer, {**self._start_options(in_memory, given), **given})

    def _train(self, trainer: Any, options: Mapping[str, Any]) -> Any:
        """Train by Ultralytics' own method; after a training that failed, the model is what it was."""
        before, finished = self.model, self.trainer
        try:
            metrics = super().train(trainer=trainer, **options)
        except BaseException:
            self.model = before  # which may be the half-trained one by now
            if self.trainer is not finished and isinstance(self.trainer, KDTrainer):
                self.trainer.discard_unless_saved()
            raise
        self._note_weights()
        return metrics

    def _start_options(self, in_memory: DetectorStart | None, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the constructor that a training follows; a trained detector goes on from where it is."""
        start = in_memory or self.start
        options = {name: value for name in START if (value := getattr(start.options, name))}
        if self._is_as_described or in_memory:
            return options
        return {name: options[name] for name in options if name == "trust" and given.keys() & {"backbone", "weights"}}

    @property
    def _is_as_described(self) -> bool:
        """Whether it is the constructor's YAML that is trained next, and not a trained detector."""
        return self.start.description is not None and bool(self.overrides["model"] == self.start.model)

    # ---- weights that a person puts into the model -------------------------------------------------------------------

    def _note_weights(self, file: str | None = None) -> None:
        """Remember the weights as they are now: those of the file, else those that a training starts from anyway."""
        self._digests = tensor_digests(self.model) if isinstance(self.model, nn.Module) else {}
        self._loaded_from = file

    def _start_in_memory(self) -> DetectorStart | None:
        """The start from what the model holds; None if a training starts from the same without it."""
        if not isinstance(self.model, nn.Module):
            return None  # Ultralytics says so
        now = tensor_digests(self.model)
        changed = changed_names(self._digests, now)
        if not changed and self._loaded_from is None:
            return None
        self.overrides.pop("pretrained", None)  # of an earlier reset_weights
        given = self.start if self._is_as_described else DetectorStart(TrainOptions(), self.start.model)
        where = f"weights set by hand, sha256 {short_sha256(self.model)}" if changed else str(self._loaded_from)
        return held_start(given, str(self.overrides["model"]), self.model, where, changed)

    def load(self, weights: Any) -> KDYOLO:
        """Load weights into the model, which a training then starts from.

        Args:
            weights: Ultralytics checkpoint (``.pt``), the content of one, a detector, or a state dict of all tensors.

        Raises:
            KDYOLOError: The weights are those of another architecture or scale, or the file cannot be read.
        """
        self._check_is_pytorch_model()
        if isinstance(weights, Mapping) and all(isinstance(value, torch.Tensor) for value in weights.values()):
            load_whole_state(self.model, weights, str(self.model_name))
            self.predictor = None
            return self
        if isinstance(weights, (str, Path)):
            refuse_missing(weights)
        elif not isinstance(weights, (nn.Module, Mapping)):
            raise ModelError(f"weights: expected a checkpoint, a detector or a state dict, found {quoted(weights)}.")
        with foreign_errors_explained(), stock_loading(self.start.options.trust):
            super().load(weights)
        if isinstance(weights, (str, Path)):
            self._note_weights(str(weights))
        return self

    def reset_weights(self) -> KDYOLO:
        """Start random: the next training builds a new model, whose weights follow from its seed."""
        super().reset_weights()
        self.start = replace(self.start, options=TrainOptions(), checkpoint=None, weights=None, report=None)
        self.report = None
        self._note_weights()
        return self

    # ---- what Ultralytics offers beside training ---------------------------------------------------------------------

    def tune(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to search hyperparameters by ``yolo train``, which knows neither backbone nor freeze schedule.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            "tune() trains by Ultralytics' own command, which knows neither distilled backbones nor kdyolo's options. "
            "Compare settings as arms of a study instead: kdyolo study FILE, with a few values of lr0 and so on."
        )

    def track(self, *args: Any, **kwargs: Any) -> Any:
        """Follow objects through a video; see Ultralytics' ``track``.

        Raises:
            ConfigError: The package that matches boxes is missing; Ultralytics would install it by itself.
        """
        if importlib.util.find_spec("lap") is None:
            raise ConfigError(
                "track() needs the package lap, which is not installed. Expected: pip install 'lap>=0.5.12'."
            )
        return super().track(*args, **kwargs)

    def benchmark(self, data: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Measure speed and accuracy of a trained detector in other formats; see Ultralytics' ``benchmark``.

        Args:
            data: Data set YAML to measure on. Default: that of the training.
            *args: Passed on.
            **kwargs: Passed on.

        Raises:
            ConfigError: The detector is not a trained one, or no data set is known.
        """
        if not str(self.overrides["model"]).endswith(".pt"):
            raise ConfigError("benchmark() measures a trained detector: KDYOLO('runs/…/weights/best.pt').benchmark(…).")
        data = data or self.overrides.get("data")
        if not data:
            raise ConfigError("no data: expected a data set YAML, e.g. data='datasets/coco/coco.yaml'.")
        return super().benchmark(data, *args, **kwargs)

    def calibrate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse what is for depth models only.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError("calibrate() is for depth models; kdyolo trains detectors.")

    @checked
    @foreign_errors_explained()
    def export(self, **kwargs: Unpack[UltralyticsKeywords]) -> Any:
        """Export the model, as Ultralytics does; of a data set to calibrate with, nothing is fetched or run."""
        with data_sets_read_by(check_for_ultralytics), label_caches_read_by(read_label_cache):
            return super().export(**given_settings(kwargs))

    @checked
    @signals_pass()
    @runs_below_here()
    @foreign_errors_explained()
    def val(
        self,
        validator: Callable[..., Any] | None = None,
        *,
        annotations: str | Path | None = None,
        evaluator: Evaluator = DEFAULT_EVALUATOR,
        per_class: bool = False,
        errors: bool = False,
        run_download: bool = False,
        **kwargs: Unpack[UltralyticsKeywords],
    ) -> Any:
        """Evaluate: Ultralytics' metrics, then the official COCO metrics over all images of the annotation file.

        Under torchrun, all processes share the evaluation, and the first one has and writes the result.

        Args:
            validator: Another validator class; default :class:`kdyolo.KDValidator`.
            annotations: COCO JSON of the split; default the one that the data set YAML names.
            evaluator: ``"faster-coco-eval"`` or ``"pycocotools"``.
            per_class: Print AP of every category too.
            errors: Split the loss of AP into kinds of errors; save ``errors.png`` and the worst images.
            run_download: Run what the data set YAML has under ``download`` if images are missing, after showing it.
            **kwargs: ``data`` and any Ultralytics setting (``imgsz``, ``batch``, ``device``, ``split``, …).

        Returns:
            Ultralytics' detection metrics, with the official ones as ``coco``
            (:class:`kdyolo.CocoScores`; None for a data set without COCO annotations) and, if
            asked for, the analysis as ``errors`` (:class:`kdyolo.ErrorReport`).

        Raises:
            ConfigError: Something was asked for that needs annotations, and there are none.
            DatasetError: The annotation file is not what it should be, or not that of these images.
        """
        own: dict[str, Any] = {"per_class": per_class, "errors": errors, "run_download": run_download}
        own |= {"evaluator": evaluator, "annotations": None if annotations is None else str(annotations)}
        given = given_settings(kwargs, own)
        with joined_for_evaluation(given.pop("device", None)) as device:
            return super().val(validator=validator, **own, **device, **given)

    @checked
    def predict(
        self,
        source: Any = None,
        stream: bool = False,
        predictor: Callable[..., Any] | None = None,
        **kwargs: Unpack[UltralyticsKeywords],
    ) -> Any:
        """Predict, as Ultralytics does, on one device; see ``YOLO.predict``.

        Args:
            source: Images, in any form that Ultralytics takes.
            stream: Whether results come one after the other from a generator.
            predictor: Another predictor.
            **kwargs: Any Ultralytics setting (``imgsz``, ``conf``, ``device``, …).

        Returns:
            Ultralytics' results, one for each image.

        Raises:
            ConfigError: ``device`` is not understood, does not exist, or names several.
            DatasetError: An image cannot be decoded, or it, or a list, is a pipe, a device or larger than any.
        """
        given = given_settings(kwargs)
        if "device" in given:
            given["device"] = one_device(given["device"], "a prediction", Machine.here())
        with runs_below_here(), called_from_python(), predicting(self, source):
            results = super().predict(source, stream, predictor, **given)
        return streamed(results, self) if isinstance(results, Iterator) else results
