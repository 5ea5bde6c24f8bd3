"""A real study on coco128, killed half way and finished by a second call: does a backbone that learned help?

Usage:
    python scripts/study_coco128.py --coco ../shared/coco128 --backbone ../shared/checkpoints/trained_n_clean.pth

Two arms (random; distilled and frozen) × two seeds, yolov8n, 96 px, on the CPU. Prints the time of both calls, what
the second left alone, and the comparison; opens the report in a headless Chromium, and fails if anything is wrong with
the page. The backbone has seen the training images: the figures say that
studies work, and nothing about any other backbone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from kdyolo import Study, convert_coco


def write_study(options: argparse.Namespace, folder: Path) -> Path:
    """The study file, and the data set that it is about."""
    data = convert_coco(options.coco, folder / "coco").yaml
    study = {
        "name": "coco128",
        "data": str(data),
        "base": {
            "epochs": options.epochs,
            "imgsz": 96,
            "batch": 16,
            "optimizer": "AdamW",
            "lr0": 0.002,
            "warmup_epochs": 1,
            "plots": False,
        },
        "arms": {
            "random": {"random_init": True},
            "distilled": {"backbone": str(options.backbone.resolve()), "freeze": "all"},
        },
        "seeds": list(range(options.seeds)),
        "devices": [options.device],
        "baseline": "random",
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def weights(folder: Path) -> dict[Path, int]:
    """Every checkpoint and when it was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("best.pt")}


def look(report: Path, arms: int, seeds: int) -> str:
    """Open a report in a browser: what it draws. Its picture is saved beside it.

    Raises:
        SystemExit: The console shows an error, something is loaded, or a curve is missing.
    """
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("no Chromium on the PATH; install one to check the report.")
    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else faults.append(r.url))
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
        charts = page.locator("[id^=chart-curve-]").count()
        curves = page.locator("[id^=chart-curve-] .scatterlayer .trace .lines path").count()
        verdict = page.locator(".words").first.inner_text()
        page.screenshot(path=report.with_suffix(".png"), full_page=True)
        browser.close()
    if curves < charts * arms * (seeds + 1):  # each seed, and their mean
        faults.append(f"{curves} curves in {charts} charts, expected {arms} × {seeds + 1} in each")
    if faults or not charts:
        sys.exit(f"the report is not as it should be: {faults}")
    return f"{charts} charts with {curves} curves, nothing loaded, no error; verdict: {verdict}"


def main() -> None:
    """Run the study, kill it in the middle of its second run, and run it again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco", type=Path, required=True, help="folder in the official layout")
    parser.add_argument("--backbone", type=Path, required=True, help="checkpoint of scale n")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="folder to keep everything in; default: a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.out or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        file = write_study(options, folder)
        command = [sys.executable, "-m", "kdyolo", "study", str(file)]
        began = time.monotonic()
        first = subprocess.Popen(command, cwd=folder)
        study = Study.from_file(file, root=folder / "studies")
        second = study.runs[1].folder
        while not any(path.stat().st_size for path in second.glob("weights/resume.pt")):
            if first.poll() is not None:
                sys.exit("the study ended before it could be killed")
            time.sleep(0.05)
        first.kill()
        first.wait()
        killed = time.monotonic()
        finished = weights(study.runs[0].folder)
        print(f"\nkilled after {killed - began:.0f} s: {study.plan()['status'].tolist()}\n", flush=True)
        subprocess.run(command, cwd=folder, check=True)
        print(f"\nsecond call: {time.monotonic() - killed:.0f} s")
        print(f"weights of the finished run untouched: {weights(study.runs[0].folder) == finished}")
        print(study.results().drop(columns="folder").to_string(index=False))
        comparison = study.comparison()
        for difference in comparison.differences if comparison else ():
            print(f"{difference.arm} − {difference.baseline}, {difference.metric}: {difference.words}")
        report = next((folder / "studies").rglob("report.html"))
        print(f"in the browser: {look(report, arms=2, seeds=options.seeds)}")


if __name__ == "__main__":
    main()
