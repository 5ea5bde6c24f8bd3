"""Record of a run, ``kdyolo.yaml``: how the run came about, as plain data. No torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from kdyolo.runs.files import RECORD_NAME
from kdyolo.utils.atomic import write_atomic


@dataclass(frozen=True)
class RunRecord:
    """How a run came about: the content of ``kdyolo.yaml``, whose keys are these fields in this order.

    Attributes:
        versions: Package → its version.
        command: Command line of the process.
        git_commit: Commit of the repository around the working folder; None outside of one.
        settings: kdyolo's own options.
        asked: Ultralytics' settings as they were given, before it adjusted any.
        started_from: Weights of a whole detector that the run started from; None if there were none.
        backbone: Report on the injected backbone checkpoint (:meth:`LoadReport.to_dict`); None without one.
        schedule: Freeze schedule; under ``thaws`` the epochs, from 1, in which parts start to train.
        recipe: Name of the recipe, and the values in it.
        data: Data set YAML.
        seed: Seed of the run.
        cpu_threads: Threads that torch computes with on the CPU.
        model: Model YAML.
        batch: Images to a batch on all ranks together, as really used: what AutoBatch chose, where that was asked for.
            None in records of older versions.
        distill_model: Path, digest and number of classes of the detector that the run also learned from; None without
            one.
    """

    versions: dict[str, str]
    command: str
    git_commit: str | None
    settings: dict[str, Any]
    asked: dict[str, Any]
    started_from: str | None
    backbone: dict[str, Any] | None
    schedule: dict[str, Any]
    recipe: dict[str, Any]
    data: str
    seed: int
    cpu_threads: int
    model: str
    batch: int | None = None
    distill_model: dict[str, Any] | None = None

    def write(self, folder: Path) -> Path:
        """Write the record into a run folder, and return the file."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        path = folder / RECORD_NAME
        write_atomic(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return path
