"""Kill a tiny training at random moments, resume it to its end, and compare that with a run that was never interrupted.

    python scripts/random_kills.py --kills 200 --jobs 2

The run has five epochs: two frozen, a thaw with a ramp, and steps of three batches where an epoch has two. A process
kills itself when it is about to open, rename, make or remove a file, at a moment drawn for it; some are killed again
while they resume. Checkpoints must then be equal bit for bit, and ``results.csv`` to the last digit, but for times and
memory. A run may be started over only if none of its epochs had been saved. Exits with 1 if any kill fails.
"""

from __future__ import annotations

import argparse
import csv
import gc
import mmap
import multiprocessing
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # no thread that a fork would lose
os.environ.setdefault("YOLO_OFFLINE", "true")

import torch
from ultralytics.nn.tasks import DetectionModel

from kdyolo import KDYOLO
from kdyolo.data.coco_to_yolo import convert_coco
from kdyolo.data.synthetic import draw_dataset
from kdyolo.engine.resume import read_state
from kdyolo.engine.start.plan import plan_run
from kdyolo.runs.files import PID_NAME, PROCESS_NAME, STATE_NAME, ever_saved, resumable, weights_file
from kdyolo.utils.tables import aligned

EPOCHS = 5
SET_UP, END = 0, EPOCHS + 1  # moments: before the first epoch, the epochs from 1, after the last
OPTIONS: dict[str, Any] = {
    "epochs": EPOCHS,
    "freeze_epochs": 2,
    "thaw_warmup": 1,
    "imgsz": 32,
    "batch": 4,
    "nbs": 12,
    "warmup_epochs": 1.5,
    "close_mosaic": 2,
    "lr0": 0.05,
    "seed": 11,
    "device": "cpu",
    "plots": False,
}
CALLS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")  # as Python's audit events name them
DEAR = ("pandas", "matplotlib.pyplot", "scipy.optimize", "faster_coco_eval", "torchvision")  # imported before a fork
KILLED_AGAIN = 0.35  # share of the runs


class Clock:
    """Where a process is, in memory that its parent sees: the moment, and the calls made in each one."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4 * (EPOCHS + 3))

    def __getitem__(self, index: int) -> int:
        return int(struct.unpack_from("i", self._memory, 4 * index)[0])

    def __setitem__(self, index: int, value: int) -> None:
        struct.pack_into("i", self._memory, 4 * index, value)

    @property
    def moment(self) -> int:
        """The moment that the process has reached."""
        return self[EPOCHS + 2]

    @moment.setter
    def moment(self, value: int) -> None:
        self[EPOCHS + 2] = value

    @property
    def calls(self) -> list[int]:
        """Number of calls made in each moment."""
        return [self[moment] for moment in range(END + 1)]


@dataclass(frozen=True)
class Setting:
    """What all runs share.

    Attributes:
        folder: Folder of everything that is written.
        data: Dataset YAML.
        backbone: Distillation checkpoint.
        calls: Number of calls that the uninterrupted run made in each moment.
    """

    folder: Path
    data: Path
    backbone: Path
    calls: Sequence[int] = ()


@dataclass(frozen=True)
class Outcome:
    """How one run went.

    Attributes:
        seed: What it can be repeated with.
        moments: Moments in which it was killed.
        resumed_after: Epochs after which it was resumed; 0 for a start over, one more than the last for an end.
        mistake: What was wrong; empty if nothing was.
    """

    seed: str
    moments: tuple[int, ...]
    resumed_after: tuple[int, ...]
    mistake: str


def train(setting: Setting, run: Path, clock: Clock, die: tuple[int, int] | None = None) -> int:
    """Start or resume a run in a process of its own, which dies at the given call of a moment; its exit code."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        with Path(f"{run}.txt").open("ab") as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
        work(setting, run, clock, die)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def work(setting: Setting, run: Path, clock: Clock, die: tuple[int, int] | None) -> None:
    """Start or resume a run here; see :func:`train`."""
    resume = resumable(run)
    model = KDYOLO(weights_file(run, "last.pt")) if resume else KDYOLO(backbone=setting.backbone)

    def begins(trainer: Any) -> None:
        clock.moment = trainer.epoch + 1

    def ends(trainer: Any) -> None:
        if trainer.epoch + 1 >= trainer.epochs:
            clock.moment = END

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CALLS and not isinstance(arguments[0], int):  # a number is a file that is open already
            moment = clock.moment
            if die == (moment, clock[moment]):
                os.kill(os.getpid(), signal.SIGKILL)
            clock[moment] += 1

    model.add_callback("on_train_epoch_start", begins)
    model.add_callback("on_fit_epoch_end", ends)
    sys.addaudithook(audit)
    if resume:
        model.train(resume=True)
    else:
        model.train(data=str(setting.data), work_dir=str(run), exist_ok=True, **OPTIONS)


def drawn(setting: Setting, seed: str) -> Outcome:
    """A run that is killed once or more, and resumed to its end."""
    chance, run = random.Random(seed), setting.folder / seed
    moments: list[int] = []
    resumed: list[int] = []
    mistake, was_saved = "", False
    kills = 1 + (chance.random() < KILLED_AGAIN) + (chance.random() < KILLED_AGAIN / 4)
    while not mistake:
        clock = Clock()
        die = draw_call(chance, setting.calls, moments) if len(moments) < kills else None
        code = train(setting, run, clock, die)
        if code not in (0, -signal.SIGKILL):
            mistake = f"exit code {code}, see {run}.txt"
        elif code == 0:
            mistake = differences(run, setting.folder / "whole")
            break
        moments.append(clock.moment)
        was_saved |= clock.moment > 1 or ever_saved(run)
        finished = ever_saved(run) and not weights_file(run, STATE_NAME).exists()
        if finished:
            resumed.append(END)
            mistake = differences(run, setting.folder / "whole")
            break
        resumed.append(read_state(weights_file(run, "last.pt")).epoch + 1 if resumable(run) else 0)
        if was_saved and not resumed[-1]:
            mistake = "an epoch had been saved, but it cannot be resumed"
    if not mistake:
        shutil.rmtree(run)
        Path(f"{run}.txt").unlink()
    return Outcome(seed, tuple(moments), tuple(resumed), mistake)


def draw_call(chance: random.Random, calls: Sequence[int], moments: Sequence[int]) -> tuple[int, int]:
    """A moment, and which call of it; a run that resumes is at its set-up, or not before where it was."""
    possible = [SET_UP, *range(max(moments[-1], 1), END + 1)] if moments else range(END + 1)
    moment = chance.choice(possible)
    return moment, chance.randrange(max(calls[moment], 1))


def differences(run: Path, whole: Path) -> str:
    """What differs from the uninterrupted run, in words; empty if nothing does."""
    found = [
        f"{name}: {len(names)} tensors" for name in ("last.pt", "best.pt") if (names := differing(run, whole, name))
    ]
    if rows(run) != rows(whole):
        found.append("results.csv")
    if names := names_of(run) ^ names_of(whole):
        found.append(f"files: {', '.join(sorted(names))}")
    return f"differs in {'; '.join(found)}" if found else ""


def differing(run: Path, whole: Path, name: str) -> list[str]:
    """Names of the tensors in which a checkpoint of two runs differs."""
    one, other = (
        torch.load(weights_file(path, name), weights_only=False)["model"].state_dict() for path in (run, whole)
    )
    return [key for key in other if key not in one or not torch.equal(one[key], other[key])]


def rows(run: Path) -> list[dict[str, str]]:
    """Rows of ``results.csv`` without what no two runs have in common."""
    with (run / "results.csv").open(encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in ("time", "memory/GB")} for row in csv.DictReader(file)]


def names_of(run: Path) -> set[str]:
    """Relative paths of all files and folders in a run folder."""
    return {str(path.relative_to(run)) for path in run.rglob("*")} - {PID_NAME, PROCESS_NAME}


def prepared(folder: Path) -> Setting:
    """Data, a backbone and the uninterrupted run."""
    data = convert_coco(draw_dataset(folder / "root", {"train": 8, "val": 4}, imgsz=64), folder / "data").yaml
    torch.manual_seed(0)
    tensors = DetectionModel("yolov8n.yaml", verbose=False).state_dict()
    torch.save({"state_dict": tensors, "model_name": "yolov8n"}, folder / "yolov8n.pth")
    setting, clock = Setting(folder, data, folder / "yolov8n.pth"), Clock()
    for name in DEAR:
        import_module(name)
    plan_run({"data": str(data), "backbone": str(setting.backbone), **OPTIONS})  # imports what a plan needs
    gc.collect()
    gc.freeze()  # so that children do not copy every page by counting references
    if code := train(setting, folder / "whole", clock):
        sys.exit(f"the uninterrupted run ended with {code}:\n{(folder / 'whole.txt').read_text()[-3000:]}")
    return Setting(folder, data, setting.backbone, clock.calls)


def table(outcomes: Sequence[Outcome]) -> str:
    """Where runs were killed, and after which epoch they were resumed."""
    names = {0: "started over", END: "had ended", **{epoch: f"after {epoch}" for epoch in range(1, EPOCHS + 1)}}
    counts = Counter(pair for outcome in outcomes for pair in zip(outcome.moments, outcome.resumed_after, strict=False))
    columns = [0, *range(1, EPOCHS + 1), END]
    lines = [["killed", "times", *(names[column] for column in columns)]]
    for moment in range(END + 1):
        name = {SET_UP: "setting up", END: "at the end"}.get(moment, f"in epoch {moment}")
        cells = [counts[moment, column] for column in columns]
        lines.append([name, str(sum(cells)), *(str(cell) if cell else "·" for cell in cells)])
    return "\n".join(aligned(lines, "<>"))


def main() -> None:
    """Kill as often as asked; print where runs were killed and resumed, and what failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="runs that are killed")
    parser.add_argument("--seed", default="0", help="the same seed kills at the same calls")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="random-kills-"))
    setting, outcomes = prepared(folder), []
    print(f"calls in each moment: {setting.calls}", flush=True)
    seeds = [f"{options.seed}-{number}" for number in range(options.kills)]
    with multiprocessing.get_context("fork").Pool(options.jobs) as pool:
        try:
            for outcome in pool.imap_unordered(partial(drawn, setting), seeds):
                outcomes.append(outcome)
                if outcome.mistake:
                    print(f"{outcome.seed}: killed in {outcome.moments}: {outcome.mistake}", flush=True)
        except KeyboardInterrupt:
            print("interrupted; so far:")
    print(table(outcomes))
    failed = [outcome.seed for outcome in outcomes if outcome.mistake]
    again = sum(len(outcome.moments) > 1 for outcome in outcomes)
    print(f"{len(outcomes)} runs, {again} of them killed again while they resumed; {len(failed)} failed {failed or ''}")
    if failed:
        sys.exit(f"kept for a look: {folder}")
    shutil.rmtree(folder, ignore_errors=True)  # after Ctrl-C, a run may still write


if __name__ == "__main__":
    main()
