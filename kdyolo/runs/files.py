"""Names of the files in a run folder and of the columns of ``results.csv``, each written here only."""

from __future__ import annotations

from pathlib import Path

from kdyolo.utils.plain_files import is_file

# ---- a run folder, as Ultralytics lays it out ------------------------------------------------------------------------

ARGS_NAME = "args.yaml"  # Ultralytics' settings; every run folder has it, so it is what a run is known by
RESULTS_NAME = "results.csv"  # a row for each epoch: losses, metrics, learning rates
WEIGHTS_FOLDER = "weights"  # holds the checkpoints, and ``resume.pt``
BEST_NAME = "best.pt"  # in weights/: the checkpoint of the epoch with the highest mAP50-95
LAST_NAME = "last.pt"  # in weights/: the checkpoint of the last finished epoch
PREDICTIONS_NAME = "predictions.json"  # detections on the validation images, in COCO's form
PICTURE_NAME = "results.png"  # the curves of ``results.csv``

# ---- what kdyolo adds to it ------------------------------------------------------------------------------------------

STATE_NAME = "resume.pt"  # in weights/, until the run has ended: what resuming it bit for bit takes
RECORD_NAME = "kdyolo.yaml"  # how the run came about
SCORES_NAME = "coco_metrics.json"  # official COCO metrics of ``best.pt``
CARD_NAME = "model_card.md"  # the model card of ``best.pt``
FEATURES_NAME = "features.png"  # of a distillation: images with the features of teacher and student
LOG_NAME = "train.log"  # all that the run printed
PID_NAME = "pid.txt"  # the process that works in the folder, as a number and nothing else
PROCESS_NAME = "process.json"  # what tells that process from a later one with the same number
STOPPED_NAME = "stopped.txt"  # the process that kdyolo stop had to kill, until another one works in the folder

# ---- a study's folder ------------------------------------------------------------------------------------------------

STUDY_NAME = "study.yaml"  # the study file as it was started with

# ---- columns of results.csv ------------------------------------------------------------------------------------------

MAP = "metrics/mAP50-95(B)"  # Ultralytics' mAP over IoU 0.50–0.95 on the validation images, 0–1; (B): of boxes
MAP50 = "metrics/mAP50(B)"  # the same at IoU 0.50
MEMORY_COLUMN = "memory/GB"  # peak memory of an epoch, in GiB
BATCH_COLUMN = "batch/images"  # images to a batch on all ranks together, as really used in an epoch


def is_run(path: Path) -> bool:
    """Whether a folder looks like that of a run, of kdyolo or of plain Ultralytics."""
    return is_file(path / ARGS_NAME)


def run_folder_of(path: Path) -> Path:
    """The run folder that a path stands for: itself, or of a checkpoint (``.pt``) in ``weights/`` the folder above.

    Args:
        path: A run folder or a checkpoint in one; neither needs to exist.
    """
    return path.parent.parent if path.suffix == ".pt" else path


def weights_file(run: Path, name: str) -> Path:
    """A file in the ``weights/`` of a run folder, there or not.

    Args:
        run: The run folder.
        name: The file's name, e.g. :data:`BEST_NAME`.
    """
    return run / WEIGHTS_FOLDER / name


def runs_below(folder: Path) -> list[Path]:
    """The run folders in a folder and in the folders in it, as in ``study/arm/seed1``; sorted by path."""
    return sorted(file.parent for pattern in ("*/", "*/*/") for file in folder.glob(f"{pattern}{ARGS_NAME}"))


def resumable(path: Path) -> bool:
    """Whether ``kdyolo train --resume`` can continue from what a run folder holds."""
    return is_file(weights_file(path, STATE_NAME)) and ever_saved(path)


def ever_saved(path: Path) -> bool:
    """Whether an epoch was saved completely; until the first is, ``resume.pt`` is missing, or there and empty."""
    state, last = weights_file(path, STATE_NAME), weights_file(path, LAST_NAME)
    try:
        return is_file(last) and not (is_file(state) and state.stat().st_size == 0)
    except FileNotFoundError:  # the run has ended between the two looks
        return True
