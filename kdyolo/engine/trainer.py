"""Where schedule, model and run meet: Ultralytics' trainer with a distilled backbone that freezes and thaws."""

from __future__ import annotations

import shutil
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn
from ultralytics.cfg import get_cfg, get_save_dir
from ultralytics.data import build_dataloader
from ultralytics.models.rtdetr.train import RTDETRTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT, LOGGER
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo.checkpoints.export import finish_checkpoint
from kdyolo.checkpoints.load_report import LoadReport
from kdyolo.checkpoints.loading import changed_tensors, checkpoint_arch, load_into
from kdyolo.checkpoints.reader import BackboneCheckpoint
from kdyolo.engine import distributed
from kdyolo.engine.evaluation import EvaluatedTrainer
from kdyolo.engine.optimizer import EarlyStoppingAfterUnfreeze
from kdyolo.engine.options.train_options import STRETCH
from kdyolo.engine.options.validation import split_options
from kdyolo.engine.plan import check_data, fitting_backbone, new_work_dir
from kdyolo.engine.provenance import announce, provenance, write_record
from kdyolo.engine.resume import (
    RESUME_MAY_CHANGE,
    read_state,
    restore_state,
    resumed_settings,
    save_state,
    seed_epoch,
    state_to_resume,
    trained_to_the_end,
)
from kdyolo.errors import ConfigError, DatasetError, KDYOLOError, RunError
from kdyolo.models.detector import KDDetectionModel, resolve_description, to_stock
from kdyolo.models.freezing import apply_schedule
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


class KDTrainer(EvaluatedTrainer):
    """Trains a detector whose backbone comes from a distillation checkpoint and may be frozen at first.

    Takes every Ultralytics setting, and kdyolo's own
    (:class:`kdyolo.engine.options.train_options.TrainOptions`) among the same overrides.
    Works as ``YOLO("yolov8n.yaml").train(trainer=KDTrainer, backbone="ckpt.pth", freeze_epochs=50, data=…)`` too.

    Args:
        cfg: Ultralytics' defaults.
        overrides: Settings that differ from them, kdyolo's among them.
        _callbacks: Event → functions.
        checkpoint: What ``backbone`` names, read as the settings ask, if whoever makes the trainer has it already.

    Raises:
        KDYOLOError: Options, checkpoint, model or data are not what they should be; nothing is left behind.
    """

    # Set by Ultralytics' trainer, which carries no type information.
    stopper: Any
    wdir: Path
    start_epoch: int
    amp: bool

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
        checkpoint: BackboneCheckpoint | None = None,
    ) -> None:
        self.report: LoadReport | None = None
        self.checkpoint: BackboneCheckpoint | None = None
        self.started_from: str | None = None  # weights of a whole detector
        self.frozen_tensors: dict[str, torch.Tensor] = {}  # the frozen backbone, as it was when training started
        self._state: dict[str, Any] = {}  # what a resumed run goes on from
        self.asked: dict[str, Any] = {}  # settings for Ultralytics as they were given, before it adjusts any
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
            elif self.device.type == "cpu" and (threads := self._state.get("threads", cpu_threads())):
                torch.set_num_threads(threads)  # a resumed run goes on with as many: sums are rounded accordingly
        except BaseException:
            self.log.close()
            self._remove_what_was_created()
            raise
        self.schedule = self.settings.schedule(self.epochs)
        self.wdir = AtomicPath(self.wdir)
        self.last, self.best = self.wdir / "last.pt", self.wdir / "best.pt"
        if distributed.is_rank_zero() and not self.ddp:
            self.log.open(self.save_dir / LOG_NAME, append=bool(self.resume))

    def train(self) -> None:
        """Run the training; on Ctrl-C or SIGTERM say how to go on."""
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

    # ---- set-up --------------------------------------------------------------------------------------------------

    def get_dataset(self) -> dict[str, Any]:
        """The data set's description, checked."""
        try:
            return super().get_dataset()  # type: ignore[no-any-return]
        except (RuntimeError, FileNotFoundError) as e:
            raise DatasetError(str(e)) from e

    def get_model(
        self, cfg: str | Yaml | None = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> KDDetectionModel:
        """Build the detector, start it from ``weights`` if given, and lay the distilled backbone over it."""
        arch = checkpoint_arch(self.checkpoint, family_of(cfg)) if self.checkpoint else None
        eps = self.checkpoint.bn_eps if self.checkpoint else None
        description = resolve_description(cfg, weights, arch, eps)
        model = KDDetectionModel(description, ch=self.data["channels"], nc=self.data["nc"], verbose=verbose)
        if unknown := self.schedule.named_parts - model.backbone.parts.keys():
            raise ConfigError(
                f"unfreeze_stages names {', '.join(sorted(unknown))}, which {model.yaml['yaml_file']} does not have; "
                f"its parts are {', '.join(model.backbone.parts)}."
            )
        self.set_model_names_for_load(model)
        if weights is not None:
            model.load(weights)
            self.started_from = str(self.settings.weights or self.args.model)
        if self.checkpoint is not None:
            self.report = load_into(model.backbone, self.checkpoint, self.settings.allow_partial)
        if self.resume:
            model.backbone.left_out = tuple(model.yaml.get("kd", {}).get("left_out", ()))
        else:
            model.yaml["kd"] = provenance(self, model)
        return model

    def set_model_attributes(self) -> None:
        """Ultralytics' attributes; and its layer ``freeze``, which counts stock layers and comes next, in our terms.

        Our own schedule is not applied here but at the start of every epoch, so that AutoBatch, which comes in between,
        measures the memory that training takes after the thaw.
        """
        super().set_model_attributes()
        if self.args.freeze is not None:
            stock = range(self.args.freeze) if isinstance(self.args.freeze, int) else self.args.freeze
            self.args.freeze = [_nested_place(unwrap_model(self.model), str(layer)) for layer in stock]

    def setup_model(self) -> Any:
        """Build the model; a resumed run's from its kept description, so that only rank 0 needs its files."""
        if not self._state:
            with restricted_ultralytics(self.settings.trust):
                return super().setup_model()
        self.model = self.get_model(self._state["yaml"], verbose=distributed.is_rank_zero())
        return None

    def _do_train(self) -> None:
        """Ultralytics' loop; of a run that was killed after its last epoch, only what comes after that."""
        if not (self._state and trained_to_the_end(self._state, self.epochs)):
            super()._do_train()
            return
        self._setup_train()
        self.epoch = self.start_epoch - 1
        self.final_eval()
        if distributed.is_rank_zero():
            if self.args.plots:
                self.plot_metrics()
            self.run_callbacks("on_train_end")

    def _setup_ddp(self) -> None:
        """Nothing: the process group was joined before anything else."""

    def _build_train_pipeline(self) -> None:
        self.world_size = torch.distributed.get_world_size() if distributed.is_distributed() else self.world_size
        super()._build_train_pipeline()

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
        """Ultralytics' data set; with ``resize=stretch`` the one of RT-DETR, which stretches."""
        build = RTDETRTrainer.build_dataset if self.settings.resize == STRETCH else DetectionTrainer.build_dataset
        return build(self, img_path, mode, batch)

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """Ultralytics' loader; for evaluation one with all images, since rank 0 evaluates alone."""
        loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
        if mode == "train" or not distributed.is_distributed():
            return loader
        workers = self.args.workers * 2
        return build_dataloader(loader.dataset, batch_size, workers, shuffle=False, rank=-1, device=self.device)

    def _setup_train(self) -> None:
        layer_freeze = self.args.freeze
        # Ultralytics would wrap the model now, for a GPU and for what trains now; `_model_train` does it instead.
        world_size, self.world_size = self.world_size, 0
        try:
            super()._setup_train()
        finally:
            self.args.freeze = layer_freeze  # our translation must reach neither checkpoints nor a stock resume
            self.world_size = world_size
        if distributed.is_distributed():
            self.amp = distributed.broadcast(self.amp)  # decided on rank 0
            self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp and self.args.amp != "bf16")
        progress = {k: getattr(self.stopper, k) for k in ("best_fitness", "best_epoch")}
        self.stopper = EarlyStoppingAfterUnfreeze(self.args.patience, self.schedule.frozen_epochs)
        self.stopper.__dict__.update(progress)
        if not self.resume and self.schedule.frozen_parts(0):
            tensors = unwrap_model(self.model).backbone.layers.state_dict().items()
            self.frozen_tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors}
        self._check_injected()
        self.prepare_evaluation()
        announce(self)
        if distributed.is_rank_zero():
            if not self.resume:
                write_record(self)
            if output := detach.output_file():
                if distributed.is_distributed():
                    LOGGER.info(f"what torchrun and the other ranks print: {output}")
                self.log.take_over()
                detach.tell_begun(self.save_dir)

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Take the arguments of an interrupted run from its state, with the few changes that are allowed."""
        if not self._state:
            super().check_resume(overrides)
            return
        changes = {k: v for k, v in overrides.items() if k in {*RESUME_MAY_CHANGE, "save_dir"}}
        last = overrides["resume"]
        self.args = get_cfg({**self._state["args"], **changes, "model": last, "resume": last})
        self.resume = True

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Go on from the exact state of the run, not from the rounded weights of its checkpoint."""
        if not self._state:
            return
        restore_state(self, self._state)
        self._state = {}
        model = unwrap_model(self.model)
        if hasattr(model.model[-1], "one2one_cv2"):  # how the two losses of end-to-end heads are weighted
            model.criterion = model.init_criterion()
            model.criterion.updates = self.start_epoch - 1
            model.criterion.update()
        LOGGER.info(f"resuming after epoch {self.start_epoch} of {self.epochs}")

    def _check_injected(self) -> None:
        """Compare the backbone that will train, and its EMA, with the file, bit for bit."""
        if self.checkpoint is None:
            return
        for what, model in (("model", unwrap_model(self.model)), ("EMA", self.ema.ema)):
            if names := changed_tensors(model.backbone, self.checkpoint.tensors):
                raise RunError(
                    f"after set-up, {len(names)} backbone tensors of the {what} differ from those in "
                    f"{self.checkpoint.path.name}, e.g. {names[0]}. This is a bug: please report it with {LOG_NAME}."
                )

    def _frozen_now(self) -> dict[str, torch.Tensor]:
        """What the tensors of the parts that are frozen in this epoch were when training started."""
        frozen = unwrap_model(self.model).backbone.names_in(self.schedule.frozen_parts(self.epoch))
        return {name: tensor for name, tensor in self.frozen_tensors.items() if name in frozen}

    def _check_frozen(self) -> None:
        """Compare what is frozen, in the model and in its EMA, with what it was when training started, bit for bit."""
        frozen = self._frozen_now()
        for what, model in (("model", unwrap_model(self.model)), ("EMA", self.ema.ema)):
            if names := changed_tensors(model.backbone, frozen):
                raise RunError(
                    f"in epoch {self.epoch + 1}, {len(names)} tensors of the frozen backbone changed in the {what}, "
                    f"e.g. {names[0]}. Does a callback touch the model? If not, please report it with {LOG_NAME}."
                )

    # ---- each epoch ----------------------------------------------------------------------------------------------

    def _model_train(self) -> None:
        """Train mode, and then the backbone as the schedule has it; called at every start of an epoch."""
        super()._model_train()
        seed_epoch(self)
        if not self.schedule.is_plain:
            self._apply_schedule()
        trains = tuple(p.requires_grad for p in self.model.parameters())
        if distributed.is_distributed() and trains != self._wrapped_for:
            self.model = distributed.wrap_ddp(self.model, self.device, bool(self.args.compile))
            self._wrapped_for = trains

    def _apply_schedule(self) -> None:
        backbone = unwrap_model(self.model).backbone
        apply_schedule(backbone.parts, self.schedule, self.epoch)
        # Measured on CPUs only; on GPUs with AMP, folded weights would also be rounded differently.
        backbone.set_folded(self.device.type == "cpu" and self.schedule.is_frozen(self.epoch))
        if thawed := self.schedule.thaws.get(self.epoch):
            what = "backbone" if self.schedule.groups()[thawed[0]] == "backbone" else ", ".join(thawed)
            trainable = self.trainable_parameters() / 1e6
            LOGGER.info(f"epoch {self.epoch + 1}: {what} thawed, {trainable:.1f} M parameters train from now on")

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Ultralytics' return to ``last.pt`` after NaN; a frozen backbone goes back to its own, unrounded tensors."""
        if distributed.is_distributed():
            return self._recover_on_all_ranks(epoch)
        recovered = bool(super()._handle_nan_recovery(epoch))
        if recovered:
            for model in (unwrap_model(self.model), self.ema.ema):
                model.backbone.layers.load_state_dict(self._frozen_now(), strict=False)  # the frozen parts' own only
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
        restore_state(self, distributed.run_on_rank_zero(read_state, self.last))
        self.start_epoch, self.accumulated, self.scheduler.last_epoch = start_epoch, None, epoch - 1
        return True

    def save_model(self) -> bool:
        """Write the epoch's checkpoints, in the stock layout, once a frozen backbone has proved untouched."""
        self._check_frozen()
        model, ema, epochs = self.model, self.ema.ema, self.args.epochs
        self.model, self.ema.ema = to_stock(unwrap_model(model)), to_stock(ema)  # tensors are shared, not copied
        # A stock resume knows neither schedule nor epsilon. This makes it stop with a message that says what to do.
        self.args.epochs = f"(resume this run with: kdyolo train --resume {self.save_dir})"
        (self.wdir / STATE_NAME).touch()  # weights without it are those of a run that has ended; it is filled below
        try:
            saved = bool(super().save_model())
        finally:
            self.model, self.ema.ema, self.args.epochs = model, ema, epochs
        save_state(self)
        return saved

    def plot_metrics(self) -> None:
        """Ultralytics' ``results.png``; of a run with a freeze, our own, which shows it."""
        if self.schedule.ever_frozen:
            self.on_plot(plot_results(self.csv, self.schedule))
        else:
            super().plot_metrics()

    def final_eval(self) -> None:
        """Ultralytics' last validation, and then the finished stock checkpoints; on rank 0."""
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


def _nested_place(model: KDDetectionModel, layer: str) -> str:
    """``"21.cv1"``, a place in the stock layout → the same place in this model."""
    number, dot, inner = layer.partition(".")
    return f"{model.nested_layer(int(number)) if number.isdigit() else number}{dot}{inner}"


def _numbered_dir(overrides: dict[str, Any]) -> str:
    """The run folder as Ultralytics would name it."""
    return str(get_save_dir(get_cfg(DEFAULT_CFG_DICT, overrides)))
