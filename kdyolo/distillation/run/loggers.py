"""Loggers of a distillation: those of Ultralytics that its settings switch on, given what they ask a trainer for.

TensorBoard, Weights & Biases and MLflow, as in training (``yolo settings tensorboard=True``). A logger that fails says
so, and the run goes on without it: it is no part of the result.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn
from ultralytics.utils import SETTINGS, IterableSimpleNamespace

from kdyolo.runs.files import BEST_NAME, weights_file

LOGGER = logging.getLogger("ultralytics")
LOGGERS = {"tensorboard": "tensorboard", "wandb": "wb", "mlflow": "mlflow"}  # setting → Ultralytics' module


class LoggedRun:
    """A distillation as Ultralytics' loggers see a trainer; its attributes are those that they read.

    Args:
        folder: The run folder.
        options: Options of the run, as plain data.
        model: The student.
        resumed: Whether an interrupted run goes on.
    """

    def __init__(self, folder: Path, options: Mapping[str, Any], model: nn.Module, resumed: bool) -> None:
        own = {"name": folder.name, "project": "distill", "resume": resumed, "save": True, "plots": False}
        self.args = IterableSimpleNamespace(**{**options, **own, "profile": False})
        self.save_dir, self.model, self.best = folder, model, weights_file(folder, BEST_NAME)
        self.epoch, self.metrics, self.lr, self.tloss = -1, dict[str, float](), dict[str, float](), 0.0
        self.plots: dict[Path, Any] = {}
        self.validator = SimpleNamespace(plots={}, metrics=None, speed={})
        self.data = {"channels": 3}
        self.callbacks: defaultdict[str, list[Callable[[Any], object]]] = defaultdict(list)
        for setting, module in LOGGERS.items():
            if SETTINGS.get(setting) is True:
                for event, function in import_module(f"ultralytics.utils.callbacks.{module}").callbacks.items():
                    self.callbacks[event].append(function)

    def add_callback(self, event: str, function: Callable[[Any], object]) -> None:
        """Let a logger have itself called, as it does with a trainer."""
        self.callbacks[event].append(function)

    def label_loss_items(self, loss: float, prefix: str = "train") -> dict[str, float]:
        """The loss of the epoch by its name, as a trainer gives it."""
        return {f"{prefix}/loss": loss}

    def begin(self) -> None:
        """Tell the loggers that the run begins."""
        self._tell("on_pretrain_routine_start", "on_pretrain_routine_end")

    def log_epoch(self, row: Mapping[str, float]) -> None:
        """Give the loggers a row of ``results.csv``."""
        self.epoch, self.tloss = int(row["epoch"]) - 1, row["train/loss"]
        self.lr = {name: value for name, value in row.items() if name.startswith("lr/")}
        given = ("epoch", "time", "train/loss", *self.lr)
        self.metrics = {name: value for name, value in row.items() if name not in given}
        self._tell("on_train_epoch_end", "on_fit_epoch_end")

    def end(self, finished: bool) -> None:
        """Tell the loggers that the run is over, at its end or before."""
        self._tell(*(("on_train_end",) if finished else ()), "teardown")

    def _tell(self, *events: str) -> None:
        for event in events:
            for function in list(self.callbacks[event]):
                try:
                    function(self)
                except Exception as e:  # whatever a service or its package raises
                    LOGGER.warning(f"logger {function.__module__}: {type(e).__name__}: {e}. It gets nothing more.")
                    self._drop(function.__module__)

    def _drop(self, module: str) -> None:
        for functions in self.callbacks.values():
            functions[:] = [function for function in functions if function.__module__ != module]
