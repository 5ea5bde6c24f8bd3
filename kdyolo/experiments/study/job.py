"""Job of a study: a command that works in a folder of its own, is started, resumed and finished."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from kdyolo.errors import RunError
from kdyolo.runs.files import STATE_NAME, is_run, resumable, weights_file
from kdyolo.runs.history import Run, read_run
from kdyolo.utils.plain_files import is_file, is_folder

State = Literal["new", "begun", "resumable", "finished"]


class Job:
    """What every job of a study has; a dataclass below gives the folder.

    Attributes:
        folder: Work dir of the job, an absolute path.
    """

    folder: Path

    @property
    def name(self) -> str:
        """``"frozen50/seed1"``, ``"@backbones/sam2-yolov8s-1f3a9c2e"``."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def log(self) -> Path:
        """Log of all that the job's processes printed, beside the work dir, which is empty when a job starts."""
        return self.folder.parent / f"{self.folder.name}.log"

    @property
    def needs(self) -> Job | None:
        """Job that has to be finished before; None without one."""
        return None

    def arguments(self, device: str) -> list[str]:
        """Arguments of the ``kdyolo`` command that starts the job, or resumes it."""
        raise NotImplementedError

    def history(self) -> Run | None:
        """History of the job, read from its folder; None if nothing has been trained."""
        return read_run(self.folder) if is_run(self.folder) else None

    def state(self) -> State:
        """State of the job: new, begun (no epoch was saved: all again), resumable, or finished."""
        if not os.path.lexists(self.folder):
            return "new"
        if not is_folder(self.folder):
            raise RunError(f"{self.folder}: expected a folder, found something else. Move it away: a run goes here.")
        if not any(self.folder.iterdir()):
            return "new"
        history = self.history()
        if history and self._is_finished(history):
            return "finished"
        return "resumable" if resumable(self.folder) else "begun"

    def _is_finished(self, history: Run) -> bool:
        return history.finished

    def clear(self) -> None:
        """Remove what the job left if it ended before its first epoch was saved, so that it can start again.

        Raises:
            RunError: The folder holds something else, which is left alone.
        """
        if self.state() != "begun":
            return
        state = weights_file(self.folder, STATE_NAME)
        killed_in_first_epoch = is_file(state) and not state.stat().st_size
        if any(self.folder.glob("weights/*.pt")) and not killed_in_first_epoch:
            raise RunError(
                f"{self.folder}: it holds weights, but is neither finished nor can it be resumed. Expected "
                f"weights/{STATE_NAME}, or nothing. Move the folder away, and its run is trained anew."
            )
        if not is_run(self.folder) and any(path.is_file() for path in self.folder.rglob("*")):
            raise RunError(
                f"{self.folder}: not a run folder, and not empty. Move it away: a run of the study goes here."
            )
        shutil.rmtree(self.folder)
