"""Patches of Ultralytics: every write into its modules, each as a context manager that takes it back.

Each patch says why it is needed, which function it is for (read in Ultralytics 8.4.190) and what breaks without it.
``tests/contracts/test_ultralytics.py`` keeps digests of these functions, and refuses a write from any other module.

Most of what kdyolo changes needs no patch, because Ultralytics asks a method that can be overridden. Some of these
overrides set a value of Ultralytics' own for a moment, or for the rest of a run. They stay in their classes:

``KDTrainer.__init__``: ``device`` and ``world_size`` come from the process group, ``ddp`` says that ranks train which
    kdyolo's launcher starts, ``wdir`` writes files at once or not at all.
``KDTrainer.train``: where ranks train, nothing of Ultralytics' own; its launcher empties the run folder.
``KDTrainer._build_train_pipeline``: ``world_size`` is that of the process group.
``KDTrainer._setup_train``: ``world_size`` is 0, so that the model is not wrapped before its frozen part is known;
    ``args.freeze`` gets back what the user said; ``stopper`` counts from the last unfreezing on; ``amp`` and
    ``scaler`` are those of rank 0.
``KDTrainer._setup_ddp``: nothing is set up, because the process group was joined before anything else.
``KDTrainer.set_model_attributes``: ``args.freeze``, layer numbers of the stock layout, is translated.
``KDTrainer.check_resume`` and ``resume_training``: arguments and state come from ``resume.pt``.
``KDTrainer.save_model``: ``model`` and ``ema`` are in the stock layout, ``args.epochs`` is advice on how to resume.
``KDTrainer._setup_scheduler``: ``epochs`` and ``args.epochs`` of a run that time ends are those of rank 0.
``KDTrainer.get_dataloader``: the images of an evaluation are padded and computed in the batches of one process, of at
    most 32 images, and each rank has its part of them.
``KDTrainer.validate``: ``world_size`` is 0 and ``stopper.possible_stop`` that of rank 0; losses are added up by ours.
``KDTrainer.final_eval``: ``best.pt`` is evaluated with the batches and the precision of ``kdyolo val``.
``KDTrainer.build_dataset`` and ``KDValidator.build_dataset``: RT-DETR's, which stretches, where that is asked for.
``KDTrainer._handle_nan_recovery``: a frozen backbone gets its unrounded tensors back.
``KDTrainer.optimizer_step``: the groups' ``lr`` is multiplied by the schedule's factor.
``KDTrainer.preprocess_batch``: ``accumulate`` says whether the optimizer steps at this iteration, and after a resume
    gradients that waited are put back.
``KDTrainer.run_callbacks``: ``lr`` holds the rates that were really used, for loggers; ``_oom_retries`` is used up
    before each batch, so that out of memory in the first epoch raises instead of halving the batch.
``KDValidator.init_metrics``: ``args.save_json`` is on where detections are collected; ``is_coco``, ``is_lvis``,
    ``class_map``, ``gdict`` and ``is_custom_json`` are not guessed from a path.
``KDValidator.update_metrics`` and ``gather_stats``: ``loss`` of each batch is kept and set to 0, then added up in order
    over all ranks, and ``dataloader`` is that of all of them.
``KDValidator.get_stats``: ``args.save_json`` is off, so that labels are not evaluated in place of the annotations.
``KDDetectionModel.load`` and ``load_state_dict``: names of either layout; nothing is loaded in part.
``StretchPredictor.construct_result``: one gain for each axis.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from kdyolo.utils.atomic import replacing
from kdyolo.utils.text import printable_lines


@contextmanager
def _replaced(attributes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Give owners other values under some of their names, and back what they had."""
    saved = [(owner, name, getattr(owner, name)) for owner, name, _ in attributes]
    try:
        for owner, name, value in attributes:
            setattr(owner, name, value)
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)


@contextmanager
def module_registered(cls: type) -> Iterator[None]:
    """Let Ultralytics' YAML parser find a module of ours, and evaluate nothing, for as long as a model is being built.

    ``ultralytics.nn.tasks.parse_model`` looks names up among the globals of its module and has no other door. Without
    this, a row that names the class fails with a ``KeyError``. It is taken back, so that nothing depends on which
    import came first. With ``SAFE_LOAD`` set it reads ``activation`` instead of evaluating it.

    Args:
        cls: The class, which rows name by its ``__name__``.
    """
    from ultralytics.nn import tasks

    setattr(tasks, cls.__name__, cls)
    before, tasks.SAFE_LOAD = tasks.SAFE_LOAD, True
    try:
        yield
    finally:
        tasks.SAFE_LOAD = before
        delattr(tasks, cls.__name__)


@contextmanager
def runs_below_here() -> Iterator[None]:
    """Let Ultralytics name run folders below the current folder, such as ``runs/detect/train-2``.

    ``ultralytics.cfg.get_save_dir`` takes the folder of a settings file, which was chosen when Ultralytics was first
    imported on this machine: the git checkout that it is installed in, if any. Without this, a virtual environment
    inside a checkout sends every run into that checkout, wherever the command is called; and under pytest every run
    goes beside Ultralytics' own package.
    """
    from ultralytics import cfg

    settings = {**cfg.SETTINGS, "runs_dir": str(Path("runs").resolve())}
    with _replaced([(cfg, "SETTINGS", settings), (cfg, "TESTS_RUNNING", False)]):
        yield


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
def compiler_left_out(unless: object = False) -> Iterator[None]:
    """Have a training that compiles nothing begin without PyTorch's compiler, whose import takes a second.

    ``ultralytics.utils.torch_utils.init_seeds`` calls ``torch.use_deterministic_algorithms``, which imports
    ``torch._inductor`` to tell it too, and some methods of optimizers import ``torch._dynamo`` to hide from it.
    ``torch.set_deterministic_debug_mode`` sets the same in PyTorch itself, and the methods are replaced by what they
    wrap. Once the compiler is there, nothing is changed. Without this, a third of the time from the command to the
    first batch is spent on it (``scripts/bench_start.py``).

    Args:
        unless: Whether something is compiled; the value of ``compile=``.
    """
    import torch

    def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
        torch.set_deterministic_debug_mode(("warn" if warn_only else "error") if mode else "default")

    if unless or "torch._dynamo" in sys.modules:
        yield
        return
    optimizer = torch.optim.Optimizer
    methods = {name: getattr(optimizer, name) for name in ("add_param_group", "zero_grad", "load_state_dict")}
    wrapped = [(optimizer, name, getattr(method, "__wrapped__", method)) for name, method in methods.items()]
    with _replaced([*wrapped, (torch, "use_deterministic_algorithms", use_deterministic_algorithms)]):
        yield


@contextmanager
def torchvision_left_out() -> Iterator[None]:
    """Let Ultralytics' validator be made without torchvision, which is imported when the validator is called.

    ``BaseValidator.__init__`` imports it so that it is there for ``non_max_suppression``, and it imports PyTorch's
    compiler. Without this, a training waits for both before its first batch, see :func:`compiler_left_out`.
    """
    if "torchvision" in sys.modules:
        yield
        return
    sys.modules["torchvision"] = ModuleType("torchvision")
    try:
        yield
    finally:
        del sys.modules["torchvision"]


@contextmanager
def fonts_left_out() -> Iterator[None]:
    """Have Ultralytics check a data set without looking for the font of its plots, which each plot looks for itself.

    ``ultralytics.data.utils.check_det_dataset`` calls ``check_font`` of its module, which imports matplotlib and asks
    the network for a font that is not there. Without this, that is waited for where nothing is drawn.
    """
    from ultralytics.data import utils

    with _replaced([(utils, "check_font", lambda font="": None)]):
        yield


@contextmanager
def checkpoints_read_by(read: Callable[[Path], dict[str, Any]]) -> Iterator[None]:
    """Have Ultralytics read checkpoints by a function of ours, and build what they describe without evaluating it.

    ``ultralytics.nn.tasks.load_checkpoint`` calls ``torch_safe_load`` of its module, which unpickles completely, and
    installs packages that a pickle names. ``parse_model`` evaluates a description's ``activation`` unless ``SAFE_LOAD``
    is set. Without this, a checkpoint given as ``--weights`` or ``--model`` runs its code.

    Args:
        read: Called with the path of a ``.pt`` file, which is there; gives its content, with modules.
    """
    from ultralytics.nn import tasks
    from ultralytics.utils.checks import check_suffix
    from ultralytics.utils.downloads import attempt_download_asset

    def load(weight: str | Path, safe_only: bool | None = None) -> tuple[dict[str, Any], str]:
        check_suffix(file=weight, suffix=".pt")
        # Official weights are fetched by their names; of a path that function would drop apostrophes.
        file = str(weight) if Path(weight).is_file() else attempt_download_asset(weight)
        return read(Path(file)), file

    with _replaced([(tasks, "torch_safe_load", load), (tasks, "SAFE_LOAD", True)]):
        yield


@contextmanager
def data_sets_read_by(read: Callable[[Any, str], dict[str, Any]]) -> Iterator[None]:
    """Have Ultralytics' trainer, validator and exporter read dataset YAMLs by a function of ours.

    ``ultralytics.data.utils.check_det_dataset`` fetches addresses, unpacks archives, and runs what a YAML has under
    ``download``, as Python or in a shell; ``convert_ndjson_to_yolo_if_needed`` fetches data sets of Ultralytics'
    platform. Both are called without a choice. Without this, a YAML runs its code where validation images are missing.

    Args:
        read: Called with what names the data set, and the split that has to be there.
    """
    from ultralytics.engine import exporter, trainer, validator

    def check(dataset: Any, autodownload: bool = True, split: str = "") -> dict[str, Any]:
        return read(dataset, split or "val")

    def unchanged(data: Any, *args: Any, **keywords: Any) -> Any:
        return data

    replaced: list[tuple[Any, str, Callable[..., Any]]]
    replaced = [(module, "check_det_dataset", check) for module in (exporter, trainer, validator)]
    replaced += [(module, "convert_ndjson_to_yolo_if_needed", unchanged) for module in (trainer, validator)]
    with _replaced(replaced):
        yield


@contextmanager
def label_caches_read_by(read: Callable[[Path], dict[str, Any]]) -> Iterator[None]:
    """Have Ultralytics' data sets read the cache beside their labels by a function of ours.

    ``ultralytics.data.utils.load_dataset_cache_file`` unpickles ``labels.cache`` completely. Without this, a data set
    with such a file in it runs its code. Where ``read`` raises what a missing cache raises, the labels are scanned.

    Args:
        read: Called with the path of the cache; gives its content.
    """
    from ultralytics.data import dataset

    with _replaced([(dataset, "load_dataset_cache_file", read)]):
        yield


@contextmanager
def image_shapes_known(shapes: Mapping[str, tuple[int, int]]) -> Iterator[None]:
    """Have Ultralytics' check of an image and its label skip the image, which was opened before.

    ``ultralytics.data.utils.verify_image_label`` calls ``check_image`` of its module and takes no shape. Without this,
    the conversion opens every image a second time.

    Args:
        shapes: Path of an image, as it is given to the check → (height, width) in pixels.
    """
    from ultralytics.data import utils

    with _replaced([(utils, "check_image", lambda path: ("", shapes[path]))]):
        yield


@contextmanager
def evaluating_on(device: Any) -> Iterator[None]:
    """Have Ultralytics' validator put a model that it evaluates by itself on this rank's device.

    ``BaseValidator.__call__`` asks for the current CUDA device wherever there are ranks, and gives it to
    ``AutoBackend``; both names are of its module. Without this, a rank that computes on the CPU fails.

    Args:
        device: The device of this rank; None changes nothing.
    """
    from ultralytics.engine import validator

    if device is None:
        yield
        return
    original = validator.AutoBackend

    def backend(*args: Any, **keywords: Any) -> Any:
        return original(*args, **{**keywords, "device": device})

    def devices(_: Any) -> Any:
        return SimpleNamespace(current_device=lambda: device.index or 0)

    with _replaced([(validator, "AutoBackend", backend), (validator, "get_torch_device_backend", devices)]):
        yield


@contextmanager
def signals_pass() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and ``sys.exit`` through where Ultralytics drops every exception.

    ``ultralytics.utils.TryExcept.__exit__`` returns True, also for what is no ``Exception``. It stands around
    ``plot_labels``, the plot of the confusion matrix and checks of versions. Without this, a signal that comes in one
    of them is lost, and training goes on.
    """
    from ultralytics.utils import TryExcept

    original = TryExcept.__exit__

    def only_errors(self: Any, kind: type[BaseException] | None, *more: Any) -> bool:
        if kind is not None and not issubclass(kind, Exception):
            return False
        return bool(original(self, kind, *more))

    with _replaced([(TryExcept, "__exit__", only_errors)]):
        yield


@contextmanager
def settings_written_whole() -> Iterator[None]:
    """Have Ultralytics' trainer write ``args.yaml`` completely or not at all.

    ``ultralytics.engine.trainer.BaseTrainer.__init__`` calls ``YAML.save`` of its module, which empties the file first.
    Without this, a full disk or a kill while a run is resumed leaves a folder that is known to be no run any more.
    """
    from ultralytics.engine import trainer

    original = trainer.YAML

    class Whole(original):  # type: ignore[misc, valid-type]
        @classmethod
        def save(cls, file: str | Path = "data.yaml", data: Any = None, header: str = "") -> None:
            with replacing(Path(file)) as partial:
                super().save(partial, data, header)

    with _replaced([(trainer, "YAML", Whole)]):
        yield


@contextmanager
def progress_bars_escaped() -> Iterator[None]:
    """Have Ultralytics' progress bars show what a terminal would obey in their words as escapes; colours stay.

    ``ultralytics.utils.tqdm.TQDM`` writes its ``desc`` to stdout, past any log. ``ultralytics.data`` puts the paths of
    caches and labels there. Without this, the name of a folder of labels moves the cursor, or sets the clipboard.
    """
    from ultralytics.utils.tqdm import TQDM

    before = vars(TQDM).get("desc")

    def set_words(bar: Any, words: str) -> None:
        vars(bar)["desc"] = printable_lines(str(words), colours=True)

    TQDM.desc = property(lambda bar: vars(bar)["desc"], set_words)
    try:
        yield
    finally:
        if before is None:  # bars that go on keep their words themselves
            del TQDM.desc
        else:
            TQDM.desc = before


@contextmanager
def called_from_python() -> Iterator[None]:
    """Have Ultralytics' models give back what they find, whatever the command is called.

    ``ultralytics.engine.model.Model.predict`` takes a command whose name ends with "yolo", as ours does, for its own,
    and then gives back nothing. Without this, ``kdyolo predict`` fails once everything is predicted.
    """
    from ultralytics.engine import model

    with _replaced([(model, "ARGV", [""])]):
        yield
