"""Training with a distilled backbone, of any task: Ultralytics' own, with a freeze schedule, exact resume and records.

What is added to Ultralytics' training is done by collaborators, each with state of its own.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import get_cfg
from ultralytics.utils import DEFAULT_CFG, LOGGER
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo.checkpoints.checks.missing_models import refuse_missing
from kdyolo.checkpoints.loading import load_into
from kdyolo.checkpoints.safe_load import stock_loading
from kdyolo.data.dataset_yaml import check_for_ultralytics
from kdyolo.engine.early_ends import early_end_explained, loggers_forgiven, refusals_of_files_explained
from kdyolo.engine.evaluation import OfficialEvaluation
from kdyolo.engine.memory import fitting_batch
from kdyolo.engine.memory.measured_training import MeasuredTraining
from kdyolo.engine.memory.meter import meter_of
from kdyolo.engine.optimizer import EarlyStoppingAfterUnfreeze, OptimizerSteps, ScheduledRates
from kdyolo.engine.provenance import announce, provenance, run_record
from kdyolo.engine.ranks.nan_recovery import recover_on_all_ranks
from kdyolo.engine.resume import RESUME_MAY_CHANGE, ResumeState, finish_run, restore_loss_weights, seed_epoch
from kdyolo.engine.start.detector_start import is_yaml
from kdyolo.engine.start.plan import RunPlan
from kdyolo.engine.start.run_start import start_run
from kdyolo.errors import DatasetError
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.freezing import BackboneFreezer, nested_layers
from kdyolo.models.model_yaml import Yaml
from kdyolo.runs.files import BEST_NAME, LAST_NAME, LOG_NAME, STATE_NAME
from kdyolo.runs.log_capture import RunLog
from kdyolo.runs.pid_file import owning_folder
from kdyolo.runs.process_control import ended_by_signals, finished_first, raise_if_told_to_end
from kdyolo.runs.results_plot import plot_results
from kdyolo.utils import distributed
from kdyolo.utils.atomic import AtomicPath
from kdyolo.utils.progress import details
from kdyolo.utils.ultralytics_patches import (
    compiler_left_out,
    data_sets_read_by,
    ray_left_out,
    runs_below_here,
    settings_written_whole,
    signals_pass,
)


class KDTraining(MeasuredTraining):
    """Training of any task with a distilled backbone; stands before one of Ultralytics' task trainers among the bases.

    The task's class says with :meth:`build_model` and :meth:`stock_model` which model it trains. Every other override
    extends the method of the same name of Ultralytics' trainer.

    Args:
        cfg: Ultralytics' defaults.
        overrides: Settings that differ from them, kdyolo's among them.
        _callbacks: Event → functions.
        plan: Plan of the run, which the overrides then say nothing about. Default: made from the overrides.

    Attributes:
        settings: kdyolo's own options.
        schedule: Freeze schedule: which part trains when, and how fast.
        plan: Plan of the run.
        checkpoint: The backbone checkpoint; None without one.
        report: Report on how it fits the backbone; None without one.
        started_from: Weights of a whole detector that the run started from; None without any.
        rates: Learning rate of each optimizer group.
        steps: Optimizer steps, and gradients that wait for one across a resume.
        freezer: Freezes and unfreezes the backbone, and knows its frozen tensors.
        evaluation: Official metrics during the run.
        memory: Memory of the device that trains.
        log: The run's ``train.log``.
        batches_done: Batches of this epoch so far.

    Raises:
        KDYOLOError: Options, checkpoint, model or data are not what they should be; nothing is left behind.
    """

    # Set by Ultralytics' trainer, which carries no type information.
    model: Any
    stopper: Any
    ddp: bool
    accumulate: int
    start_epoch: int
    wdir: Path

    started_from: str | None = None
    batches_done = 0
    epoch = 0  # until the training loop says

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
        plan: RunPlan | None = None,
    ) -> None:
        self.log = RunLog()
        with ended_by_signals(), signals_pass(), runs_below_here(), ExitStack() as undo:
            undo.callback(self.log.close)
            self._start = start = start_run(overrides or {}, plan)
            undo.callback(lambda: start.discard_set_up(getattr(self, "save_dir", None)))
            self.plan, self.settings = start.plan, start.plan.options
            self.checkpoint, self.report = start.plan.start.checkpoint, start.plan.start.report
            with compiler_left_out(), ray_left_out(), settings_written_whole(), details("engine/trainer: "):
                super().__init__(cfg, start.overrides, _callbacks)
            if self.args.compile:  # the compiler, which was left out, is told as well
                warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
                torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled(), warn_only=warn_only)
            start.note_folder(self.save_dir)
            if start.device is not None:
                self.device, self.world_size = start.device, torch.distributed.get_world_size()
                if start.device.type == "cuda":  # Ultralytics makes the first that is named the current one
                    torch.cuda.set_device(start.device)
            elif self.device.type == "cpu" and (threads := start.threads):
                torch.set_num_threads(threads)
            self.ddp = start.elsewhere
            fitting_batch.refuse_autobatch(self.batch_size, max(self.world_size, start.devices.processes))
            if distributed.is_rank_zero() and not self.ddp:
                self.log.open(self.save_dir / LOG_NAME, append=start.continues_log)
            undo.pop_all()  # all went well
        self.schedule = replace(self.plan.schedule, epochs=self.epochs)  # of a resumed run, the epochs are known now
        self.rates, self.steps = ScheduledRates(self.schedule), OptimizerSteps()
        self.freezer = BackboneFreezer(self.schedule)
        self.evaluation = OfficialEvaluation(self.settings.coco_eval_period, self.device)
        self.memory = meter_of(self.device)
        self.wdir = AtomicPath(self.wdir)
        self.last, self.best = self.wdir / LAST_NAME, self.wdir / BEST_NAME

    def train(self) -> None:
        """Run the training; on Ctrl-C or SIGTERM say how to go on. Extends ``train``."""
        if self._start.elsewhere:
            self._start.train_on_ranks(self)
            return
        folder = self.save_dir if distributed.is_rank_zero() else None
        with signals_pass(), refusals_of_files_explained(self.last), owning_folder(folder) as elsewhere:
            if elsewhere:
                LOGGER.warning(elsewhere.warning(self.save_dir))
            self._train()

    def _train(self) -> None:
        try:
            explained = early_end_explained(self, lambda: self._start.has_saved(self.save_dir))
            with compiler_left_out(unless=self.args.compile), self.log.capture(), explained:
                super().train()
        except BaseException:  # whatever it is, the same command must be able to start again
            self.discard_unless_saved()
            raise

    def discard_unless_saved(self) -> None:
        """Leave nothing of a run that ended before it saved anything, but the log where an error is read only there."""
        if not self._start.has_saved(self.save_dir):
            self.log.close()
            self._start.discard(keep_log=self.log.alone)

    def begin_epoch(self, epoch: int) -> None:
        """Seed, freeze and unfreeze as at the start of an epoch, counted from 0; after :meth:`set_up`."""
        self.epoch = epoch
        self._model_train()

    @property
    def progress(self) -> float:
        """Epochs done so far, fractions included."""
        return float(self.epoch + self.batches_done / len(self.train_loader))

    @property
    def iteration(self) -> int:
        """The batch that is worked on, counted from 0 over the whole run."""
        return self.epoch * len(self.train_loader) + self.batches_done - 1

    def trainable_parameters(self) -> int:
        """Number of parameters that train in this epoch."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def build_model(self, description: Yaml, verbose: bool) -> Any:
        """The task's model with a distilled backbone in row 0, built from a resolved description."""
        raise NotImplementedError

    def stock_model(self, model: Any) -> Any:
        """The same model with Ultralytics' own layers only; tensors are shared, not copied."""
        raise NotImplementedError

    def get_dataset(self) -> dict[str, Any]:
        """Extend ``get_dataset``: the description checked when the run was planned, or now if it is another one."""
        if planned := self._start.planned_data(self.args):
            return planned
        try:
            with data_sets_read_by(check_for_ultralytics):
                return super().get_dataset()  # type: ignore[no-any-return]
        except (RuntimeError, FileNotFoundError) as e:
            raise e.__cause__ if isinstance(e.__cause__, DatasetError) else DatasetError(str(e)) from e

    def get_model(self, cfg: str | Yaml | None = None, weights: nn.Module | None = None, verbose: bool = True) -> Any:
        """Build the model, start it from ``weights`` if given, and lay the distilled backbone over it."""
        with details():  # the table of layers
            model = self.build_model(self._start.description(cfg, weights), verbose)
        self.freezer.check_parts(model.backbone, model.yaml["yaml_file"])
        if weights is not None:
            model.load(weights)
            self.started_from = self.plan.start.in_memory or str(self.settings.weights or self.args.model)
        if self.checkpoint is not None:
            self.report = load_into(model.backbone, self.checkpoint, self.settings.allow_partial)
        if self.resume:
            model.backbone.left_out = tuple(model.yaml.get("kd", {}).get("left_out", ()))
        else:
            facts = (self.settings, self.schedule, self.report, self.plan.teacher, self.args.seed)
            model.yaml["kd"] = provenance(model.backbone, *facts)
        return model

    def set_model_attributes(self) -> None:
        """Extend ``set_model_attributes``: say what trains, and translate ``freeze``, which counts stock layers.

        Our own schedule is not applied here but at the start of every epoch, so that AutoBatch, which comes in between,
        measures the memory that training takes once everything trains.
        """
        super().set_model_attributes()
        facts = (self.schedule, self.report, self.started_from)
        announce(unwrap_model(self.model), *facts, resumed=bool(self.resume), patience=self.args.patience)
        if self.args.freeze is not None:
            self.args.freeze = nested_layers(unwrap_model(self.model), self.args.freeze)

    def setup_model(self) -> Any:
        """Extend ``setup_model``: a resumed run keeps its description, so that only rank 0 needs its files."""
        if self._start.state is None:
            if self.plan.start.weights is not None and self.model == self.plan.start.model:  # they are in memory
                self.model = self.get_model(self.model, self.plan.start.weights, distributed.is_rank_zero())
                return None
            if isinstance(self.model, str) and not is_yaml(self.model):
                refuse_missing(self.model)
            with stock_loading(self.settings.trust):
                return super().setup_model()
        self.model = self.get_model(self._start.state.yaml, verbose=distributed.is_rank_zero())
        return None

    def _do_train(self) -> None:
        """Extend ``_do_train``: of a run that was killed after its last epoch, only what comes after that."""
        state = self._start.state
        if state is None or not state.trained_to_the_end(self.epochs):
            super()._do_train()
            return
        self.set_up()
        self.epoch = self.start_epoch - 1
        self.final_eval()
        if distributed.is_rank_zero():
            if self.args.plots:
                self.plot_metrics()
            self.run_callbacks("on_train_end")

    def build_optimizer(self, model: nn.Module, *args: Any, **keywords: Any) -> torch.optim.Optimizer:
        """Extend ``build_optimizer``: groups split by part of the backbone, so that each has its own learning rate."""
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, *args, **keywords)
        self.rates.split(optimizer, unwrap_model(model).backbone.parts)
        return optimizer

    def _build_train_pipeline(self) -> None:
        """Extend ``_build_train_pipeline``: with new loaders, batches to a step are counted anew."""
        super()._build_train_pipeline()
        self.steps.begin(self.accumulate)

    def _setup_train(self) -> None:
        """Extend ``_setup_train``: checks, patience that waits for the unfreezing, and the record."""
        layer_freeze = self.args.freeze
        try:
            with details("Freezing layer "):
                super()._setup_train()
        finally:
            self.args.freeze = layer_freeze  # our translation must reach neither checkpoints nor a stock resume
        self.stopper = EarlyStoppingAfterUnfreeze.instead_of(self.stopper, self.schedule.frozen_epochs)
        if not self.resume:
            self.freezer.remember(unwrap_model(self.model).backbone)
        self._start.check_injected(self._backbones())
        self.evaluation.begin(self.validator, self.data)
        if not (self.resume or self.is_rehearsal):
            fitting_batch.require_fitting_batch(self)
        if distributed.is_rank_zero():
            self._record_and_hand_over()

    def _record_and_hand_over(self) -> None:
        """Write ``kdyolo.yaml`` of a new run; of a detached one, from here on all output goes to its log."""
        if not self.resume:
            facts = (self.schedule, self.report, self.started_from, self.plan.teacher)
            model_yaml = unwrap_model(self.model).yaml["yaml_file"]
            batch = fitting_batch.batch_in_use(self)
            record = run_record(self.settings, *facts, self.plan.overrides, self.args, model_yaml, batch)
            record.write(self.save_dir)
        self.log.hand_over(self.save_dir, distributed.is_distributed())

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Extend ``check_resume``: arguments come from the run's state, with the few changes that are allowed."""
        if self._start.state is None:
            super().check_resume(overrides)
            return
        changes = {k: v for k, v in overrides.items() if k in {*RESUME_MAY_CHANGE, "save_dir", "resume"}}
        self.args = get_cfg({**self._start.state.args, **changes, "model": overrides["resume"]})
        self.resume = True

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Replace ``resume_training``: from the exact state of the run, not from its checkpoint's rounded weights."""
        state, self._start.state = self._start.state, None
        if state is None:
            return
        state.apply(self)
        restore_loss_weights(unwrap_model(self.model), self.start_epoch)
        LOGGER.info(f"resuming after epoch {self.start_epoch} of {self.epochs}")

    def _backbones(self) -> dict[str, DistilledBackbone]:
        """The backbone that trains, and that of its moving average."""
        return {"model": unwrap_model(self.model).backbone, "EMA": self.ema.ema.backbone}

    def run_callbacks(self, event: str) -> None:
        """Extend ``run_callbacks``: end if told to, count batches, give loggers the learning rates really used."""
        if self._start.elsewhere:  # they are the ranks'
            return
        if event != "teardown":
            raise_if_told_to_end()
        if event == "on_train_epoch_start":
            self.batches_done = 0
        elif event == "on_train_batch_start":
            self.batches_done += 1
        elif event == "on_train_epoch_end" and not self.schedule.is_plain:
            self.lr = self.rates.logged(self.optimizer, self.epoch, self.progress, self.trainable_parameters())
        super().run_callbacks(event)

    def _model_train(self) -> None:
        """Extend ``_model_train``, where every epoch starts: seeds, and the backbone as the schedule has it."""
        super()._model_train()
        seed_epoch(self.args.seed, self.epoch, self.nan_recovery_attempts, self.train_loader)
        # Folding was measured on CPUs only; on GPUs with AMP, folded weights would also be rounded differently.
        self.freezer.apply(unwrap_model(self.model).backbone, self.epoch, fold=self.device.type == "cpu")
        if what := self.freezer.unfrozen_in(self.epoch):
            trainable = self.trainable_parameters() / 1e6
            LOGGER.info(f"epoch {self.epoch + 1}: {what} thawed, {trainable:.1f} M parameters train from now on")
        self.wrap_for_what_trains()

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Extend ``preprocess_batch``: after a resume, gradients that waited are there, and steps come when due."""
        self.steps.restore_gradients(unwrap_model(self.model), self.scaler)
        warming_up = 0 < self._get_warmup_iterations(len(self.train_loader)) >= self.iteration
        self.accumulate = self.steps.before_batch(self.iteration, self.accumulate, warming_up)
        return super().preprocess_batch(batch)  # type: ignore[no-any-return]

    def optimizer_step(self) -> None:
        """Extend ``optimizer_step``: a step with the schedule's factors on the learning rates."""
        with self.rates.applied(self.optimizer, self.progress):
            super().optimizer_step()
        self.steps.after_step(self.iteration)

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Extend ``save_metrics``: official metrics and memory in the row of ``results.csv``."""
        super().save_metrics(self.evaluation.row(metrics))

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Extend ``_handle_nan_recovery``: a frozen backbone goes back to its own tensors, not to rounded ones."""
        if distributed.is_distributed() or self.plan.teacher:  # last.pt has no projectors
            return recover_on_all_ranks(self, epoch)
        recovered = bool(super()._handle_nan_recovery(epoch))
        if recovered:
            self.steps.forget()
            for backbone in self._backbones().values():
                self.freezer.restore(backbone, self.epoch)
        return recovered

    @finished_first()
    def save_model(self) -> bool:
        """Extend ``save_model``: in the stock layout, with the state to resume from, if nothing frozen has moved."""
        self.freezer.check(self._backbones(), self.epoch, LOG_NAME)
        model, ema, epochs = self.model, self.ema.ema, self.args.epochs
        self.model, self.ema.ema = self.stock_model(unwrap_model(model)), self.stock_model(ema)
        # A stock resume knows neither schedule nor epsilon. This makes it stop with a message that says what to do.
        self.args.epochs = f"(resume this run with: kdyolo train --resume {str(self.save_dir)!r})"
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
        """Extend ``final_eval``: then nothing is left to resume."""
        super().final_eval()
        distributed.run_on_rank_zero(finish_run, Path(self.wdir))
        self.callbacks = loggers_forgiven(self.callbacks, self.save_dir)
        self._evaluated = True
