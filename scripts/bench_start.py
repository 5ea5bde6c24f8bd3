"""Starting a training and a whole short one: this checkout beside stock Ultralytics and, if given, an older checkout.

Usage:
    python scripts/bench_start.py
    python scripts/bench_start.py --old ../kdyolo-before --rounds 7

Every arm is the command that a person types, in a process of its own, on the same drawn images with the same settings:
one epoch of yolov8n on five images. The arms take turns, in another order each round, so that a busy machine is busy
for all. Measured from the start of the process: seconds until the header of the first epoch is printed, which is when
the first batch is asked for, and seconds until the process has ended; both also in seconds of the processor, which
other work on the machine disturbs less. kdyolo's runs end with the official COCO metrics, stock runs without.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from kdyolo import convert_coco
from kdyolo.data.synthetic import draw_dataset
from kdyolo.engine.options.recipes import load_recipe

CHECKOUT = Path(__file__).resolve().parents[1]
FIRST_BATCH = "GPU_mem"  # in the header that both print above the first batch's losses
SETTINGS = {"epochs": 1, "imgsz": 160, "batch": 5, "device": "cpu", "workers": 0, "plots": False}
MEASURES = ("seconds to the first batch", "seconds in all", "CPU seconds to the first batch", "CPU seconds in all")
STOCK = "import sys; from ultralytics.cfg import entrypoint; sys.argv[0] = 'yolo'; entrypoint()"


def main() -> None:
    """Draw the data, let the arms take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="an older checkout of kdyolo to compare with")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = convert_coco(draw_dataset(folder / "root", {"train": 5, "val": 5}), folder / "data").yaml
        arms = commands(data, options.old)
        measured: dict[str, list[tuple[float, ...]]] = {arm: [] for arm in arms}
        for number in range(options.rounds + 1):
            order = list(arms)
            random.Random(number).shuffle(order)
            for arm in order:
                command, checkout = arms[arm]
                times = run([*command, *placed(arm, folder / f"{arm.split()[0]}-{number}")], checkout, folder)
                if number:  # the first round fills the system's caches
                    measured[arm].append(times)
    report(measured)


def commands(data: Path, old: Path | None) -> dict[str, tuple[list[str], Path | None]]:
    """Arm → its command, and the checkout that it imports kdyolo from."""
    shared = [f"{key}={value}" for key, value in SETTINGS.items()]
    ours = [sys.executable, "-m", "kdyolo", "train", "--data", str(data), "--model", "kdyolov8n.yaml", "--random-init"]
    recipe = [f"{key}={value}" for key, value in load_recipe("coco").items() if key not in SETTINGS]
    stock = [sys.executable, "-c", STOCK, "detect", "train", f"data={data}", "model=yolov8n.yaml", *recipe, *shared]
    own = [*ours, *(word for key in ("epochs", "imgsz", "batch", "device", "workers") for word in option(key))]
    arms: dict[str, tuple[list[str], Path | None]] = {
        "kdyolo": ([*own, "plots=False"], CHECKOUT),
        "stock": (stock, None),
    }
    if old:
        arms["old kdyolo"] = ([*own, "plots=False"], old.resolve())
    return arms


def option(key: str) -> tuple[str, str]:
    """A setting as an option of ``kdyolo train``."""
    return f"--{key}", str(SETTINGS[key])


def placed(arm: str, folder: Path) -> list[str]:
    """Where an arm puts its run."""
    return [f"save_dir={folder}"] if arm == "stock" else ["--work-dir", str(folder)]


def run(command: list[str], checkout: Path | None, folder: Path) -> tuple[float, ...]:
    """Seconds until the first batch, and until the end; the same in seconds of the processor."""
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true", "PYTHONUNBUFFERED": "1"}
    environment |= {"PYTHONPATH": str(checkout)} if checkout else {}
    began, first, before = time.perf_counter(), None, sum(os.times()[2:4])
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if first is None and FIRST_BATCH in line:
            first = time.perf_counter() - began, sum(psutil.Process(process.pid).cpu_times()[:2])
    if process.wait() or first is None:
        sys.exit(f"{' '.join(command)} failed:\n{''.join(lines[-30:])}")
    return first[0], time.perf_counter() - began, first[1], sum(os.times()[2:4]) - before


def report(measured: dict[str, list[tuple[float, ...]]]) -> None:
    """Print medians, ranges, and the ratio of each round's pair."""
    for index, what in enumerate(MEASURES):
        print(what)
        for arm, times in measured.items():
            values = [each[index] for each in times]
            print(f"  {arm:<12}{statistics.median(values):>8.2f}   ({min(values):.2f} … {max(values):.2f})")
        for arm in measured.keys() - {"kdyolo"}:
            ratios = [a[index] / b[index] for a, b in zip(measured["kdyolo"], measured[arm], strict=True)]
            print(f"  kdyolo / {arm:<12}{statistics.median(ratios):.2f}   ({min(ratios):.2f} … {max(ratios):.2f})")


if __name__ == "__main__":
    main()
