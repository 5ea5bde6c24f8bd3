"""Converting a file of train2017's size: kdyolo, Ultralytics' ``convert_coco``, and the floor, side by side in one run.

Usage:
    python scripts/bench_convert.py --records ../shared/coco128          # about five minutes, 2 GB on the RAM disk
    python scripts/bench_convert.py --records ../shared/coco128 --images 12000 --rounds 1    # a quick look
    python scripts/bench_convert.py --records ../shared/coco128 --where /data/tmp            # on another disk
    python scripts/bench_convert.py --records ../shared/coco128 --scales 0.25 0.5 1          # linear in annotations?

The file repeats the records of a small COCO folder under new ids until it has ``--images`` images; its annotations are
in no order of images, as those of COCO's own files; the image files are empty, since none is opened. The floor decodes
the same bytes with typed structs and creates the same files, their content known, and does nothing else. Every arm
works in a process of its own, so that peak memory is its own; arms take turns, round by round, so that a busy machine
is busy for all of them. Peak memory is an upper bound: that of the process, and of a helper process for each core, with
the pages that they share counted for each.

With ``--scales`` kdyolo alone converts files of these shares of ``--images``, and a line for each says what a million
annotations take.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdyolo.utils.system import cores

ARMS = ("floor", "kdyolo", "ultralytics")
SPLIT = "train2017"
TRAIN2017 = 118_287  # images
Runs = dict[str, list[dict[str, Any]]]  # arm → what each of its runs measured


def main() -> None:
    """Build the file, run every arm in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True, help="COCO folder whose records are repeated")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"), help="existing folder, best on a RAM disk")
    parser.add_argument("--images", type=int, default=TRAIN2017)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--scales", nargs="+", type=float, help="shares of --images, to see how time grows")
    parser.add_argument("--arm", choices=("build", *ARMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(run_arm(options)))
        return
    if options.scales:
        report_growth([measure(options, ["kdyolo"], round(scale * options.images)) for scale in options.scales])
    else:
        report(measure(options, options.arms, options.images)[1])


def measure(options: argparse.Namespace, arms: Sequence[str], images: int) -> tuple[dict[str, Any], Runs]:
    """Build a file, run the arms in turn, and give what is in the file and what each run measured."""
    runs: Runs = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory(dir=options.where, prefix="bench-convert-") as folder:
        here = argparse.Namespace(**{**vars(options), "where": Path(folder), "images": images})
        size = start_arm("build", here)
        print("{images:,} images, {annotations:,} annotations, {megabytes:.0f} MB".format(**size), flush=True)
        for _ in range(options.rounds):
            for arm in arms:
                runs[arm].append(start_arm(arm, here))
    return size, runs


def start_arm(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one arm in a process of its own and return what it measured."""
    command = [sys.executable, __file__, "--arm", arm, "--where", str(options.where), "--images", str(options.images)]
    command += ["--records", str(options.records.resolve())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_arm(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one arm: seconds and peak memory in bytes. Imports and cleaning up are not counted."""
    root, out = options.where / "coco", options.where / "out"
    if options.arm == "build":
        return build(options.records, root, options.images)
    prepare = {"floor": prepare_floor, "kdyolo": prepare_kdyolo, "ultralytics": prepare_ultralytics}[options.arm]
    work = prepare(root, out)
    began, busy = time.perf_counter(), cpu_seconds()
    parts = work()
    seconds, busy = time.perf_counter() - began, cpu_seconds() - busy
    own, helper = (resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    memory = own + helper * cores()
    shutil.rmtree(out)
    return {"seconds": seconds, "cpu": busy, "memory": memory, "parts": parts or {}}


def cpu_seconds() -> float:
    """Processor time of this process and of the helpers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def prepare_kdyolo(root: Path, out: Path) -> Callable[[], None]:
    """``kdyolo convert ROOT --out OUT``."""
    import kdyolo.data.coco_to_yolo

    def work() -> None:
        kdyolo.data.coco_to_yolo.convert_coco(root, out)

    return work


def prepare_ultralytics(root: Path, out: Path) -> Callable[[], None]:
    """Ultralytics' converter, which writes the label files only."""
    from ultralytics.data.converter import convert_coco

    def work() -> None:
        convert_coco(str(root / "annotations"), str(out))

    return work


def prepare_floor(root: Path, out: Path) -> Callable[[], dict[str, float]]:
    """Decode with typed structs, then create the label files and links that kdyolo creates, their content known."""
    import msgspec

    image = msgspec.defstruct("image", [("id", int), ("file_name", str), ("width", int), ("height", int)], gc=False)
    box = tuple[float, float, float, float]
    fields = [("id", int), ("image_id", int), ("category_id", int), ("bbox", box), ("iscrowd", int)]
    annotation = msgspec.defstruct("annotation", fields, gc=False)
    file = msgspec.defstruct("file", [("images", list[image]), ("annotations", list[annotation])])  # type: ignore[valid-type]
    decoder = msgspec.json.Decoder(file)
    texts = dict(label_texts(root))

    def work() -> dict[str, float]:
        began = time.perf_counter()
        decoder.decode((root / "annotations" / f"instances_{SPLIT}.json").read_bytes())
        decoded = time.perf_counter()
        labels, images = out / "labels" / SPLIT, out / "images" / SPLIT
        labels.mkdir(parents=True)
        images.mkdir(parents=True)
        for name, text in texts.items():
            label = os.open(f"{labels}/{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            os.write(label, text)
            os.close(label)
        written = time.perf_counter()
        for name in texts:
            os.symlink(f"{root}/{SPLIT}/{name}.jpg", f"{images}/{name}.jpg")  # noqa: PTH211
        linked = time.perf_counter()
        return {"decode": decoded - began, "label files": written - decoded, "links": linked - written}

    return work


def label_texts(root: Path) -> Iterator[tuple[str, bytes]]:
    """Image name without suffix → as many bytes as its label file has, from a quick look at the file built."""
    counts: dict[str, int] = json.loads((root / "counts.json").read_text())
    line = b"56 0.123456 0.123456 0.123456 0.123456\n"
    for name, count in counts.items():
        yield name, line * count


def build(records: Path, root: Path, images: int) -> dict[str, Any]:
    """Write ``root/annotations/instances_train2017.json`` and the empty image files ``root/train2017/*.jpg``."""
    sources = [json.loads(path.read_bytes()) for path in sorted((records / "annotations").glob("instances_*.json"))]
    templates = [template for source in sources for template in image_templates(source)]
    head = {key: sources[0][key] for key in ("info", "licenses") if key in sources[0]}
    folder, annotations = root / SPLIT, root / "annotations"
    folder.mkdir(parents=True)
    annotations.mkdir()
    counts: dict[str, int] = {}
    used = list(enumerate(itertools.islice(itertools.cycle(templates), images), start=1))
    ids = itertools.count(1)
    path = annotations / f"instances_{SPLIT}.json"
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(head)[:-1] + ', "images": [')
        for number, (image, _, boxes) in used:
            file.write(", " * (number > 1) + image.replace("@name", f"{number:012d}").replace('"@id"', str(number)))
            counts[f"{number:012d}"] = boxes
            (folder / f"{number:012d}.jpg").touch()
        file.write('], "annotations": [')
        annotations = [(number, text) for number, (_, of_image, _) in used for text in of_image]
        random.Random(0).shuffle(annotations)  # COCO's own are in no order either
        separator = ""
        for number, text in annotations:
            file.write(separator + text.replace('"@image"', str(number)).replace('"@id"', str(next(ids))))
            separator = ", "
        file.write('], "categories": ' + json.dumps(sources[0]["categories"]) + "}")
    (root / "counts.json").write_text(json.dumps(counts))
    return {"images": images, "annotations": next(ids) - 1, "megabytes": path.stat().st_size / 1e6}


def image_templates(source: dict[str, Any]) -> Iterator[tuple[str, list[str], int]]:
    """For each image: its JSON, those of its annotations (with placeholders for ids), how many are no crowds."""
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in source["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    for image in source["images"]:
        annotations = of_image[image["id"]]
        texts = [json.dumps({**annotation, "image_id": "@image", "id": "@id"}) for annotation in annotations]
        boxes = sum(not annotation["iscrowd"] for annotation in annotations)
        yield json.dumps({**image, "file_name": "@name.jpg", "id": "@id"}), texts, boxes


def report_growth(measured: Sequence[tuple[dict[str, Any], Runs]]) -> None:
    """Print medians for each size, and what a million annotations take at that size."""
    print(f"{'annotations':>12} {'seconds':>8} {'per million':>12} {'CPU s':>6} {'per million':>12}")
    for size, runs in measured:
        millions = size["annotations"] / 1e6
        seconds, busy = (statistics.median(run[key] for run in runs["kdyolo"]) for key in ("seconds", "cpu"))
        print(f"{size['annotations']:>12,} {seconds:>8.2f} {seconds / millions:>12.2f} ", end="")
        print(f"{busy:>6.1f} {busy / millions:>12.2f}")


def report(runs: Runs) -> None:
    """Print medians over all rounds, and kdyolo's ratios to the others."""
    median = {arm: statistics.median(run["seconds"] for run in of) for arm, of in runs.items()}
    memory = {arm: statistics.median(run["memory"] for run in of) for arm, of in runs.items()}
    print(f"{'arm':<12} {'seconds':>8} {'min–max':>14} {'CPU s':>6} {'peak GB':>8}")
    for arm, of in runs.items():
        seconds = [run["seconds"] for run in of]
        spread = f"{min(seconds):.2f}–{max(seconds):.2f}"
        busy = statistics.median(run["cpu"] for run in of)
        print(f"{arm:<12} {median[arm]:>8.2f} {spread:>14} {busy:>6.1f} {memory[arm] / 1e9:>8.2f}")
    for run in runs.get("floor", [])[:1]:
        print("the floor: " + ", ".join(f"{part} {seconds:.2f} s" for part, seconds in run["parts"].items()))
    if "ultralytics" in runs and "kdyolo" in runs:
        print(f"ultralytics / kdyolo:  {median['ultralytics'] / median['kdyolo']:.1f} × as fast")
        print(f"kdyolo / ultralytics:  {memory['kdyolo'] / memory['ultralytics']:.2f} of the memory")
    if "ultralytics" in runs and "floor" in runs:
        print(f"ultralytics / floor:   {median['ultralytics'] / median['floor']:.1f} × as fast")
    if "floor" in runs and "kdyolo" in runs:
        print(f"kdyolo / floor:        {median['kdyolo'] / median['floor']:.2f} of the time")


if __name__ == "__main__":
    main()
