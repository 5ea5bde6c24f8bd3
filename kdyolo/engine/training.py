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

from kdyolo.checkpoints.export import finish_checkpoint
from kdyolo.checkpoints.loading import load_into
from kdyolo.engine.evaluation import OfficialEvaluation
from kdyolo.engine.memory.fitting_batch import (
    NEVER_HALVE,
    batch_in_use,
    ran_out,
    refuse_autobatch,
    require_fitting_batch,
)
from kdyolo.engine.memory.meter import is_out_of_memory, meter_of
from kdyolo.engine.optimizer import EarlyStoppingAfterUnfreeze, ScheduledRates, StepOffset
from kdyolo.engine.plan import RunPlan
from kdyolo.engine.provenance import announce, provenance, run_record
from kdyolo.engine.ranks.rank_training import RankTraining
from kdyolo.engine.resume import (
    RESUME_MAY_CHANGE,
    ResumeState,
    how_to_resume,
    recover_on_all_ranks,
    restore_loss_weights,
    seed_epoch,
)
from kdyolo.engine.run_start import start_run
from kdyolo.errors import DatasetError, KDYOLOError, RunError
from kdyolo.models.backbone import DistilledBackbone
from kdyolo.models.freezing import BackboneFreezer, nested_layers
from kdyolo.models.model_yaml import Yaml
from kdyolo.runs.files import BATCH_COLUMN, BEST_NAME, LAST_NAME, LOG_NAME, STATE_NAME
from kdyolo.runs.log_capture import RunLog
from kdyolo.runs.pid_file import owning_folder
from kdyolo.runs.results_csv import takes_column
from kdyolo.runs.results_plot import plot_results
from kdyolo.utils import distributed
from kdyolo.utils.atomic import AtomicPath
from kdyolo.utils.ultralytics_patches import as_single_process, ray_left_out, safe_load_forced


class KDTraining(RankTraining):
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
    accumulate: int
    start_epoch: int
    wdir: Path

    started_from: str | None = None
    batches_done = 0
    epoch = 0  # until the training loop says
    _is_rehearsal = False

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
        plan: RunPlan | None = None,
    ) -> None:
        self.log = RunLog()
        with ExitStack() as undo:
            undo.callback(self.log.close)
            self._start = start = start_run(overrides or {}, plan)
            undo.callback(start.discard)
            self.plan, self.settings = start.plan, start.plan.options
            self.checkpoint, self.report = start.plan.start.checkpoint, start.plan.start.report
            with ray_left_out():
                super().__init__(cfg, start.overrides, _callbacks)
            start.note_folder(self.save_dir, self.args.exist_ok)
            if start.device is not None:
                self.device, self.world_size, self.ddp = start.device, torch.distributed.get_world_size(), False
            elif self.device.type == "cpu" and (threads := start.threads):
                torch.set_num_threads(threads)
            refuse_autobatch(self.batch_size, self.world_size)
            undo.pop_all()  # all went well
        self.schedule = replace(self.plan.schedule, epochs=self.epochs)  # of a resumed run, the epochs are known now
        self.rates, self.steps = ScheduledRates(self.schedule), StepOffset()
        self.freezer = BackboneFreezer(self.schedule)
        self.evaluation = OfficialEvaluation(self.settings.coco_eval_period, self.device)
        self.memory = meter_of(self.device)
        self.wdir = AtomicPath(self.wdir)
        self.last, self.best = self.wdir / LAST_NAME, self.wdir / BEST_NAME
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
                    LOGGER.info(how_to_resume(self.last))
                    raise
                except RuntimeError as e:
                    if not is_out_of_memory(e):
                        raise
                    advice = ran_out(self, self.epoch, self.save_dir)
                    if not distributed.is_rank_zero():  # whose error is not shown, and the first rank has none
                        LOGGER.error(advice)
                    raise RunError(advice) from e
        except KDYOLOError:
            if not self.last.exists():  # bad input, found while setting up
                self._start.discard()
            raise

    def set_up(self) -> None:
        """Build model, data loaders and optimizer as for a training, and train nothing."""
        self._is_rehearsal = True
        self._setup_train()

    def begin_epoch(self, epoch: int) -> None:
        """Seed, freeze and unfreeze as at the start of an epoch, counted from 0; after :meth:`set_up`."""
        self.epoch = epoch
        self._model_train()

    @property
    def progress(self) -> float:
        """Epochs done so far, fractions included."""
        return float(self.epoch + self.batches_done / len(self.train_loader))

    def trainable_parameters(self) -> int:
        """Number of parameters that train in this epoch."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def build_model(self, description: Yaml, verbose: bool) -> Any:
        """The task's model with a distilled backbone in row 0, built from a resolved description."""
        raise NotImplementedError

    def stock_model(self, model: Any) -> Any:
        """The same model with Ultralytics' own layers only; tensors are shared, not copied."""
        raise NotImplementedError

    def densest_batch(self, images: int) -> dict[str, Any]:
        """A batch that takes as much memory as any of the run, on the device; drawn from no random state in use."""
        raise NotImplementedError

    def get_dataset(self) -> dict[str, Any]:
        """Extend ``get_dataset``: the description checked when the run was planned, or now if it is another one."""
        if planned := self._start.planned_data(self.args):
            return planned
        try:
            return super().get_dataset()  # type: ignore[no-any-return]
        except (RuntimeError, FileNotFoundError) as e:
            raise DatasetError(str(e)) from e

    def get_model(self, cfg: str | Yaml | None = None, weights: nn.Module | None = None, verbose: bool = True) -> Any:
        """Build the model, start it from ``weights`` if given, and lay the distilled backbone over it."""
        model = self.build_model(self._start.description(cfg, weights), verbose)
        self.freezer.check_parts(model.backbone, model.yaml["yaml_file"])
        if weights is not None:
            model.load(weights)
            self.started_from = str(self.settings.weights or self.args.model)
        if self.checkpoint is not None:
            self.report = load_into(model.backbone, self.checkpoint, self.settings.allow_partial)
        if self.resume:
            model.backbone.left_out = tuple(model.yaml.get("kd", {}).get("left_out", ()))
        else:
            facts = (self.settings, self.schedule, self.report, self.args.seed)
            model.yaml["kd"] = provenance(model.backbone, *facts)
        return model

    def set_model_attributes(self) -> None:
        """Extend ``set_model_attributes``: translate ``freeze``, which counts stock layers and comes next.

        Our own schedule is not applied here but at the start of every epoch, so that AutoBatch, which comes in between,
        measures the memory that training takes once everything trains.
        """
        super().set_model_attributes()
        if self.args.freeze is not None:
            self.args.freeze = nested_layers(unwrap_model(self.model), self.args.freeze)

    def setup_model(self) -> Any:
        """Extend ``setup_model``: a resumed run keeps its description, so that only rank 0 needs its files."""
        if self._start.state is None:
            if self.plan.start.weights is not None and self.model == self.plan.start.model:  # they are in memory
                self.model = self.get_model(self.model, self.plan.start.weights, distributed.is_rank_zero())
                return None
            with safe_load_forced(self.settings.trust):
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

    def _setup_train(self) -> None:
        """Extend ``_setup_train``: checks, patience that waits for the unfreezing, the plan and the record."""
        layer_freeze = self.args.freeze
        try:
            super()._setup_train()
        finally:
            self.args.freeze = layer_freeze  # our translation must reach neither checkpoints nor a stock resume
        self.stopper = EarlyStoppingAfterUnfreeze.instead_of(self.stopper, self.schedule.frozen_epochs)
        if not self.resume:
            self.freezer.remember(unwrap_model(self.model).backbone)
        self._start.check_injected(self._backbones())
        self.evaluation.begin(self.validator, self.data)
        if not (self.resume or self._is_rehearsal):
            require_fitting_batch(self)
        facts = (self.schedule, self.report, self.started_from)
        announce(unwrap_model(self.model), *facts, resumed=bool(self.resume), patience=self.args.patience)
        if distributed.is_rank_zero():
            self._record_and_hand_over()

    def _record_and_hand_over(self) -> None:
        """Write ``kdyolo.yaml`` of a new run; of a detached one, from here on all output goes to its log."""
        if not self.resume:
            facts = (self.schedule, self.report, self.started_from)
            model_yaml = unwrap_model(self.model).yaml["yaml_file"]
            run_record(self.settings, *facts, self.plan.overrides, self.args, model_yaml, batch_in_use(self)).write(
                self.save_dir
            )
        self.log.hand_over(self.save_dir, distributed.is_distributed())

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Extend ``check_resume``: arguments come from the run's state, with the few changes that are allowed."""
        if self._start.state is None:
            super().check_resume(overrides)
            return
        changes = {k: v for k, v in overrides.items() if k in {*RESUME_MAY_CHANGE, "save_dir"}}
        last = overrides["resume"]
        self.args = get_cfg({**self._start.state.args, **changes, "model": last, "resume": last})
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
        """Extend ``run_callbacks``: count batches, never halve them, and give loggers the rates really used."""
        if event == "on_train_epoch_start":
            self.batches_done = 0
        elif event == "on_train_batch_start":
            self.batches_done += 1
            self._oom_retries = NEVER_HALVE  # so that out of memory ends the run in its first epoch too
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
        self.accumulate = self.steps.before_batch(unwrap_model(self.model), self.accumulate)
        return super().preprocess_batch(batch)  # type: ignore[no-any-return]

    def optimizer_step(self) -> None:
        """Extend ``optimizer_step``: a step with the schedule's factors on the learning rates."""
        with self.rates.applied(self.optimizer, self.progress):
            super().optimizer_step()
        iteration = self.epoch * len(self.train_loader) + self.batches_done - 1
        self.accumulate = self.steps.after_step(iteration, self.accumulate)

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        """Extend ``save_metrics``: official metrics, memory and the batch in the row of ``results.csv``."""
        batch = {BATCH_COLUMN: batch_in_use(self)} if takes_column(self.csv, BATCH_COLUMN) else {}
        super().save_metrics({**self.evaluation.row(metrics), **batch})

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Extend ``_handle_nan_recovery``: a frozen backbone goes back to its own tensors, not to rounded ones."""
        if distributed.is_distributed():
            return recover_on_all_ranks(self, epoch)
        recovered = bool(super()._handle_nan_recovery(epoch))
        if recovered:
            for backbone in self._backbones().values():
                self.freezer.restore(backbone, self.epoch)
        return recovered

    def save_model(self) -> bool:
        """Extend ``save_model``: in the stock layout, with the state to resume from, if nothing frozen has moved."""
        self.freezer.check(self._backbones(), self.epoch, LOG_NAME)
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
