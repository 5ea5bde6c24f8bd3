"""Early ends of a training: a signal, no memory, a file that is refused; each with one message on how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ultralytics.utils import LOGGER, RANK

from kdyolo.engine.memory.fitting_batch import Measurable, batch_in_use
from kdyolo.engine.memory.meter import is_out_of_memory
from kdyolo.errors import ConfigError, DatasetError, RunError
from kdyolo.runs.files import ever_saved, resumable, run_folder_of
from kdyolo.runs.process_control import told_to_end
from kdyolo.utils import distributed
from kdyolo.utils.text import quoted, shell_word, without_colours

NOTHING_SAVED = "\nInterrupted before the first epoch was saved: nothing is kept, the same command starts anew."
TORCH_FILES = ("inline_container", "iostream error")  # in the errors of torch's reader and writer, which are C++
END = "on_train_end"  # the event after the last evaluation
_LOGGERS = "ultralytics.utils.callbacks."  # each a module in it
Callback = Callable[[Any], None]


class Running(Measurable, Protocol):
    """What a trainer has that the end of its run is explained by.

    Attributes:
        epoch: Epoch that goes on, from 0.
        save_dir: Folder of the run.
        last: The run's ``last.pt``, which may not exist yet.
    """

    epoch: int
    save_dir: Path
    last: Path


def how_to_resume(last: Path) -> str:
    """What to tell a person whose run was interrupted.

    Args:
        last: The run's ``last.pt``, which may not exist yet.
    """
    run = run_folder_of(last)
    if resumable(run):
        return f"\nInterrupted. Resume with: kdyolo train --resume {shell_word(run)}"
    if ever_saved(run):
        return f"\nThe training itself had ended: the weights in {last.parent} are complete."
    return NOTHING_SAVED


@contextmanager
def early_end_explained(trainer: Running, has_saved: Callable[[], bool]) -> Iterator[None]:
    """Say how to go on where a training ends by a signal, for want of memory, or for batches of one image.

    Args:
        trainer: Trainer of the run.
        has_saved: Whether the run has saved anything by then.

    Raises:
        KeyboardInterrupt: The training was interrupted.
        RunError: Memory ran out.
        ConfigError: Images are too small for BatchNorm or for the loss.
    """
    small = small_images_explained(trainer.args)
    with interruption_explained(trainer.last, has_saved), small, memory_explained(trainer):
        yield


@contextmanager
def interruption_explained(last: Path, has_saved: Callable[[], bool]) -> Iterator[None]:
    """When what runs here is interrupted, say how to go on with it.

    Args:
        last: The run's ``last.pt``.
        has_saved: Whether the run has saved anything by then.

    Raises:
        KeyboardInterrupt: It was interrupted by a signal; also where something else was raised in consequence, such as
            the death of data loader workers that got the same signal.
    """
    try:
        yield
    except BaseException as e:
        told = told_to_end()
        if told or isinstance(e, KeyboardInterrupt):
            LOGGER.info(how_to_resume(last) if has_saved() else NOTHING_SAVED)
        if told and not isinstance(e, KeyboardInterrupt):
            raise told from e
        raise


@contextmanager
def small_images_explained(args: Any) -> Iterator[None]:
    """Say what to change where images are too small: for BatchNorm, or for the loss, which needs ten cells for a box.

    Args:
        args: Ultralytics' settings.

    Raises:
        ConfigError: In place of what PyTorch raises.
    """
    try:
        yield
    except (ValueError, RuntimeError) as e:
        if "selected index k out of range" in str(e):  # of the cells of all levels, the loss takes the best ten
            raise ConfigError(
                f"imgsz={args.imgsz} is too small for this model: its pyramid levels have fewer than ten cells "
                "together, from which the loss chooses for each object. Expected a larger imgsz, such as 64."
            ) from e
        if "value per channel" not in str(e):  # Ultralytics foresees some of these cases, and PyTorch finds the rest
            raise
        raise ConfigError(
            f"batch={args.batch} at imgsz={args.imgsz} gives BatchNorm one value per channel, which cannot train it: "
            "some batch is a single image whose deepest features are one pixel. Expected batches of two images or more "
            "(the last one of an epoch, too: it holds what is left), or a larger imgsz."
        ) from e


@contextmanager
def memory_explained(trainer: Running) -> Iterator[None]:
    """Say how to go on where a run ends because memory runs out.

    Args:
        trainer: Trainer of the run.

    Raises:
        RunError: Memory ran out.
    """
    try:
        yield
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
        advice = _ran_out(trainer)
        if not distributed.is_rank_zero():  # whose error is not shown, and the first rank has none
            LOGGER.error(advice)
        raise RunError(advice) from e


def _ran_out(trainer: Running) -> str:
    """What is to be done about a run whose memory ran out although a step had fitted."""
    batch = batch_in_use(trainer)
    smaller = f"with --batch {batch // 2}" if batch > 1 else "with a smaller --imgsz"
    what = f"out of memory on {trainer.device} in epoch {trainer.epoch + 1}, with batch {batch}."
    if not resumable(trainer.save_dir):
        return f"{what} No epoch was saved. Free memory on the device, or start again {smaller}."
    return (
        f"{what} The epochs before are saved. Free memory on the device or take a larger one, and go on with: "
        f"kdyolo train --resume {shell_word(trainer.save_dir)} --device N. A resumed run keeps its batch; for "
        f"a smaller one start a new run {smaller}."
    )


@contextmanager
def images_explained(split: str) -> Iterator[None]:
    """End with one clear error where Ultralytics finds no images of a split, or cannot read what names them.

    Args:
        split: What they are for: ``train`` or ``val``.

    Raises:
        DatasetError: In place of what the system or Ultralytics raises.
    """
    try:
        yield
    except (OSError, ValueError) as e:
        said = without_colours(getattr(e, "strerror", None) or str(e)).strip().partition("\n")[0]
        if "has an empty name" in said:  # of the folder above a bare name
            said = "they are named without their folder, beside which labels are looked for"
        elif isinstance(e, ValueError):  # of something else
            raise
        raise DatasetError(
            f"{split} images: {said}. Expected a folder with images, or a list with the path of one on each line."
        ) from e


@contextmanager
def refusals_of_files_explained(last: Path) -> Iterator[None]:
    """End a training to which the system refuses a file (a full disk, an image that is gone) with one clear error.

    Args:
        last: The run's ``last.pt``, which may not exist yet.

    Raises:
        RunError: A file could not be read or written. On ranks other than 0, whose errors of ours nobody prints, the
            error stays what it was.
    """
    try:
        yield
    except ConnectionError:  # of another process, not of a file
        raise
    except (OSError, RuntimeError) as e:
        if RANK not in {-1, 0} or not (isinstance(e, OSError) or any(text in str(e) for text in TORCH_FILES)):
            raise
        refused: list[str] = []  # also those met while cleaning up, in the order in which they came
        error: BaseException | None = e
        while isinstance(error, OSError | RuntimeError):
            refused.insert(0, str(error).strip().splitlines()[-1])
            error = error.__context__
        raise RunError(
            f"a file cannot be read or written: {'; then '.join(dict.fromkeys(refused))}. What was saved before is "
            f"whole. Mend this (free space, permissions, what is missing), then go on.{how_to_resume(last)}"
        ) from e


def loggers_forgiven(callbacks: Mapping[str, Sequence[Callback]], run: Path) -> dict[str, list[Callback]]:
    """The same callbacks, but where Ultralytics' loggers fail at the end of a training, they only warn.

    The run is finished by then: what a logger could not send makes no failed training of it. Errors of other callbacks
    are a person's own, and are raised.

    Args:
        callbacks: Event → functions that take the trainer.
        run: Folder of the run.
    """
    last = [
        _forgiven(each, run) if str(getattr(each, "__module__", "")).startswith(_LOGGERS) else each
        for each in callbacks.get(END, ())
    ]
    return {**{event: list(each) for event, each in callbacks.items()}, END: last}


def _forgiven(logger: Callback, run: Path) -> Callback:
    def call(trainer: Any) -> None:
        try:
            logger(trainer)
        except Exception as e:  # of any logger's own types
            name = logger.__module__.removeprefix(_LOGGERS)
            LOGGER.warning(
                f"the logger {name} failed after the training had ended ({type(e).__name__}: {quoted(e)}). The run is "
                f"complete: its weights and metrics are in {run}; what {name} shows of it may not be."
            )

    return call
