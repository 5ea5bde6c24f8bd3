"""Trainer of a detector with a distilled backbone: Ultralytics' own, with a freeze schedule, exact resume and records.

:class:`KDTraining` knows no task: its overrides work beside any of Ultralytics' task trainers, and what it adds to a
training is done by collaborators of their own. :class:`KDTrainer` adds what is detection's.
"""

from __future__ import annotations

import shutil
from copy import copy
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.data import build_dataloader
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT, LOGGER
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo.checkpoints.export import finish_checkpoint
from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.loading import changed_tensors, checkpoint_arch, load_into
from kdyolo.checkpoints.reader import BackboneCheckpoint
from kdyolo.utils import distributed
from kdyolo.engine.evaluation import OfficialEvaluation
from kdyolo.engine.optimizer import EarlyStoppingAfterUnfreeze, ScheduledRates, StepOffset
from kdyolo.engine.options.train_options import STRETCH
from kdyolo.engine.options.validation import split_options
from kdyolo.engine.plan import check_data, fitting_backbone, new_work_dir
from kdyolo.engine.provenance import announce, provenance, run_record
from kdyolo.engine.resume import (
    RESUME_MAY_CHANGE,
    ResumeState,
    read_state,
    resumed_settings,
    seed_epoch,
    state_to_resume,
)
from kdyolo.engine.validator import KDValidator
from kdyolo.errors import ConfigError, DatasetError, KDYOLOError, RunError
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.detector import KDDetectionModel, resolve_description, to_stock
from kdyolo.models.freezing import BackboneFreezer
from kdyolo.models.model_yaml import Yaml
from kdyolo.models.yaml_layouts import family_of
from kdyolo.runs import detach
from kdyolo.runs.files import LOG_NAME, STATE_NAME
from kdyolo.runs.log_capture import RunLog
from kdyolo.runs.pid_file import owning_folder
from kdyolo.runs.results_plot import plot_results
from kdyolo.utils.atomic import AtomicPath
from kdyolo.utils.system import cpu_threads
from kdyolo.utils.ultralytics_patches import as_single_process, restricted_ultralytics


class KDTraining(BaseTrainer):  # type: ignore[misc]
    """Training of any task with a distilled backbone; stands before one of Ultralytics' task trainers among the bases.

    The task's class says with :meth:`build_model` and :meth:`stock_model` which model it trains. Every other override
    extends the method of the same name of Ultralytics' trainer.

    Args:
        cfg: Ultralytics' defaults.
        overrides: Settings that differ from them, kdyolo's among them.
        _callbacks: Event → functions.
        checkpoint: The checkpoint that ``backbone`` names, where it has been read already.

    Attributes:
        settings: kdyolo's own options.
        schedule: Freeze schedule: which part trains when, and how fast.
        checkpoint: The backbone checkpoint; None without one.
        report: Report on how it fits the backbone; None without one.
        started_from: Weights of a whole detector that the run started from; None without any.
        asked: Ultralytics' settings as they were given, before it adjusted any.
        rates: Learning rate of each optimizer group.
        steps: Optimizer steps, and gradients that wait for one across a resume.
        freezer: Freezes and unfreezes the backbone, and knows its frozen tensors.
        evaluation: Official metrics during the run.
        log: The run's ``train.log``.
        batches_done: Batches of this epoch so far.

    Raises:
        KDYOLOError: Options, checkpoint, model or data are not what they should be; nothing is left behind.
    """

    # Set by Ultralytics' trainer, which carries no type information.
    args: Any
    model: Any
    ema: Any
    optimizer: Any
    scaler: Any
    stopper: Any
    train_loader: Any
    data: dict[str, Any]
    device: torch.device
    lr: dict[str, float]
    wdir: Path
    save_dir: Path
    csv: Path
    epoch: int
    start_epoch: int
    best_fitness: float | None
    stop: bool
    amp: bool
    accumulate: int

    batches_done = 0

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
        checkpoint: BackboneCheckpoint | None = None,
    ) -> None:
        self.report: LoadReport | None = None
        self.checkpoint: BackboneCheckpoint | None = None
        self.started_from: str | None = None
        self._state: ResumeState | None = None  # what a resumed run continues from, until it is applied
        self.asked: dict[str, Any] = {}
        self._created: Path | None = None  # the run folder, if it is ours to remove should set-up fail
        self._wrapped_for: tuple[bool, ...] = ()  # which parameters trained when the model was last wrapped
        self.log = RunLog()
        try:
            device = (
                distributed.init_process_group((overrides or {}).get("device"))
                if distributed.is_distributed()
                else None
            )
            if overrides and overrides.get("resume"):
                self._state = distributed.run_on_rank_zero(state_to_resume, Path(str(overrides["resume"])))
                self.settings, overrides = resumed_settings(overrides, self._state)
                overrides["save_dir"] = distributed.broadcast(overrides["save_dir"])
            else:
                self.settings, overrides = split_options(overrides or {})
                self.asked = dict(overrides)
                if device is not None:  # one folder for all ranks
                    overrides["save_dir"] = distributed.run_on_rank_zero(_numbered_dir, overrides)
                self._created = distributed.run_on_rank_zero(new_work_dir, overrides)
                self.checkpoint, self.report = fitting_backbone(self.settings, overrides.get("model"), checkpoint)
                check_data(overrides.get("data"))
            super().__init__(cfg, overrides, _callbacks)
            if not (self.resume or overrides.get("save_dir") or self.args.exist_ok):
                self._created = self.save_dir  # numbered by Ultralytics, so always a new one
            if device is not None:
                self.device, self.world_size, self.ddp = device, torch.distributed.get_world_size(), False
            elif self.device.type == "cpu" and (threads := (self._state and self._state.threads) or cpu_threads()):
                torch.set_num_threads(threads)  # a resumed run has as many as before: sums are rounded accordingly
        except BaseException:
            self.log.close()
            self._remove_what_was_created()
            raise
        self.schedule = self.settings.schedule(self.epochs)
        self.rates, self.steps, self.freezer = (
            ScheduledRates(self.schedule),
            StepOffset(),
            BackboneFreezer(self.schedule),
        )
        self.evaluation = OfficialEvaluation(self.settings.coco_eval_period, self.device)
        self.wdir = AtomicPath(self.wdir)
        self.last, self.best = self.wdir / "last.pt", self.wdir / "best.pt"
        if distributed.is_rank_zero() and not self.ddp:
            self.log.open(self.save_dir / LOG_NAME, append=bool(self.resume))

    def train(self) -> None:
        """Run the training; on Ctrl-C or SIGTERM say how to go on. Extends ``train``."""
        if self.ddp:  # Ultralytics starts a process per GPU, which gets what stands in the arguments and nothing else
            vars(self.args).update(self.settings.to_dict())
        with owning_folder(self.save_dir if distributed.is_rank_zero() and not self.ddp else None) as elsewhere:
            if elsewhere:
                LOGGER.warning(elsewhere.warning(self.save_dir))
            self._train()

    def _train(self) -> None:
        try:
            with self.log.capture():
                try:
                    super().train()
                except KeyboardInterrupt:
                    LOGGER.info(self._how_to_resume())
                    raise
        except KDYOLOError:
            if not self.last.exists():  # bad input, found while setting up
                self._remove_what_was_created()
            raise

    def _remove_what_was_created(self) -> None:
        if distributed.is_rank_zero() and self._created is not None and self._created.exists():
            shutil.rmtree(self._created)

    def set_up(self) -> None:
        """Build model, data loaders and optimizer as for a training, and train nothing."""
        self._setup_train()

    def begin_epoch(self, epoch: int) -> None:
        """Seed, freeze and unfreeze as at the start of an epoch, counted from 0; after :meth:`set_up`."""
        self.epoch = epoch
        self._model_train()

    @property
    def frozen_tensors(self) -> dict[str, torch.Tensor]:
        """Tensors of the backbone as they were when training started; empty if it did not start frozen."""
        return self.freezer.frozen_tensors

    @property
    def progress(self) -> float:
        """Epochs done so far, fractions included."""
        return float(self.epoch + self.batches_done / len(self.train_loader))

    def trainable_parameters(self) -> int:
        """Number of parameters that train in this epoch."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    # ---- what the task's class says ------------------------------------------------------------------------------

    def build_model(self, description: Yaml, verbose: bool) -> Any:
        """The task's model with a distilled backbone in row 0, built from a resolved description."""
        raise NotImplementedError

    def stock_model(self, model: Any) -> Any:
        """The same model with Ultralytics' own layers only; tensors are shared, not copied."""
        raise NotImplementedError

    # ---- set-up --------------------------------------------------------------------------------------------------

    def get_dataset(self) -> dict[str, Any]:
        """The data set's description, checked. Extends ``get_dataset``, whose errors become ours."""
        try:
            return super().get_dataset()  # type: ignore[no-any-return]
        except (RuntimeError, FileNotFoundError) as e:
            raise DatasetError(str(e)) from e

    def get_model(self, cfg: str | Yaml | None = None, weights: nn.Module | None = None, verbose: bool = True) -> Any:
        """Build the model, start it from ``weights`` if given, and lay the distilled backbone over it."""
        arch = checkpoint_arch(self.checkpoint, family_of(cfg)) if self.checkpoint else None
        eps = self.checkpoint.bn_eps if self.checkpoint else None
        model = self.build_model(resolve_description(cfg, weights, arch, eps), verbose)
        if unknown := self.schedule.named_parts - model.backbone.parts.keys():
            raise ConfigError(
                f"unfreeze_stages names {', '.join(sorted(unknown))}, which {model.yaml['yaml_file']} does not have; "
                f"its parts are {', '.join(model.backbone.parts)}."
            )
        if weights is not None:
            model.load(weights)
            self.started_from = str(self.settings.weights or self.args.model)
        if self.checkpoint is not None:
            self.report = load_into(model.backbone, self.checkpoint, self.settings.allow_partial)
        if self.resume:
            model.backbone.left_out = tuple(model.yaml.get("kd", {}).get("left_out", ()))
        else:
            kd = provenance(model.backbone, self.settings, self.schedule, self.report, self.args.seed)
            model.yaml["kd"] = kd
        return model

    def set_model_attributes(self) -> None:
        """Extend ``set_model_attributes``: the layer ``freeze``, which counts stock layers and comes next, in our terms.

        Our own schedule is not applied here but at the start of every epoch, so that AutoBatch, which comes in between,
        measures the memory that training takes once everything trains.
        """
        super().set_model_attributes()
        if self.args.freeze is not None:
            stock = range(self.args.freeze) if isinstance(self.args.freeze, int) else self.args.freeze
            self.args.freeze = [_nested_place(unwrap_model(self.model), str(layer)) for layer in stock]

    def setup_model(self) -> Any:
        """Extend ``setup_model``: a resumed run's comes from its kept description, so that only rank 0 needs its files."""
        if self._state is None:
            with restricted_ultralytics(self.settings.trust):
                return super().setup_model()
        self.model = self.get_model(self._state.yaml, verbose=distributed.is_rank_zero())
        return None

    def _do_train(self) -> None:
        """Extend ``_do_train``: of a run that was killed after its last epoch, only what comes after that."""
        if self._state is None or not self._state.trained_to_the_end(self.epochs):
            super()._do_train()
            return
        self.set_up()
        self.epoch = self.start_epoch - 1
        self.final_eval()
        if distributed.is_rank_zero():
            if self.args.plots:
                self.plot_metrics()
            self.run_callbacks("on_train_end")

    def _setup_ddp(self) -> None:
        """Replace ``_setup_ddp`` by nothing: the process group was joined before anything else."""

    def _build_train_pipeline(self) -> None:
        """Extend ``_build_train_pipeline``: the world size comes from the process group."""
        self.world_size = torch.distributed.get_world_size() if distributed.is_distributed() else self.world_size
        super()._build_train_pipeline()

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Extend ``get_dataloader``: for evaluation one with all images, since rank 0 evaluates alone."""
        loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
        if mode == "train" or not distributed.is_distributed():
            return loader
        workers = self.args.workers * 2
        return build_dataloader(loader.dataset, batch_size, workers, shuffle=False, rank=-1, device=self.device)

    def build_optimizer(self, model: nn.Module, *args: Any, **keywords: Any) -> torch.optim.Optimizer:
        """Extend ``build_optimizer``: groups split by part of the backbone, so that each has its own learning rate."""
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, *args, **keywords)
        self.rates.split(optimizer, unwrap_model(model).backbone.parts)
        return optimizer

    def _setup_train(self) -> None:
        """Extend ``_setup_train``: checks, patience that waits for the unfreezing, the announced plan and the record."""
        self._set_up_unwrapped()
        if distributed.is_distributed():
            self.amp = distributed.broadcast(self.amp)  # decided on rank 0
            self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp and self.args.amp != "bf16")
        progress = {k: getattr(self.stopper, k) for k in ("best_fitness", "best_epoch")}
        self.stopper = EarlyStoppingAfterUnfreeze(self.args.patience, self.schedule.frozen_epochs)
        self.stopper.__dict__.update(progress)
        if not self.resume:
            self.freezer.remember(unwrap_model(self.model).backbone)
        self._check_injected()
        self.evaluation.begin(self.validator, self.data)
        announce(
            unwrap_model(self.model),
            self.schedule,
            report=self.report,
            started_from=self.started_from,
            resumed=bool(self.resume),
            patience=self.args.patience,
        )
        if distributed.is_rank_zero():
            self._record_and_hand_over()

    def _set_up_unwrapped(self) -> None:
        """Ultralytics' set-up, which would wrap the model for a GPU and for what trains now: `_model_train` does it."""
        layer_freeze, world_size = self.args.freeze, self.world_size
        self.world_size = 0
        try:
            super()._setup_train()
        finally:
            self.args.freeze = layer_freeze  # our translation must reach neither checkpoints nor a stock resume
            self.world_size = world_size

    def _record_and_hand_over(self) -> None:
        """Write ``kdyolo.yaml`` of a new run; of a detached one, from here on all output goes to its log."""
        if not self.resume:
            run_record(
                self.settings,
                self.schedule,
                report=self.report,
                asked=self.asked,
                started_from=self.started_from,
                data=self.args.data,
                seed=self.args.seed,
                model_yaml=unwrap_model(self.model).yaml["yaml_file"],
            ).write(self.save_dir)
        if output := detach.output_file():
            if distributed.is_distributed():
                LOGGER.info(f"what torchrun and the other ranks print: {output}")
            self.log.take_over()
            detach.tell_begun(self.save_dir)

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Extend ``check_resume``: arguments come from the run's state, with the few changes that are allowed."""
        if self._state is None:
            super().check_resume(overrides)
            return
        changes = {k: v for k, v in overrides.items() if k in {*RESUME_MAY_CHANGE, "save_dir"}}
        last = overrides["resume"]
        self.args = get_cfg({**self._state.args, **changes, "model": last, "resume": last})
        self.resume = True

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Replace ``resume_training``: from the exact state of the run, not from its checkpoint's rounded weights."""
        if self._state is None:
            return
        self._state.apply(self)
        self._state = None
        model = unwrap_model(self.model)
        if hasattr(model.model[-1], "one2one_cv2"):  # how the two losses of end-to-end heads are weighted
            model.criterion = model.init_criterion()
            model.criterion.updates = self.start_epoch - 1
            model.criterion.update()
        LOGGER.info(f"resuming after epoch {self.start_epoch} of {self.epochs}")

    # ---- checks, bit for bit -------------------------------------------------------------------------------------

    def _backbones(self) -> dict[str, DistilledBackbone]:
        """The backbone that trains, and that of its moving average."""
        return {"model": unwrap_model(self.model).backbone, "EMA": self.ema.ema.backbone}

    def _check_injected(self) -> None:
        """Compare the backbone that will train, and its EMA, with the file, bit for bit."""
        if self.checkpoint is None:
            return
        for what, backbone in self._backbones().items():
            if names := changed_tensors(backbone, self.checkpoint.tensors):
                raise RunError(
                    f"after set-up, {len(names)} backbone tensors of the {what} differ from those in "
                    f"{self.checkpoint.path.name}, e.g. {names[0]}. This is a bug: please report it with {LOG_NAME}."
                )

    def _check_frozen(self) -> None:
        """Compare what is frozen, in the model and in its EMA, with what it was when training started, bit for bit."""
        for what, backbone in self._backbones().items():
            if names := self.freezer.changed(backbone, self.epoch):
                raise RunError(
                    f"in epoch {self.epoch + 1}, {len(names)} tensors of the frozen backbone changed in the {what}, "
                    f"e.g. {names[0]}. Does a callback touch the model? If not, please report it with {LOG_NAME}."
                )

    # ---- each epoch ----------------------------------------------------------------------------------------------

    def run_callbacks(self, event: str) -> None:
        """Extend ``run_callbacks``: count batches, and give loggers the learning rates really used."""
        if event == "on_train_epoch_start":
            self.batches_done = 0
        elif event == "on_train_batch_start":
            self.batches_done += 1
        elif event == "on_train_epoch_end" and not self.schedule.is_plain:
            self.lr = self.rates.logged(self.optimizer, self.epoch, self.progress, self.trainable_parameters())
        super().run_callbacks(event)

    def _model_train(self) -> None:
        """Extend ``_model_train``, called at every start of an epoch: seeds, and the backbone as the schedule has it."""
        super()._model_train()
        seed_epoch(self.args.seed, self.epoch, self.nan_recovery_attempts, self.train_loader)
        # Folding was measured on CPUs only; on GPUs with AMP, folded weights would also be rounded differently.
        self.freezer.apply(unwrap_model(self.model).backbone, self.epoch, fold=self.device.type == "cpu")
        if what := self.freezer.unfrozen_in(self.epoch):
            trainable = self.trainable_parameters() / 1e6
            LOGGER.info(f"epoch {self.epoch + 1}: {what} thawed, {trainable:.1f} M parameters train from now on")
        trains = tuple(p.requires_grad for p in self.model.parameters())
        if distributed.is_distributed() and trains != self._wrapped_for:
            self.model = distributed.wrap_ddp(self.model, self.device, bool(self.args.compile))
            self._wrapped_for = trains

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Extend ``preprocess_batch``: after a resume, gradients that waited are there, and steps come when due."""
        self.accumulate = self.steps.before_batch(unwrap_model(self.model), self.accumulate)
        return super().preprocess_batch(batch)  # type: ignore[no-any-return]

    def optimizer_step(self) -> None:
        """Extend ``optimizer_step``: a step with the schedule's factors on the learning rates."""
        with self.rates.applied(self.optimizer, self.progress):
            super().optimizer_step()
        iteration = self.epoch * len(self.train_loader) + self.batches_done - 1
        self.accumulate = self.steps.after_step(iteration, self.accumulate)

    def validate(self) -> Any:
        """Extend ``validate``: on rank 0 alone; the others go on to where they wait for its verdict."""
        if not distributed.is_distributed():
            return super().validate()
        if not distributed.is_rank_zero():
            return None, None
        with as_single_process(self):
            return super().validate()

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Extend ``save_metrics``: official metrics and memory in the row of ``results.csv``."""
        super().save_metrics(self.evaluation.row(metrics))

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Extend ``_handle_nan_recovery``: a frozen backbone goes back to its own tensors, not to rounded ones."""
        if distributed.is_distributed():
            return self._recover_on_all_ranks(epoch)
        recovered = bool(super()._handle_nan_recovery(epoch))
        if recovered:
            for backbone in self._backbones().values():
                self.freezer.restore(backbone, self.epoch)
        return recovered

    def _recover_on_all_ranks(self, epoch: int) -> bool:
        """The same for several ranks, from the state that rank 0 keeps: the others may not see its files."""
        finite = (self.loss is None or bool(self.loss.isfinite())) and (self.fitness is None or isfinite(self.fitness))
        if distributed.broadcast(finite) or epoch == self.start_epoch:
            return False
        self.nan_recovery_attempts += 1
        if self.nan_recovery_attempts > 3:
            raise RunError("NaN or Inf in the loss again after 3 attempts to recover from last.pt.")
        LOGGER.warning(f"NaN or Inf detected (attempt {self.nan_recovery_attempts}/3), recovering from last.pt...")
        start_epoch = self.start_epoch
        distributed.run_on_rank_zero(read_state, self.last).apply(self)
        self.start_epoch, self.steps.gradients, self.scheduler.last_epoch = start_epoch, None, epoch - 1
        return True

    def save_model(self) -> bool:
        """Extend ``save_model``: in the stock layout, with the state to resume from, if nothing frozen has moved."""
        self._check_frozen()
        model, ema, epochs = self.model, self.ema.ema, self.args.epochs
        self.model, self.ema.ema = self.stock_model(unwrap_model(model)), self.stock_model(ema)
        # A stock resume knows neither schedule nor epsilon. This makes it stop with a message that says what to do.
        self.args.epochs = f"(resume this run with: kdyolo train --resume {self.save_dir})"
        (self.wdir / STATE_NAME).touch()  # weights without it are those of a run that has ended; it is filled below
        try:
            saved = bool(super().save_model())
        finally:
            self.model, self.ema.ema, self.args.epochs = model, ema, epochs
        ResumeState.capture(self).save(self.wdir / STATE_NAME)
        return saved

    def plot_metrics(self) -> None:
        """Extend ``plot_metrics``: of a run with a freeze our own ``results.png``, which shows it."""
        if self.schedule.ever_frozen:
            self.on_plot(plot_results(self.csv, self.schedule))
        else:
            super().plot_metrics()

    def final_eval(self) -> None:
        """Extend ``final_eval``: on rank 0 alone, and then the finished stock checkpoints."""
        if not distributed.is_rank_zero():
            return
        with as_single_process(self):
            super().final_eval()
        for path in (self.last, self.best):
            if path.exists():
                finish_checkpoint(path, train_args={"epochs": self.args.epochs})
        (self.wdir / STATE_NAME).unlink(missing_ok=True)  # nothing is left to resume
        LOGGER.info(f"weights: {self.best} and last.pt are plain Ultralytics checkpoints")

    def _how_to_resume(self) -> str:
        if self.last.exists():
            return f"\nInterrupted. Resume with: kdyolo train --resume {self.save_dir}"
        return "\nInterrupted before the first epoch was saved: start again with --exist-ok."


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
        return to_stock(model)

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Extend ``build_dataset``: with ``resize=stretch`` the data set of RT-DETR, which stretches."""
        build = RTDETRTrainer.build_dataset if self.settings.resize == STRETCH else DetectionTrainer.build_dataset
        return build(self, img_path, mode, batch)

    def get_validator(self) -> KDValidator:
        """Replace ``get_validator``: kdyolo's, for every epoch and for ``best.pt``."""
        keywords = {"save_dir": self.save_dir, "args": copy(self.args), "_callbacks": self.callbacks}
        return KDValidator(self.test_loader, resize=self.settings.resize, **keywords)


def _nested_place(model: Any, layer: str) -> str:
    """``"21.cv1"``, a place in the stock layout → the same place in this model."""
    number, dot, inner = layer.partition(".")
    return f"{model.nested_layer(int(number)) if number.isdigit() else number}{dot}{inner}"


def _numbered_dir(overrides: dict[str, Any]) -> str:
    """The run folder as Ultralytics would name it."""
    return str(get_save_dir(get_cfg(DEFAULT_CFG_DICT, overrides)))
