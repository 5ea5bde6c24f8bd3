"""Every place where something is written into Ultralytics' modules, and why."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ultralytics.data import utils

from kdyolo.errors import CheckpointError

# Modules that copied the ranks when they were imported and act on them while evaluating.
_RANK_USERS = ("ultralytics.engine.trainer", "ultralytics.engine.validator", "ultralytics.models.yolo.detect.val")


@contextmanager
def restricted_ultralytics(trust: bool = False) -> Iterator[None]:
    """Whatever Ultralytics unpickles in here goes through its restricted loader, as with ``ULTRALYTICS_SAFE_LOAD=1``.

    Its functions read the flag from the module ``ultralytics.nn.tasks`` and take no argument for it; it is set here and
    nowhere else. What the loader refuses becomes a :class:`CheckpointError`.
    """
    from ultralytics.nn import tasks

    before, tasks.SAFE_LOAD = tasks.SAFE_LOAD, not trust
    try:
        yield
    except (TypeError, ModuleNotFoundError) as e:
        if "restricted" not in str(e) and "checkpoint" not in str(e):
            raise
        raise CheckpointError(
            f"{str(e).splitlines()[0]} Expected an Ultralytics checkpoint of stock classes; for a file whose author "
            "you trust, --trust unpickles it completely."
        ) from e
    finally:
        tasks.SAFE_LOAD = before


@contextmanager
def image_shapes_known(shapes: Mapping[str, tuple[int, int]]) -> Iterator[None]:
    """Have Ultralytics' check of an image and its label skip the image, which was opened before."""
    original: Any = utils.check_image
    utils.check_image = lambda path: ("", shapes[path])
    try:
        yield
    finally:
        utils.check_image = original


@contextmanager
def as_single_process(trainer: Any) -> Iterator[None]:
    """Let rank 0 evaluate as if it were the only process.

    Ultralytics' validator splits the images over ranks and reduces losses with an operation that gloo lacks, and takes
    every device but cuda for cuda. It looks at constants, which are set here for the time of the evaluation.
    """
    modules = [importlib.import_module(name) for name in _RANK_USERS]
    saved = [(m, name, getattr(m, name)) for m in modules for name in ("RANK", "LOCAL_RANK") if hasattr(m, name)]
    world_size = trainer.world_size
    try:
        trainer.world_size = 0
        for module, name, _ in saved:
            setattr(module, name, -1)
        yield
    finally:
        trainer.world_size = world_size
        for module, name, value in saved:
            setattr(module, name, value)
