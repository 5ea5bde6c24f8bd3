"""Interrupted runs: what is kept beside ``last.pt``, so that going on gives, bit for bit, what never stopping gives.

Ultralytics' checkpoints keep the EMA in fp16 only. ``weights/resume.pt`` keeps model and EMA in full precision,
optimizer, scaler, early stopping, half-accumulated gradients, and which images mosaic draws from. Random numbers need
no keeping: every epoch starts from seeds that follow from the run's seed and the epoch (see :func:`seed_epoch`).
"""

from __future__ import annotations

import csv
import pickle
import random
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ultralytics.utils import RANK
from ultralytics.utils.torch_utils import unwrap_model

from kdyolo.engine.options.train_options import TrainOptions
from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.files import STATE_NAME, run_folder_of
from kdyolo.runs.pid_file import refuse_running
from kdyolo.utils.atomic import AtomicPath

if TYPE_CHECKING:
    from kdyolo.engine.trainer import KDTrainer
RESUME_MAY_CHANGE = frozenset({"device", "workers", "epochs"})
PLUMBING = frozenset({"resume", "model", "task", "mode", "pretrained"})  # set by Ultralytics' own model.train()


def seed_epoch(trainer: KDTrainer) -> None:
    """Start an epoch from seeds that follow from the run's seed, the epoch and the attempt (after NaN, another one).

    Without worker processes (on CPU always) data order and augmentation of an epoch then do not depend on what happened
    before it. Worker processes draw ahead and keep their own state.
    """
    numbers = [trainer.args.seed, trainer.epoch, trainer.nan_recovery_attempts, max(RANK, 0)]
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    loader = trainer.train_loader
    if loader.num_workers == 0 and isinstance(loader.sampler, torch.utils.data.RandomSampler):
        loader.sampler.generator = torch.Generator().manual_seed(seed)  # its own: a loader draws from its generator too
        loader.reset()


def save_state(trainer: KDTrainer) -> None:
    """Write ``resume.pt`` for the epoch that has just ended."""
    model = unwrap_model(trainer.model)
    state = {
        "epoch": trainer.epoch,
        "yaml": model.yaml,
        "settings": trainer.settings.to_dict(),
        "args": {k: v for k, v in vars(trainer.args).items() if k != "resume"},
        "model": model.state_dict(),
        "ema": trainer.ema.ema.state_dict(),
        "updates": trainer.ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "threads": torch.get_num_threads(),
        "best_fitness": None if trainer.best_fitness is None else float(trainer.best_fitness),
        "stopper": {"best_fitness": float(trainer.stopper.best_fitness), "best_epoch": trainer.stopper.best_epoch},
        "last_step": trainer.last_step,
        "stop": bool(trainer.stop),
        "gradients": {n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        "frozen_tensors": trainer.frozen_tensors,
        "mosaic_buffer": list(getattr(trainer.train_loader.dataset, "buffer", [])),
    }
    buffer = BytesIO()
    torch.save(state, buffer)
    AtomicPath(trainer.wdir / STATE_NAME).write_bytes(buffer.getbuffer())


def read_state(last: Path) -> dict[str, Any]:
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
            f"new one, e.g. with --weights {last}), or it is not one of kdyolo's, or {STATE_NAME} was not copied along."
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as e:
        raise RunError(f"{path}: damaged ({str(e).splitlines()[0]}). The run cannot go on from here.") from e
    return state


def state_to_resume(last: Path) -> dict[str, Any]:
    """The state of a run that nobody is at work on.

    Raises:
        RunError: It is going on, or see :func:`read_state`.
    """
    refuse_running(run_folder_of(last.resolve()))
    return read_state(last)


def trained_to_the_end(state: Mapping[str, Any], epochs: int) -> bool:
    """Whether a run of so many epochs was killed after its last one, so that only the final evaluation is left."""
    return bool(state["epoch"] + 1 >= epochs or (state.get("stop") and epochs == state["args"]["epochs"]))


def restore_state(trainer: KDTrainer, state: dict[str, Any]) -> None:
    """Put a trainer that has been set up back to the end of the epoch that was saved."""
    model = unwrap_model(trainer.model)
    model.load_state_dict(state["model"])
    trainer.ema.ema.load_state_dict(state["ema"])
    trainer.ema.updates = state["updates"]
    trainer.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:
        trainer.scaler.load_state_dict(state["scaler"])
    trainer.best_fitness = state["best_fitness"]
    trainer.stopper.__dict__.update(state["stopper"])
    trainer.frozen_tensors = state["frozen_tensors"]
    trainer.start_epoch = state["epoch"] + 1
    trainer.last_step = state["last_step"]
    trainer.accumulated = state["gradients"]
    for index in state["mosaic_buffer"]:  # mosaic draws from the images loaded last; loading them puts them there
        trainer.train_loader.dataset.load_image(index)
    if RANK in {-1, 0}:
        _drop_rows_after(trainer.csv, trainer.start_epoch)


def _drop_rows_after(path: Path, epochs: int) -> None:
    """Remove rows of ``results.csv`` for epochs that were not saved and will be run again."""
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = file.read().splitlines(keepends=True)
    kept = [row for row in rows if row.endswith("\n") and int(float(next(csv.reader([row]))[0])) <= epochs]
    AtomicPath(path).write_bytes("".join([header, *kept]).encode())


def resumed_settings(overrides: dict[str, Any], state: Mapping[str, Any]) -> tuple[TrainOptions, dict[str, Any]]:
    """Settings of the run to resume, and the few overrides that may change.

    Raises:
        ConfigError: A setting that may not change on resume, or a run made shorter.
    """
    last, saved, settings = Path(str(overrides["resume"])), state["args"], state["settings"]
    changed = [
        key
        for key, value in overrides.items()
        if key not in {*PLUMBING, *RESUME_MAY_CHANGE} and value not in (None, saved.get(key), settings.get(key))
    ]
    mistakes = []
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
