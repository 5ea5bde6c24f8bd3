"""State of an interrupted run, from which resuming gives, bit for bit, what never stopping gives.

Ultralytics' checkpoints keep the EMA in fp16 only. ``weights/resume.pt`` keeps model and EMA in full precision,
optimizer, scaler, early stopping, half-accumulated gradients, and which images mosaic draws from. Random numbers need
no keeping: every epoch starts from seeds that follow from the run's seed and the epoch (see :func:`seed_epoch`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo.checkpoints.safe_load import load_content
from kdyolo.engine.optimizer import OptimizerSteps, load_optimizer_state
from kdyolo.engine.options.train_options import OPTION_NAMES, TrainOptions
from kdyolo.engine.options.ultralytics_settings import setting_mistakes
from kdyolo.errors import CheckpointError, ConfigError, RunError
from kdyolo.models.freezing import BackboneFreezer
from kdyolo.models.model_yaml import Yaml
from kdyolo.runs.contents.forms import StateForm
from kdyolo.runs.contents.readers import check_state, damage_explained, state_damaged
from kdyolo.runs.files import BEST_NAME, LAST_NAME, STATE_NAME, run_folder_of, weights_file
from kdyolo.runs.history import read_run
from kdyolo.runs.lifecycle.options import wrong_kinds
from kdyolo.runs.pid_file import refuse_running
from kdyolo.runs.results_csv import drop_rows_after
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.distributed import shared_evenly
from kdyolo.utils.text import plural, quoted, shell_word

RESUME_MAY_CHANGE = frozenset({"device", "workers", "epochs"})
PLUMBING = frozenset({"resume", "model", "task", "mode", "pretrained"})  # set by Ultralytics' own model.train()


class Resumable(Protocol):
    """What a trainer has that its state is captured from and applied to.

    Attributes:
        model: Model that trains, wrapped or not.
        ema: Ultralytics' moving average of it.
        optimizer: Optimizer of the model.
        scaler: Gradient scaler of mixed precision.
        stopper: Ultralytics' early stopping.
        train_loader: Loader of the training images.
        args: Ultralytics' settings.
        settings: kdyolo's own options.
        steps: Optimizer steps, and gradients that wait for one.
        freezer: Frozen tensors, as they were when training started.
        epoch: Epoch that has just ended, from 0.
        start_epoch: Epoch that this process begins with, from 0.
        best_fitness: Highest fitness so far; None before the first evaluation.
        stop: Whether the run ends after this epoch.
        csv: The run's ``results.csv``.
        world_size: Number of ranks; 0 or 1 for a single one.
        batch_size: Images in a batch as Ultralytics was told, for all ranks together.
    """

    world_size: int
    batch_size: int
    model: Any
    ema: Any
    optimizer: Any
    scaler: Any
    stopper: Any
    train_loader: Any
    args: Any
    settings: TrainOptions
    steps: OptimizerSteps
    freezer: BackboneFreezer
    epoch: int
    start_epoch: int
    best_fitness: float | None
    stop: bool
    csv: Path


@dataclass(frozen=True, kw_only=True, eq=False)
class ResumeState:
    """Everything that a run continues from: the content of ``weights/resume.pt``, whose keys are these fields.

    Attributes:
        epoch: Last epoch that was saved, from 0.
        yaml: Resolved description of the model, in the kdyolo layout.
        settings: kdyolo's own options, as plain data.
        args: Ultralytics' settings.
        model: Tensors of the model by name.
        ema: Tensors of its moving average by name.
        updates: Number of updates of the moving average.
        optimizer: State of the optimizer.
        scaler: State of the gradient scaler; empty where it is off.
        threads: Threads that torch computed with on the CPU; None in files of older versions.
        best_fitness: Highest fitness so far; None before the first evaluation.
        stopper: Best fitness and its epoch, as early stopping knows them.
        last_step: Iteration of the last optimizer step, counted from the start of the run.
        stop: Whether early stopping ended the run with this epoch.
        ranks: Number of ranks that trained; None in files of older versions, like the next three.
        images: Images in a batch of all ranks together.
        batches: Batches in an epoch, by which ``last_step`` counts.
        train_images: Number of training images.
        gradients: Gradients that have accumulated since the last step, by parameter name; ``scaler`` has their scale.
        frozen_tensors: Tensors of the backbone as they were when training started; empty if it did not start frozen.
        mosaic_buffer: Indices of the images that mosaic draws from.
    """

    epoch: int
    yaml: Yaml
    settings: dict[str, Any]
    args: dict[str, Any]
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    updates: int
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    threads: int | None = None
    best_fitness: float | None
    stopper: dict[str, Any]
    last_step: int
    stop: bool = False
    ranks: int | None = None
    images: int | None = None
    batches: int | None = None
    train_images: int | None = None
    gradients: dict[str, Tensor]
    frozen_tensors: dict[str, Tensor]
    mosaic_buffer: list[int]

    @classmethod
    def capture(cls, trainer: Resumable) -> ResumeState:
        """The state of a trainer at the end of an epoch. Tensors are shared with it, not copied: save at once."""
        model = unwrap_model(trainer.model)
        return cls(
            epoch=trainer.epoch,
            yaml=model.yaml,
            settings=trainer.settings.to_dict(),
            args={k: v for k, v in vars(trainer.args).items() if k != "resume"},
            model=model.state_dict(),
            ema=trainer.ema.ema.state_dict(),
            updates=trainer.ema.updates,
            optimizer=trainer.optimizer.state_dict(),
            scaler=trainer.scaler.state_dict(),
            threads=torch.get_num_threads(),
            best_fitness=None if trainer.best_fitness is None else float(trainer.best_fitness),
            stopper={"best_fitness": float(trainer.stopper.best_fitness), "best_epoch": trainer.stopper.best_epoch},
            last_step=trainer.steps.last_step,
            stop=bool(trainer.stop),
            ranks=max(trainer.world_size, 1),
            images=shared_evenly(trainer.batch_size, trainer.world_size),
            batches=len(trainer.train_loader),
            train_images=len(trainer.train_loader.dataset),
            gradients={n: p.grad for n, p in model.named_parameters() if p.grad is not None},
            frozen_tensors=trainer.freezer.frozen_tensors,
            mosaic_buffer=list(getattr(trainer.train_loader.dataset, "buffer", [])),
        )

    def save(self, path: Path) -> None:
        """Write the state, completely or not at all."""
        buffer = BytesIO()
        torch.save({field.name: getattr(self, field.name) for field in fields(self)}, buffer)
        write_atomic(path, buffer.getbuffer(), flush=True)

    @classmethod
    def load(cls, path: Path) -> ResumeState:
        """Read a state, all tensors to the CPU.

        Raises:
            RunError: The file is damaged.
        """
        try:
            content, _ = load_content(path, lambda found: found.data, map_large=False)
        except CheckpointError as e:
            raise state_damaged(path, str(e).removeprefix(f"{path}: ")) from e
        check_state(path, content, StateForm)
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})

    def apply(self, trainer: Resumable) -> None:
        """Put a trainer that has been set up to the end of the epoch that was saved.

        Raises:
            RunError: Training images were added or are missing, on this number of ranks a batch would have another size
                than those of the run, or what the state holds does not go into this trainer.
        """
        if self.train_images not in (None, found := len(trainer.train_loader.dataset)):
            raise RunError(
                f"cannot resume: the run has {plural(self.train_images, 'training image')}, here there are {found}. "
                "Put back what is missing (the scan above names what it left out) or remove what was added, or start "
                "a new run."
            )
        last_step = self._last_step_in(trainer)
        with damage_explained(weights_file(trainer.csv.parent, STATE_NAME)):
            unwrap_model(trainer.model).load_state_dict(self.model)
            trainer.ema.ema.load_state_dict(self.ema)
            trainer.ema.updates = self.updates
            load_optimizer_state(trainer.optimizer, self.optimizer)
            if self.scaler:
                trainer.scaler.load_state_dict(self.scaler)
        trainer.best_fitness = self.best_fitness
        trainer.stopper.__dict__.update(self.stopper)
        trainer.freezer.frozen_tensors = self.frozen_tensors
        trainer.start_epoch = self.epoch + 1
        trainer.steps.resume(last_step, self.gradients, self.scaler.get("scale", 1.0))
        for index in self.mosaic_buffer:  # mosaic draws from the images loaded last; loading them puts them there
            trainer.train_loader.dataset.load_image(index)
        if RANK in {-1, 0}:
            drop_rows_after(trainer.csv, trainer.start_epoch)

    def _last_step_in(self, trainer: Resumable) -> int:
        """Iteration of the last optimizer step, as the loader of this trainer counts."""
        epochs, batches = self.epoch + 1, len(trainer.train_loader)
        here, images = max(trainer.world_size, 1), shared_evenly(trainer.batch_size, trainer.world_size)
        if self.ranks is None or self.images is None or self.batches is None:
            if self.last_step < epochs * batches:
                return self.last_step
            raise RunError(
                f"cannot resume on {plural(here, 'rank')}: {epochs} epochs have {epochs * batches} batches here, but "
                f"the run made a step after batch {self.last_step + 1}. Resume it on as many ranks as it had."
            )
        if images != self.images:
            raise RunError(
                f"cannot resume on {plural(here, 'rank')}: a batch of this run has {plural(self.images, 'image')} "
                f"({plural(self.ranks, 'rank')} with {self.images // self.ranks} each), here it would have {images} "
                f"({plural(here, 'rank')} with {images // here} each). Resume it on {plural(self.ranks, 'rank')}."
            )
        if (here, batches) != (self.ranks, self.batches):
            LOGGER.warning(
                f"interrupted on {plural(self.ranks, 'rank')} with {self.batches} batches an epoch, resumed on {here} "
                f"with {batches}: steps come when due, but results are not those of an uninterrupted run"
            )
        return self.last_step + epochs * (batches - self.batches)

    def trained_to_the_end(self, epochs: int) -> bool:
        """Whether a run of this length was killed after its last epoch, so that only the final evaluation is left."""
        return bool(self.epoch + 1 >= epochs or (self.stop and epochs == self.args["epochs"]))


def read_state(last: Path) -> ResumeState:
    """The state kept beside a ``last.pt``.

    Raises:
        RunError: There is none, because the run is finished, not one of kdyolo's, or incompletely copied.
    """
    path = last.parent / STATE_NAME
    if not last.is_file():
        raise RunError(
            f"cannot resume: {last} is no file. Expected the folder of an interrupted run, or the weights/last.pt "
            "in it."
        )
    if path.is_file() and not path.stat().st_size:
        raise RunError(
            f"{last} cannot be resumed: the run was killed while its first epoch was saved. Start it again with "
            "--exist-ok."
        )
    if not path.is_file():
        raise RunError(
            f"{last} cannot be resumed: there is no {STATE_NAME} beside it. Either the run is finished (then start a "
            f"new one, e.g. with --weights {shell_word(last)}), or it is not one of kdyolo's, or {STATE_NAME} was not "
            "copied along."
        )
    return ResumeState.load(path)


def state_to_resume(last: Path) -> ResumeState:
    """The state of a run that no process works on.

    Raises:
        RunError: The run is going on, or see :func:`read_state`.
    """
    try:
        folder = run_folder_of(last.resolve())
    except (RuntimeError, OSError) as e:  # Python before 3.13 has a RuntimeError for links in a circle
        raise RunError(f"{last} cannot be resumed: a link leads nowhere ({quoted(e)}). Name the run itself.") from e
    refuse_running(folder)
    state = read_state(last)
    read_run(folder)  # so that a damaged file in it is found before anything is set up
    return state


def finish_run(weights: Path) -> None:
    """Leave nothing to resume, once everything else is done.

    Args:
        weights: The run's folder of weights.
    """
    (weights / STATE_NAME).unlink(missing_ok=True)
    LOGGER.info(f"weights: {weights / BEST_NAME} and {LAST_NAME} are plain Ultralytics checkpoints")


def seed_epoch(seed: int, epoch: int, attempt: int, loader: Any) -> None:
    """Start an epoch from seeds that follow from the run's seed, the epoch and the attempt (after NaN, another one).

    Without worker processes (on CPU always) data order and augmentation of an epoch then do not depend on what happened
    before it. Worker processes draw ahead and keep their own state.

    Args:
        seed: Seed of the run.
        epoch: Epoch, from 0.
        attempt: How often this epoch was tried before.
        loader: Loader of the training images.
    """
    drawn = int(np.random.SeedSequence([seed, epoch, attempt, max(RANK, 0)]).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)
    if loader.num_workers == 0 and isinstance(loader.sampler, torch.utils.data.RandomSampler):
        loader.sampler.generator = torch.Generator().manual_seed(
            drawn
        )  # its own: a loader draws from its generator too
        loader.reset()


def restore_loss_weights(model: Any, epochs: int) -> None:
    """Weight the two losses of an end-to-end head as they are after so many epochs; other heads have nothing to weight.

    Args:
        model: Model that trains, not wrapped.
        epochs: Number of finished epochs.
    """
    if hasattr(model.model[-1], "one2one_cv2"):
        model.criterion = model.init_criterion()
        model.criterion.updates = epochs - 1
        model.criterion.update()


def _odd_settings(args: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """What is wrong with settings that a state has kept, a sentence or two each."""
    unknown = [f"unknown option {quoted(name)}." for name in options if name not in OPTION_NAMES]
    words = ("freeze_epochs", "unfreeze_stages")  # the schedule reads these
    kinds = wrong_kinds({k: v for k, v in options.items() if k in OPTION_NAMES and k not in words}, TrainOptions)
    epochs = [] if type(args.get("epochs")) is int else [f"epochs is {quoted(args.get('epochs'))}."]
    return [*unknown, *kinds.values(), *epochs, *setting_mistakes(args)]


def resumed_settings(overrides: Mapping[str, Any], state: ResumeState) -> tuple[TrainOptions, dict[str, Any]]:
    """Settings of the run to resume, and the few overrides that may change.

    Args:
        overrides: Keywords as given to ``train``, ``resume`` with the run's ``last.pt`` among them.
        state: State of the run.

    Raises:
        ConfigError: A setting that may not change on resume, or a run made shorter.
    """
    last, saved, settings = Path(str(overrides["resume"])), state.args, state.settings
    changed = [
        key
        for key, value in overrides.items()
        if key not in {*PLUMBING, *RESUME_MAY_CHANGE} and value not in (None, saved.get(key), settings.get(key))
    ]
    mistakes = []
    if odd := _odd_settings(saved, settings):
        raise state_damaged(last.parent / STATE_NAME, f"its settings: {' '.join(odd)}")
    if changed:
        mistakes.append(
            f"a resumed run keeps its settings; {', '.join(changed)} cannot change "
            f"(only {', '.join(sorted(RESUME_MAY_CHANGE))} can). Start a new run instead."
        )
    epochs = overrides.get("epochs") or saved["epochs"]
    if epochs < saved["epochs"]:
        mistakes.append(
            f"a resumed run can be made longer, not shorter: it has {saved['epochs']} epochs, not {epochs}."
        )
    if mistakes:
        raise ConfigError(mistakes)
    kept = {k: v for k, v in overrides.items() if k in {*PLUMBING, *RESUME_MAY_CHANGE} and v is not None}
    return TrainOptions(**settings), {**kept, "save_dir": str(run_folder_of(last.resolve()))}
