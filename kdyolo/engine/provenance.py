"""What a run leaves beside its weights: ``train.log`` (all that was printed), ``kdyolo.yaml`` (how it came about)."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import torch
import ultralytics
import yaml
from ultralytics.utils import LOGGER
from ultralytics.utils.git import GitRepo
from ultralytics.utils.torch_utils import unwrap_model

import kdyolo
from kdyolo.engine.options.validation import load_recipe
from kdyolo.runs import detach
from kdyolo.runs.log_reader import plain_line, without_colours

if TYPE_CHECKING:
    from kdyolo.engine.trainer import KDTrainer
    from kdyolo.models.detector import KDDetectionModel

RECORD_NAME = "kdyolo.yaml"
_PLAIN = (bool, int, float, str, list, dict, type(None))


class RunLog:
    """Collects Ultralytics' log from construction on, and everything printed while :meth:`capture` is active.

    Lines gathered before the run folder is known wait in memory until :meth:`open`.
    """

    def __init__(self) -> None:
        self._file: TextIO = io.StringIO()
        self._handler = logging.StreamHandler(_Plain(self))
        self._handler.setFormatter(logging.Formatter("%(message)s"))
        LOGGER.addHandler(self._handler)
        self._silenced: list[tuple[logging.StreamHandler[Any], Any]] = []

    def open(self, path: Path, append: bool = False) -> None:
        """Continue in a file, which first receives what was gathered so far."""
        waiting = self._file
        self._file = path.open("a" if append else "w", encoding="utf-8", buffering=1)
        if early := detach.output_file():  # holds what was printed before this log was there, too
            text = early.read_bytes().decode("utf-8", "replace")
            self._file.write("\n".join(map(plain_line, text.split("\n"))))
        elif isinstance(waiting, io.StringIO):
            self._file.write(waiting.getvalue())

    def write(self, text: str) -> None:
        """Append text as it is."""
        self._file.write(text)

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """Also record what is written to stdout and stderr (progress bars, warnings, prints); then close the log."""
        stdout, stderr = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = _Tee(stdout, self), _Tee(stderr, self)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = stdout, stderr
            self.close()

    def take_over(self) -> None:
        """Be from here on the only place that this process prints to: the terminal that started it goes away.

        What is written past Python (a crash, a library in C) goes to the log as well, and so does everything that comes
        after :meth:`close`. What :meth:`capture` and Ultralytics' logger record already is printed nowhere else.
        """
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                stream.flush()
                os.dup2(self._file.fileno(), stream.fileno())
        nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process prints
        for tee in (sys.stdout, sys.stderr):
            if isinstance(tee, _Tee):
                tee.redirect(nowhere)
        for handler in LOGGER.handlers:
            if isinstance(handler, logging.StreamHandler) and handler is not self._handler:
                self._silenced.append((handler, handler.setStream(nowhere)))

    def close(self) -> None:
        """Stop recording."""
        LOGGER.removeHandler(self._handler)
        for handler, stream in self._silenced:
            handler.setStream(stream)
        self._file.close()


class _Plain:
    """A stream for the log handler: colour codes removed."""

    def __init__(self, log: RunLog) -> None:
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(without_colours(text))
        return len(text)

    def flush(self) -> None:
        """Nothing to do: the file is line-buffered."""


class _Tee:
    """A stream that also feeds a log; of a progress bar, which redraws its line, only the last state is logged."""

    def __init__(self, stream: TextIO, log: RunLog) -> None:
        self._stream, self._log, self._line = stream, log, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._log.write(f"{plain_line(line)}\n")
        return self._stream.write(text)

    def redirect(self, stream: TextIO) -> None:
        """Pass what is written on to another stream."""
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def versions() -> dict[str, str]:
    """Versions of everything that shapes a result."""
    return {
        "kdyolo": kdyolo.__version__,
        "ultralytics": ultralytics.__version__,
        "torch": str(torch.__version__),  # a str subclass, which restricted loading would refuse
        "python": platform.python_version(),
    }


def git_commit() -> str | None:
    """Commit of the repository around the current folder, if there is one."""
    commit = GitRepo(Path.cwd()).commit
    return str(commit) if commit else None


def announce(trainer: KDTrainer) -> None:
    """Log what training starts from, and the plan."""
    model: KDDetectionModel = unwrap_model(trainer.model)
    if trainer.started_from is not None:
        LOGGER.info(f"detector: {model.yaml['yaml_file']} · started from {trainer.started_from}")
    if trainer.report is not None:
        LOGGER.info(trainer.report.table())
    elif trainer.started_from is None and not trainer.resume:
        LOGGER.info(f"backbone: {model.backbone.arch.name} · random initialisation")
        if trainer.schedule.ever_frozen:
            LOGGER.warning("the frozen backbone is random: its features carry no knowledge.")
    parameters = {
        part: sum(p.numel() for layer in layers for p in layer.parameters())
        for part, layers in model.backbone.parts.items()
    }
    LOGGER.info(trainer.schedule.describe(parameters, sum(p.numel() for p in model.parameters())))
    if trainer.schedule.frozen_epochs and trainer.args.patience:
        LOGGER.info(f"      patience={trainer.args.patience} counts unfrozen epochs only")


def provenance(trainer: KDTrainer, model: KDDetectionModel) -> dict[str, Any]:
    """Plain data that travels inside every checkpoint, in the model YAML's own dictionary."""
    report = trainer.report
    return {
        "bn_eps": model.backbone.bn_eps,
        "settings": trainer.settings.to_dict(),
        "source": Path(report.path).name if report else None,
        "source_kind": report.kind if report else None,
        "sha256": report.sha256 if report else None,
        "injected": f"{report.matched}/{report.total}" if report else None,
        "left_out": list(model.backbone.left_out),
        "missing": list(report.missing) if report else [],
        "input_norm": report.input_norm if report else None,
        **_plan(trainer),
        "versions": versions(),
        "git_commit": git_commit(),
        "seed": trainer.args.seed,
    }


def _plan(trainer: KDTrainer) -> dict[str, Any]:
    """Schedule and recipe, with all their values; epochs are counted from 1."""
    schedule, recipe = trainer.schedule, trainer.settings.recipe
    return {
        "schedule": {**asdict(schedule), "thaws": {e + 1: list(parts) for e, parts in schedule.thaws.items()}},
        "recipe": {"name": recipe, "values": load_recipe(recipe)},
    }


def write_record(trainer: KDTrainer) -> Path:
    """Write ``kdyolo.yaml``: how this run came about, as plain data."""
    record = {
        "versions": versions(),
        "command": shlex.join(sys.argv),
        "git_commit": git_commit(),
        "settings": trainer.settings.to_dict(),
        "asked": {k: v if isinstance(v, _PLAIN) else str(v) for k, v in trainer.asked.items()},
        "started_from": trainer.started_from,
        "backbone": trainer.report.to_dict() if trainer.report else None,
        **_plan(trainer),
        "data": str(trainer.args.data),
        "seed": trainer.args.seed,
        "cpu_threads": torch.get_num_threads(),
        "model": unwrap_model(trainer.model).yaml["yaml_file"],
    }
    path: Path = trainer.save_dir / RECORD_NAME
    path.write_text(yaml.safe_dump(record, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path
