"""Patches of Ultralytics: every write into its modules, each as a context manager that takes it back.

Each patch says why it is needed, which function it is for (read in Ultralytics 8.4.190) and what breaks without it.
``tests/contracts/test_ultralytics.py`` keeps digests of these functions, and refuses a write from any other module.

Most of what kdyolo changes needs no patch, because Ultralytics asks a method that can be overridden. Some of these
overrides set a value of Ultralytics' own for a moment, or for the rest of a run. They stay in their classes:

``KDTrainer.__init__``: ``device`` and ``world_size`` come from the process group, ``ddp`` is off, ``wdir`` writes
    files at once or not at all.
``KDTrainer._build_train_pipeline``: ``world_size`` is that of the process group.
``KDTrainer._setup_train``: ``world_size`` is 0, so that the model is not wrapped before its frozen part is known;
    ``args.freeze`` gets back what the user said; ``stopper`` counts from the last unfreezing on; ``amp`` and
    ``scaler`` are those of rank 0.
``KDTrainer._setup_ddp``: nothing is set up, because the process group was joined before anything else.
``KDTrainer.set_model_attributes``: ``args.freeze``, layer numbers of the stock layout, is translated.
``KDTrainer.check_resume`` and ``resume_training``: arguments and state come from ``resume.pt``.
``KDTrainer.save_model``: ``model`` and ``ema`` are in the stock layout, ``args.epochs`` is advice on how to resume.
``KDTrainer.get_dataloader``: evaluation sees all images, on rank 0.
``KDTrainer.build_dataset`` and ``KDValidator.build_dataset``: RT-DETR's, which stretches, where that is asked for.
``KDTrainer._handle_nan_recovery``: a frozen backbone gets its unrounded tensors back.
``KDTrainer.optimizer_step``: the groups' ``lr`` is multiplied by the schedule's factor.
``KDTrainer.preprocess_batch``: ``accumulate`` is shifted until the first step after a resume, and gradients that
    waited are put back.
``KDTrainer.run_callbacks``: ``lr`` holds the rates that were really used, for loggers; ``_oom_retries`` is used up
    before each batch, so that out of memory in the first epoch raises instead of halving the batch.
``KDValidator.init_metrics``: ``args.save_json`` is on where detections are collected; ``is_coco``, ``is_lvis``,
    ``class_map``, ``gdict`` and ``is_custom_json`` are not guessed from a path.
``KDValidator.get_stats``: ``args.save_json`` is off, so that labels are not evaluated in place of the annotations.
``KDDetectionModel.load`` and ``load_state_dict``: names of either layout; nothing is loaded in part.
``StretchPredictor.construct_result``: one gain for each axis.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kdyolo.errors import CheckpointError


@contextmanager
def module_registered(cls: type) -> Iterator[None]:
    """Let Ultralytics' YAML parser find a module of ours for as long as a model is being built.

    ``ultralytics.nn.tasks.parse_model`` looks names up among the globals of its module and has no other door. Without
    this, a row that names the class fails with a ``KeyError``. It is taken back, so that nothing depends on which
    import came first.

    Args:
        cls: The class, which rows name by its ``__name__``.
    """
    from ultralytics.nn import tasks

    setattr(tasks, cls.__name__, cls)
    try:
        yield
    finally:
        delattr(tasks, cls.__name__)


@contextmanager
def ray_left_out() -> Iterator[None]:
    """Have Ultralytics' callbacks leave Ray where it is, unless this process has imported it.

    ``ultralytics.utils.callbacks.raytune`` imports Ray to ask whether this is a trial of Ray Tune. In a trial Ray is
    there already. Once looked for in vain, it is not looked for again in this process. Without this, every training on
    a machine with Ray begins half a second later.
    """
    if "ray" in sys.modules:
        yield
        return
    sys.modules["ray"] = None  # type: ignore[assignment]  # how Python is told that a module cannot be imported
    try:
        yield
    finally:
        del sys.modules["ray"]


@contextmanager
def safe_load_forced(trust: bool = False) -> Iterator[None]:
    """Have Ultralytics unpickle checkpoints by its restricted loader, as with ``ULTRALYTICS_SAFE_LOAD=1``.

    ``ultralytics.nn.tasks.torch_safe_load`` reads the flag from its module when no argument says otherwise, and the
    functions that call it pass none. Without this, a checkpoint given as ``--weights`` or ``--model`` runs its code.

    Args:
        trust: Unpickle completely instead.

    Raises:
        CheckpointError: The restricted loader refused a file.
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
    """Have Ultralytics' check of an image and its label skip the image, which was opened before.

    ``ultralytics.data.utils.verify_image_label`` calls ``check_image`` of its module and takes no shape. Without this,
    the conversion opens every image a second time.

    Args:
        shapes: Path of an image, as it is given to the check → (height, width) in pixels.
    """
    from ultralytics.data import utils

    original = utils.check_image
    utils.check_image = lambda path: ("", shapes[path])
    try:
        yield
    finally:
        utils.check_image = original


@contextmanager
def as_single_process(trainer: Any) -> Iterator[None]:
    """Let rank 0 evaluate as if it were the only process.

    ``BaseValidator.__call__`` and the validator of detection split the images over ranks, reduce losses with an
    operation that gloo lacks, and take every device but cuda for cuda. They look at constants that their modules copied
    when they were imported. Without this, rank 0 waits for ranks that do not evaluate.

    Args:
        trainer: The trainer; its ``world_size`` is 0 meanwhile.
    """
    from ultralytics.engine import trainer as engine_trainer
    from ultralytics.engine import validator as engine_validator
    from ultralytics.models.yolo.detect import val

    modules = (engine_trainer, engine_validator, val)
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
