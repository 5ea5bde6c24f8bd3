"""Long use: many epochs, a report that is written again and again, a study that is killed and called again.

Usage:
    python scripts/soak.py                                          # 60 epochs, 200 rewrites, 20 kills
    python scripts/soak.py --epochs 12 --rewrites 20 --kills 2

Prints memory and open files at the start, in the middle and at the end of each. They level off if the second half adds
less than 5 % of memory and no open file; exit code 1 if they do not. Linux only.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT))

from kdyolo import KDYOLO, convert_coco  # noqa: E402
from kdyolo.data.synthetic import draw_dataset  # noqa: E402
from tests.builders.run_folders import write_full_run  # noqa: E402

TINY: dict[str, Any] = {"imgsz": 32, "batch": 4, "plots": False, "workers": 0}
MORE = 0.05  # by which memory may grow in the second half

Sample = tuple[float, int]  # MB that are resident, open files


def sample() -> Sample:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(list(Path("/proc/self/fd").iterdir()))


def levels_off(what: str, samples: Sequence[Sample]) -> bool:
    """Print start, middle and end; whether the second half adds next to nothing."""
    (start, middle, end) = (samples[i] for i in (0, len(samples) // 2, -1))
    shown = " → ".join(f"{memory:.0f} MB, {files} files" for memory, files in (start, middle, end))
    level = end[0] <= middle[0] * (1 + MORE) and end[1] <= middle[1]
    print(f"{what}: {shown}{'' if level else '  GROWS'}", flush=True)
    return level


def epochs(folder: Path, data: Path, number: int) -> bool:
    """One training of so many epochs, a sample after each."""
    samples: list[Sample] = []
    model = KDYOLO("kdyolov8n.yaml")
    model.add_callback("on_fit_epoch_end", lambda trainer: samples.append(sample()))
    model.train(**TINY, data=str(data), device="cpu", epochs=number, work_dir=folder / "run", freeze_epochs=number // 2)
    return levels_off(f"{number} epochs", samples[2:])


def rewrites(folder: Path, data: Path, number: int) -> bool:
    """A report watched while its run goes on; a sample after each time that it is written."""
    from kdyolo.experiments.compare import compare_runs
    from kdyolo.experiments.watch import SHORTEST, watch

    other = write_full_run(folder / "watched" / "other", epochs=number, seed=1, data=data)
    run = write_full_run(folder / "watched" / "run", epochs=number + 2, done=1, data=data)
    rows = (write_full_run(folder / "source", epochs=number + 2, data=data) / "results.csv").read_text().splitlines()
    samples: list[Sample] = []

    def compare() -> Any:
        samples.append(sample())
        with (run / "results.csv").open("a") as file:
            print(rows[min(len(samples) + 1, len(rows) - 1)], file=file)
        if len(samples) > number:
            raise KeyboardInterrupt
        return compare_runs(run, other, baseline=run, anyway=True)

    watch(compare, [run, other], folder / "report", interval=SHORTEST, tell=lambda line: None)
    return levels_off(f"{len(samples) - 1} rewrites of a report", samples[2:])


def rows_of(study: Path) -> list[int]:
    """Epochs in ``results.csv`` of each run of a study."""
    return [len(path.read_text().splitlines()) - 1 for path in sorted(study.glob("a/*/results.csv"))]


def kills(folder: Path, data: Path, number: int) -> bool:
    """A study that dies again and again, and is called again: in the end its runs are whole, and nothing is left.

    Each call is ended once it has added one to three epochs, in turn by Ctrl-C and by SIGKILL, so that none finishes.
    """
    length = 2 * number + 4
    content = {"name": "s", "data": str(data), "base": {**TINY, "epochs": length, "val": False}, "seeds": [0, 1]}
    content |= {"arms": {"a": {"random_init": True}}, "devices": ["cpu"], "baseline": "a"}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "kdyolo", "study", "study.yaml"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])}
    study, sizes, done, early = folder / "studies" / "s", list[int](), list[int](), 0
    for turn in range(number):
        wanted = sum(rows_of(study)) + 1 + turn % 3
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while process.poll() is None and sum(rows_of(study)) < wanted and time.monotonic() < until:
            time.sleep(0.02)
        early += process.poll() is not None or sum(rows_of(study)) < wanted
        process.send_signal(signal.SIGKILL if turn % 2 else signal.SIGINT)
        process.wait()
        sizes.append(sum(1 for _ in study.rglob("*")))
        done.append(sum(rows_of(study)))
    last = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    rows = rows_of(study)
    left = [path.name for pattern in ("*.tmp", "pid.txt", "resume.pt", ".*") for path in study.rglob(pattern)]
    whole = last.returncode == 0 and rows == [length, length] and not left and not early and done == sorted(done)
    print(
        f"{number} kills of a study, {early} of calls that had ended or stood still: files {sizes}, epochs {done}, "
        f"then {rows}; left behind {left}{'' if whole else '  WRONG'}",
        flush=True,
    )
    if last.returncode:
        print(last.stderr[-2000:])
    return whole


def main() -> None:
    """All three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--rewrites", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs ignore it, and so what they start
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name).resolve()
        data = convert_coco(draw_dataset(folder / "root", {"train": 4, "val": 2}, imgsz=32), folder / "data").yaml
        fine = [
            kills(folder, data, options.kills),
            rewrites(folder, data, options.rewrites),
            epochs(folder, data, options.epochs),
        ]
    sys.exit(not all(fine))


if __name__ == "__main__":
    main()
