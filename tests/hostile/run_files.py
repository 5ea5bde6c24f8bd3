"""The corpus of run folders: each file of a run, changed in every place or replaced by what is no file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

from tests.hostile.case import DataCase, no_files, text_file
from tests.hostile.values import json_mutants, yaml_mutants

PROCESS = {"pid": 999_999, "host": "HOST", "started": 5.0, "launcher": [1, 2.0]}
RECORD: dict[str, Any] = {
    "versions": {"kdyolo": "0.1.0"},
    "command": "kdyolo train",
    "git_commit": "0123",
    "settings": {"freeze_epochs": 1, "backbone": "b.pth", "resize": "letterbox", "backbone_lr": 1.0},
    "started_from": {"path": "b.pth", "sha256": "00", "epoch": 3},
    "backbone": {"arch": "yolov8n", "source": "vfmkd"},
    "schedule": {"freeze_epochs": 1, "epochs": 3, "unfreeze_stages": None, "thaws": {2: ["all"]}},
    "data": "coco.yaml",
    "seed": 0,
    "model": "kdyolov8n.yaml",
}
ARGS = {
    "task": "detect",
    "mode": "train",
    "model": "m.yaml",
    "data": "coco.yaml",
    "epochs": 3,
    "batch": 4,
    "imgsz": 64,
    "seed": 0,
    "patience": 9,
    "time": None,
    "name": "n",
    "save_dir": "run",
    "device": "cpu",
    "lr0": 0.01,
}
CSV = "epoch,time,metrics/mAP50-95(B),metrics/mAP50(B),train/box_loss,memory/GB\n1,10,0.1,0.2,4,1\n2,20,0.2,0.3,2,1\n"
_CELLS = ("", "nan", "inf", "-1", "1e400", "9" * 5000, "evil", "\x1b]0;evil\x07", '"a\nb"', "0x10", "１", "n" * 200_000)
SCORES = {
    "annotations": "a.json",
    "resize": "letterbox",
    "AP": 0.5,
    "AP50": 0.6,
    "images": 4,
    "objects": 9,
    "per_class": [{"category_id": 0, "name": "a", "objects": 3, "ap": 0.5, "ap50": 0.5, "ap75": 0.5}],
}
USES_RUNS = (
    "ps",
    "ps --json",
    "stop",
    "logs",
    "compare",
    "compare --out",
    "card",
    "export-stock RUN",
    "extract RUN",
    "resume RUN",
    "list_runs",
)
RUN_FILES = (
    "args.yaml",
    "kdyolo.yaml",
    "results.csv",
    "process.json",
    "pid.txt",
    "train.log",
    "coco_metrics.json",
    "predictions.json",
    "weights",
    "study.yaml",
)


def _csv_mutants() -> Iterator[tuple[str, str]]:
    header, *rows = CSV.splitlines()
    columns = header.split(",")
    for place, column in enumerate(columns):
        for number, cell in enumerate(_CELLS):
            cells = rows[1].split(",")
            cells[place] = cell
            yield f"{column}: value {number}", "\n".join([header, rows[0], ",".join(cells)]) + "\n"
            names = [*columns]
            names[place] = cell
            yield f"name of {column}: value {number}", "\n".join([",".join(names), *rows]) + "\n"
    yield "a million rows", f"{header}\n" + (rows[0] + "\n") * 1_000_000
    yield "10,000 columns", ",".join(f"c{i}" for i in range(10_000)) + "\n" + ",".join("1" * 10_000) + "\n"
    yield "short rows", f"{header}\n1,2\n3\n"
    yield "long rows", f"{header}\n{rows[0]},1,2,3,4\n"
    yield "epochs backwards", f"{header}\n{rows[1]}\n{rows[0]}\n"
    yield "unclosed quote", f'{header}\n"1,{rows[0]}\n' + "x" * 300_000
    yield "zero bytes", CSV.replace("10", "\x00\x00")


def _logs() -> Iterator[tuple[str, str]]:
    yield "escapes", "\x1b]52;c;ZXZpbA==\x07\x1b]0;evil\x1b\\\x1b[2J\x9b2J\x1bP1\x1b\\\x1b[?1049h\n" * 9
    yield "colours", "\x1b[34m\x1b[1mtrain: \x1b[0mok\n"
    yield "right to left", "\u202eevil\u2066\n"
    yield "one line of 20 MB", "n" * 20_000_000
    yield "carriage returns", "1%\r2%\r3%\r\n" * 99
    yield "a million lines", "n\n" * 1_000_000


def cases() -> Iterator[DataCase]:
    sources: tuple[tuple[str, Iterator[tuple[str, Any]], int], ...] = (
        ("args.yaml", yaml_mutants(ARGS), 2),
        ("kdyolo.yaml", yaml_mutants(RECORD), 2),
        ("process.json", json_mutants(PROCESS), 3),
        ("results.csv", _csv_mutants(), 2),
        ("coco_metrics.json", json_mutants(SCORES), 2),
        ("train.log", _logs(), 3),
        ("pid.txt", ((f"value {i}", cell) for i, cell in enumerate(_CELLS)), 3),
    )
    preferred = {
        "process.json": cycle(("ps", "stop", "ps --json", "logs", "resume RUN", "list_runs")),
        "train.log": cycle(("logs", "logs", "ps")),
        "pid.txt": cycle(("ps", "stop", "resume RUN")),
        "coco_metrics.json": cycle(("compare", "card", "compare --out")),
    }
    turns = cycle(USES_RUNS)
    for file, mutants, times in sources:
        order = preferred.get(file, turns)
        for name, text in mutants:
            yield DataCase("run", f"{file}, {name}", text_file(text), file, tuple(next(order) for _ in range(times)))
    for file in RUN_FILES:
        yield from no_files("run", file, USES_RUNS, prefix=f"{file}, ")
    for name in ("\x1b]0;evil\x07\x9b2J", "a\nb", "n" * 200, "-rf", "[red]x", "\u202egpj", "\udcff"):
        yield DataCase("folder name", repr(name[:12]), lambda path, marker: path.mkdir(), name, USES_RUNS[:7])
