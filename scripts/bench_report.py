"""The report of 12 runs of 300 epochs: its size, seconds to write it, and seconds until a browser shows and draws it.

    python scripts/bench_report.py [--arms 4] [--seeds 3] [--epochs 300]

Runs are made up, with the columns that a real one has and COCO's 80 classes, without pictures. Beside it stands the
floor: plotly.js in a page with one empty chart. Needs playwright and a Chromium on the PATH.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import yaml
from plotly.offline import get_plotlyjs

from kdyolo.experiments.compare import compare_runs
from kdyolo.experiments.report import write_report

REPEATS = 5
CLASSES = 80
MAIN = "metrics/mAP50-95(B)"
GROUPS = [f"lr/{part}/{group}" for group in ("weight", "bn", "bias") for part in ("backbone", "head")]
LOSSES = [f"{split}/{name}_loss" for split in ("train", "val") for name in ("box", "cls", "dfl")]
OFFICIAL = [*("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"), *("AR1", "AR10", "AR100")]
OFFICIAL += ["AR_small", "AR_medium", "AR_large"]


def write_run(folder: Path, arm: int, seed: int, epochs: int) -> None:
    """A finished run; odd arms are frozen for their first half."""
    dice, half = random.Random(1000 * arm + seed), epochs // 2 * (arm % 2)
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "best.pt").touch()
    args = {
        "data": "coco.yaml",
        "model": "kdyolov8n.yaml",
        "imgsz": 640,
        "epochs": epochs,
        "seed": seed,
        "save_dir": str(folder),
    }
    schedule = {"freeze_epochs": half, "epochs": epochs}
    record = {"settings": {"freeze_epochs": half, "backbone_lr": 1.0 + arm}, "schedule": schedule, "seed": seed}
    (folder / "args.yaml").write_text(yaml.safe_dump(args))
    (folder / "kdyolo.yaml").write_text(yaml.safe_dump(record))
    header = ["epoch", "time", *LOSSES, "metrics/mAP50(B)", MAIN, *GROUPS, "memory/GB"]
    lines = [",".join(header)]
    for epoch in range(1, epochs + 1):
        ap = (0.36 + 0.005 * arm) * (1 - math.exp(-5 * epoch / epochs)) + dice.gauss(0, 0.002)
        losses = [1 + math.exp(-epoch / 50) + dice.gauss(0, 0.02) for _ in LOSSES]
        rates = [0.0 if epoch <= half and "backbone" in name else 0.01 * (1 - epoch / epochs) for name in GROUPS]
        values = [60.0 * epoch, *losses, 1.5 * ap, ap, *rates, 5.0]
        lines.append(",".join([str(epoch), *(f"{value:.5f}" for value in values)]))
    (folder / "results.csv").write_text("\n".join(lines) + "\n")
    classes = [
        {"category_id": i, "name": f"class {i}", "objects": 9, "ap": dice.random(), "ap50": 0.5, "ap75": 0.5}
        for i in range(CLASSES)
    ]
    scores = {name: 0.36 + dice.gauss(0, 0.005) for name in OFFICIAL}
    (folder / "coco_metrics.json").write_text(json.dumps({"annotations": "val.json", **scores, "per_class": classes}))


def write_floor(path: Path) -> None:
    """A page with plotly.js and one empty chart."""
    draw = "Plotly.newPlot('chart', []).then(() => { document.documentElement.dataset.drawn = '1'; });"
    body = f"<div id=chart></div><script>{get_plotlyjs()}</script><script>{draw}</script>"
    path.write_text(f"<!doctype html><meta charset=utf-8>{body}", encoding="utf-8")


def load(pages: dict[str, Path]) -> dict[str, tuple[float, float]]:
    """Page → seconds until it is first painted, and until all charts are drawn; medians, pages taking turns."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise SystemExit("no Chromium on the PATH; install one to measure loading.")
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(REPEATS):
            for name, path in pages.items():
                tab = browser.new_page(viewport={"width": 1200, "height": 800})
                start = perf_counter()
                tab.goto(path.as_uri(), wait_until="commit")
                tab.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
                drawn = perf_counter() - start
                painted = tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN")
                seconds[name].append((painted / 1000, drawn))
                tab.close()
        browser.close()
    return {name: (median(p for p, _ in of), median(d for _, d in of)) for name, of in seconds.items()}


def main() -> None:
    """Write, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("arms", 4), ("seeds", 3), ("epochs", 300)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        study, out, floor = Path(temporary, "study"), Path(temporary, "report"), Path(temporary, "floor.html")
        for arm in range(options.arms):
            for seed in range(options.seeds):
                write_run(study / f"arm{arm}" / f"seed{seed}", arm, seed, options.epochs)
        write_floor(floor)
        start = perf_counter()
        comparison = compare_runs(study, baseline="arm0")
        compared = perf_counter() - start
        written = []
        for _ in range(REPEATS):
            start = perf_counter()
            report = write_report(comparison, out)
            written.append(perf_counter() - start)
        times = load({"report": report, "floor": floor})
        size, floor_size = report.stat().st_size / 1e6, floor.stat().st_size / 1e6
    runs = options.arms * options.seeds
    print(f"{runs} runs × {options.epochs} epochs, {CLASSES} classes; medians of {REPEATS}")
    print(f"size       {size:.2f} MB; plotly.js alone {floor_size:.2f} MB ({size / floor_size:.2f} ×)")
    print(f"comparing  {compared:.2f} s    writing {median(written):.2f} s")
    (text, drawn), (_, least) = times["report"], times["floor"]
    print(f"text on the screen after {text:.2f} s")
    print(f"all charts drawn after {drawn:.2f} s; plotly.js with an empty chart {least:.2f} s ({drawn / least:.2f} ×)")


if __name__ == "__main__":
    main()
