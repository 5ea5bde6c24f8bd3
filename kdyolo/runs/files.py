"""Names of the files in a run folder and of the columns of ``results.csv``, and what a folder holds."""

from __future__ import annotations

from pathlib import Path

STATE_NAME = "resume.pt"
PREDICTIONS_NAME = "predictions.json"
MEMORY_COLUMN = "memory/GB"
MAP = "metrics/mAP50-95(B)"
MAP50 = "metrics/mAP50(B)"
RESULTS_NAME = "results.csv"
SCORES_NAME = "coco_metrics.json"
RECORD_NAME = "kdyolo.yaml"


def is_run(path: Path) -> bool:
    """Whether a folder looks like that of a run."""
    return (path / "args.yaml").is_file()


LOG_NAME = "train.log"
PID_NAME = "pid.txt"
PROCESS_NAME = "process.json"


def resumable(path: Path) -> bool:
    """Whether ``kdyolo train --resume`` can go on from what a run folder holds."""
    state = path / "weights" / "resume.pt"
    return state.is_file() and ever_saved(path)


def ever_saved(path: Path) -> bool:
    """Whether an epoch was saved completely; until the first is, ``resume.pt`` is missing, or there and empty."""
    state, last = path / "weights" / "resume.pt", path / "weights" / "last.pt"
    return last.is_file() and not (state.is_file() and state.stat().st_size == 0)
