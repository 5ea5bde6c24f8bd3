"""Reading and injecting an x-scale checkpoint, ours beside ``torch.load`` and ``load_state_dict``, and their ratios.

Usage:
    python scripts/bench_checkpoint.py                 # yolov8x, a bare state dict and a resume file with an optimizer
    python scripts/bench_checkpoint.py --model yolo12x --rounds 11

Both fill a backbone that stands ready, from the same file, which is in the page cache. Ours also hashes the file,
compares its checksums, checks every name, shape and value, and reports; torch does none of this. Every run is a
process of its own, so that peak memory is its own; arms take turns, so that a busy machine is busy for all of them.
In both, threads without work sleep, as in the ``kdyolo`` command: spinning ones would take the other thread's core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = ("state dict", "resume file")
ARMS = ("torch", "kdyolo")
LIMIT = 1.5  # times torch's time and memory


def main() -> None:
    """Write the files, run every arm in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="yolov8x", help="family and scale")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options.arm, options.model, Path(options.file))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in FILES:
            path = write(kind, options.model, Path(folder))
            runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
            for _ in range(options.rounds):
                for arm in ARMS:
                    command = [sys.executable, __file__, "--model", options.model, "--arm", arm, "--file", str(path)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    runs[arm].append(json.loads(done.stdout.splitlines()[-1]))
            report(kind, path, runs)
            path.unlink()


def write(kind: str, model: str, folder: Path) -> Path:
    """A file of random weights, under Ultralytics' names, that torch can load too."""
    import torch

    from kdyolo.models.backbone import DistilledBackbone

    layers = DistilledBackbone(model).layers
    path, tensors = folder / kind.replace(" ", "_"), layers.state_dict()
    content: dict[str, Any] = {"backbone": tensors, "meta": {"model_name": model}}
    if kind == "resume file":  # the two moments of an Adam, as the old system saved them
        moments = {
            i: {"exp_avg": p.detach() * 0.5, "exp_avg_sq": p.detach() + 1} for i, p in enumerate(layers.parameters())
        }
        content |= {"optimizer": {"state": moments, "param_groups": []}, "epoch": 4}
    torch.save(content, path)
    return path


def measure(arm: str, model: str, path: Path) -> dict[str, float]:
    """Fill a backbone once; seconds, and by how many bytes the process grew at most."""
    from kdyolo.utils.system import let_threads_sleep

    let_threads_sleep()  # before torch is there
    from kdyolo.checkpoints.loading import load_into
    from kdyolo.checkpoints.reader import read_checkpoint
    from kdyolo.models.backbone import DistilledBackbone

    backbone = DistilledBackbone(model)
    path.read_bytes()  # into the page cache

    def ours() -> None:
        load_into(backbone, read_checkpoint(path))

    before = peak(reset=True)
    start = time.perf_counter()
    (ours if arm == "kdyolo" else torchs(path, backbone))()
    return {"seconds": time.perf_counter() - start, "bytes": peak() - before}


def torchs(path: Path, backbone: Any) -> Callable[[], None]:
    """What a person writes who trusts the file."""
    import torch

    def load() -> None:
        tensors = torch.load(path, map_location="cpu", weights_only=True)["backbone"]
        backbone.layers.load_state_dict(tensors)

    return load


def peak(reset: bool = False) -> int:
    """Largest resident memory of this process so far, or since the last reset, in bytes (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def report(kind: str, path: Path, runs: dict[str, list[dict[str, float]]]) -> None:
    """One line for each arm, and the ratios."""
    size = path.stat().st_size
    print(f"\n{kind}, {size / 1e6:.0f} MB, medians of {len(runs['torch'])} runs")
    medians = {arm: {k: statistics.median(r[k] for r in runs[arm]) for k in ("seconds", "bytes")} for arm in ARMS}
    for arm, figures in medians.items():
        print(f"  {arm:<7} {figures['seconds'] * 1e3:7.0f} ms   peak memory +{figures['bytes'] / 1e6:.0f} MB")
    for what in ("seconds", "bytes"):
        ratio = medians["kdyolo"][what] / medians["torch"][what]
        verdict = "within" if ratio <= LIMIT else "ABOVE"
        print(f"  {'time' if what == 'seconds' else 'memory'}: {ratio:.2f} × torch, {verdict} the limit of {LIMIT} ×")


if __name__ == "__main__":
    main()
