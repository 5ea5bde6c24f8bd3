"""Process of one rank, as the launcher starts it: trains what it finds in a file, and says in another why it failed."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from kdyolo.engine.ranks.launcher import REPORTS, RankReport
from kdyolo.runs.process_control import Terminated, ended_by_signals, honour_launch
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.progress import log_escaped

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 130, 143
LOOK = 1.0  # seconds between two looks at whether the launcher lives
LEFT_ALONE = 30.0  # seconds that a rank gets to end by itself once the launcher has ended


def train_rank() -> None:
    """Train as one of several ranks; the only argument is the file that :func:`launcher.train_on_ranks` wrote."""
    honour_launch()
    threading.Thread(target=_end_after, args=[os.getppid()], daemon=True).start()
    with reporting(), ended_by_signals(), log_escaped():
        job = torch.load(sys.argv[1], map_location="cpu", weights_only=False)
        trainer = job["trainer"](**job["start"], _callbacks=job["callbacks"])
        if isinstance(job["model"], nn.Module):
            trainer.model = job["model"]
        trainer.train()


@contextmanager
def reporting() -> Iterator[None]:
    """End this process as the work within ends, and leave an error for the launcher to tell.

    Raises:
        SystemExit: Always, but after success: interrupted, terminated, or failed.
    """
    try:
        yield
    except Terminated:
        sys.exit(EXIT_TERMINATED)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except Exception as e:
        rank = int(os.environ["RANK"])
        report = RankReport(type(e).__name__, str(e), traceback.format_exc(), time.monotonic(), rank)
        write_atomic(Path(os.environ[REPORTS]) / f"rank{rank}.json", json.dumps(asdict(report)))
        sys.exit(EXIT_ERROR)


def _end_after(launcher: int) -> None:
    """End this process and its workers after the launcher, even if it hangs while it waits for another rank.

    On Linux the kernel has sent SIGTERM by then.
    """
    while os.getppid() == launcher:
        time.sleep(LOOK)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEFT_ALONE)
    os.killpg(0, signal.SIGKILL)  # a rank leads a session of its own
