"""The corpus of data: annotations, data YAMLs, labels, images, recipes, studies, key maps, model YAMLs, run folders."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from tests.builders.run_folders import write_run
from tests.hostile.commands import OWN_SETTINGS, Command, World
from tests.hostile.values import json_mutants, yaml_mutants

Write = Callable[[Path, str], object]


@dataclass(frozen=True)
class Case:
    """A file made to hurt, and the commands that are to read it.

    Attributes:
        kind: Group of the corpus.
        name: Its name in the group.
        write: Writes it at a path; the second argument is the marker that its code would make.
        file: File name.
        commands: Names of :func:`commands`.
        harmless: Whether a command may also succeed.
    """

    kind: str
    name: str
    write: Write
    file: str
    commands: Sequence[str]
    harmless: bool = True


def _text(given: str | bytes | Callable[[], str | bytes]) -> Write:
    def write(path: Path, marker: str) -> None:
        content = given() if callable(given) else given
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        path.write_bytes(raw.replace(b"MARKER", os.fsencode(marker)))

    return write


# ---- what is no file, or not of its kind -----------------------------------------------------------------------------


def _loop(path: Path, marker: str) -> None:
    path.symlink_to(path)


NO_FILES: dict[str, Write] = {
    "missing": lambda path, marker: None,
    "folder": lambda path, marker: path.mkdir(),
    "FIFO": lambda path, marker: os.mkfifo(path),
    "link to itself": _loop,
    "dangling link": lambda path, marker: path.symlink_to("nowhere"),
    "/dev/zero": lambda path, marker: path.symlink_to("/dev/zero"),
    "empty": _text(b""),
    "zeros": _text(bytes(100_000)),
    "UTF-16": _text("a: 1\n".encode("utf-16")),
    "not UTF-8": _text(b"\xff\xfe\xfd" * 99),
    "escapes": _text("\x1b]52;c;ZXZpbA==\x07\x9b2J\u202e\n" * 99),
    "8 GB of nothing": lambda path, marker: (path.touch(), os.truncate(path, 8 << 30)),
}

# ---- COCO ------------------------------------------------------------------------------------------------------------

TRUTH: dict[str, Any] = {
    "info": {"description": "d"},
    "images": [
        {"id": 1, "file_name": "000001.jpg", "width": 64, "height": 64},
        {"id": 2, "file_name": "000002.jpg", "width": 64, "height": 64},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 3,
            "bbox": [5, 6, 20, 20],
            "area": 400,
            "iscrowd": 0,
            "segmentation": [[5, 6, 25, 6, 25, 26]],
        },
        {
            "id": 2,
            "image_id": 2,
            "category_id": 17,
            "bbox": [5, 6, 20, 20],
            "area": 400,
            "iscrowd": 1,
            "segmentation": {"counts": [9, 4087], "size": [64, 64]},
        },
    ],
    "categories": [{"id": 3, "name": "disc", "supercategory": "s"}, {"id": 17, "name": "square"}],
}
DETECTIONS = [{"image_id": 1, "category_id": 3, "bbox": [5.0, 6.0, 20.0, 20.0], "score": 0.5}]

_BOMB_COUNTS = {
    "huge size": {"counts": [9, 10**9 - 9], "size": [31623, 31623]},
    "size beyond all": {"counts": [1], "size": [10**12, 10**12]},
    "counts beyond size": {"counts": [10**9] * 50, "size": [64, 64]},
    "negative counts": {"counts": [-5, 4101], "size": [64, 64]},
    "a million counts": {"counts": [1] * 1_000_000, "size": [1000, 1000]},
    "text, garbage": {"counts": "\x7f\x7f\x7f" * 99, "size": [64, 64]},
    "text, huge runs": {"counts": "ooooooo0", "size": [64, 64]},
    "text, empty": {"counts": "", "size": [64, 64]},
    "size of texts": {"counts": [1], "size": ["64", "64"]},
    "size negative": {"counts": [1], "size": [-64, 64]},
    "size of one": {"counts": [4096], "size": [4096]},
    "counts of floats": {"counts": [1.5, 4094.5], "size": [64, 64]},
    "polygon of one point": [[1, 2]],
    "polygon with an odd number": [[1, 2, 3, 4, 5, 6, 7]],
    "polygon of a million points": [[float(i % 64) for i in range(1_000_000)]],
    "100,000 polygons": [[1, 2, 3, 4, 5, 6]] * 100_000,
    "polygon beyond the image": [[-1e300, 1e300, 1e308, -1e308, 5, 5]],
    "polygon of NaN": [[float("nan")] * 6],
    "polygon of texts": [["a"] * 6],
}


def _truth_with(**changes: Any) -> str:
    document = json.loads(json.dumps(TRUTH))
    document["annotations"][0].update(changes)
    return json.dumps(document)


def _gzipped(before: bytes, filling: bytes, after: bytes) -> bytes:
    """A gigabyte of one sign, compressed."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    pieces = [packer.compress(before), *(packer.compress(filling * (1 << 20)) for _ in range(1 << 10))]
    return b"".join((*pieces, packer.compress(after), packer.flush()))


def _odd_json() -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    sound = json.dumps(TRUTH)
    yield "cut", sound[: len(sound) // 2].encode()
    yield "byte-order mark", b"\xef\xbb\xbf" + sound.encode()
    yield "UTF-16", sound.encode("utf-16")
    yield "key twice", sound.replace('"images"', '"images": [], "images"', 1).encode()
    yield "trailing text", sound.encode() + b" evil"
    yield "gzip bomb", partial(_gzipped, b"", b"\0", b"")
    yield "gzip bomb of spaces", partial(_gzipped, b'{"images": [', b" ", b"]}")
    yield "gzip, cut", gzip.compress(sound.encode())[:-9]
    yield "gzip, sound", gzip.compress(sound.encode())
    yield "gzip, damaged", gzip.compress(sound.encode())[:20] + b"\xff" * 90
    yield "deep objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield "deep in an annotation", sound.replace('"d"', "[" * 100_000 + "]" * 100_000).encode()
    many = [
        {"id": i, "image_id": 1, "category_id": 3, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0}
        for i in range(100_000)
    ]
    yield "100,000 annotations", json.dumps({**TRUTH, "annotations": many}).encode()
    yield (
        "100,000 categories",
        json.dumps({**TRUTH, "categories": [{"id": i, "name": f"n{i}"} for i in range(100_000)]}).encode(),
    )
    yield "same image twice", json.dumps({**TRUTH, "images": TRUTH["images"] * 2}).encode()
    yield (
        "names that differ by case",
        json.dumps(
            {
                **TRUTH,
                "images": [{**TRUTH["images"][0], "id": i, "file_name": n} for i, n in enumerate(("a.jpg", "A.jpg"))],
            }
        ).encode(),
    )
    yield (
        "names of one label",
        json.dumps(
            {
                **TRUTH,
                "images": [{**TRUTH["images"][0], "id": i, "file_name": n} for i, n in enumerate(("a.jpg", "a.png"))],
            }
        ).encode(),
    )


CONVERTS = (
    "convert",
    "convert --segments",
    "convert --skip-invalid",
    "convert --verify-images",
    "convert --include-crowd",
)


def _coco() -> Iterator[Case]:
    turns, readers = cycle(CONVERTS), cycle(("score, truth", "score --ci", "val --annotations"))
    for name, text in json_mutants(TRUTH):
        yield Case("coco", name, _text(text), "a.json", (next(turns), next(turns), next(readers)))
    for name, segmentation in _BOMB_COUNTS.items():
        text = _truth_with(segmentation=segmentation)
        yield Case("segmentation", name, _text(text), "a.json", ("convert --segments", "convert", "score, truth"))
        crowd = _truth_with(segmentation=segmentation, iscrowd=1)
        yield Case(
            "segmentation", f"{name}, crowd", _text(crowd), "a.json", ("convert --segments", "convert --include-crowd")
        )
    for name, raw in _odd_json():
        yield Case(
            "json", name, _text(raw), "a.json", (*CONVERTS[:3], "score, truth", "score, results", "val --annotations")
        )
    for name, write in NO_FILES.items():
        yield Case("json", name, write, "a.json", ("convert", "score, truth", "score, results", "val --annotations"))
    for name, text in json_mutants(DETECTIONS):
        yield Case("results", name, _text(text), "d.json", ("score, results", "score, two"))


# ---- data YAMLs ------------------------------------------------------------------------------------------------------

DATA: dict[str, Any] = {
    "path": "WORLD",
    "train": "train.txt",
    "val": "val.txt",
    "test": "images/val",
    "nc": 3,
    "names": {0: "disc", 1: "square", 2: "triangle"},
    "category_ids": {0: 3, 1: 17, 2: 44},
    "annotations": {"train": "annotations/instances_train.json", "val": "annotations/instances_val.json"},
    "channels": 3,
}
_SCRIPTS = {
    "python": "import os; os.mkdir('MARKER')",
    "shell": "bash -c 'mkdir MARKER'",
    "bash script": "bash evil.sh",
    "URL": "https://evil.invalid/data.zip",
    "list": ["mkdir MARKER"],
    "nothing": None,
}
USES_DATA = ("doctor --data", "val --data", "train --dry-run", "to-coco", "train")


def _data() -> Iterator[Case]:
    turns = cycle(USES_DATA)
    for name, text in yaml_mutants(DATA):
        yield Case("data", name, _text(text), "data.yaml", (next(turns), next(turns)))
    for name, script in _SCRIPTS.items():
        for missing in ({"val": "nowhere"}, {"val": "nowhere", "train": "nowhere"}, {"path": "nowhere"}, {}):
            content = yaml.safe_dump({**DATA, **missing, "download": script})
            what = f"download {name}, missing {' and '.join(missing) or 'nothing'}"
            yield Case("data", what, _text(content), "data.yaml", USES_DATA, harmless=not missing)
    for name, write in NO_FILES.items():
        yield Case("data", name, write, "data.yaml", USES_DATA, harmless=False)
    upwards = "\n".join(
        ["../" * i + "etc/passwd" for i in range(9)] + ["/etc/passwd", "\x1b]0;evil\x07.jpg", "n" * 9999]
    )
    lists = {"paths upwards": upwards, "a million lines": "a.jpg\n" * 1_000_000, "one line of 10 MB": "n" * 10_000_000}
    for name, text in lists.items():
        yield Case("list", name, _text(text), "val.txt", USES_DATA)
    for name, write in NO_FILES.items():
        yield Case("list", name, write, "val.txt", USES_DATA)


# ---- labels and images -----------------------------------------------------------------------------------------------

LABELS = {
    "words": "evil evil evil\n",
    "NaN": "0 nan nan nan nan\n",
    "infinity": "0 inf 0.5 0.5 0.5\n",
    "negative": "0 -0.5 -0.5 0.1 0.1\n",
    "beyond one": "0 1.5 0.5 0.5 0.5\n",
    "class of 10⁹": "1000000000 0.5 0.5 0.1 0.1\n",
    "class negative": "-1 0.5 0.5 0.1 0.1\n",
    "class half": "0.5 0.5 0.5 0.1 0.1\n",
    "class of 400 digits": "9" * 400 + " 0.5 0.5 0.1 0.1\n",
    "four columns": "0 0.5 0.5 0.1\n",
    "six columns": "0 0.5 0.5 0.1 0.1 0.9\n",
    "polygon of 100,000": "0 " + "0.5 " * 100_000 + "\n",
    "100,000 lines": "0 0.5 0.5 0.1 0.1\n" * 100_000,
    "one line twice": "0 0.5 0.5 0.1 0.1\n" * 2,
    "escapes": "0 0.5 0.5 0.1 \x1b]0;evil\x07\n",
    "hex": "0x1 0x1p-1 0.5 0.1 0.1\n",
    "underscores": "0 0_5 0.5 0.1 0.1\n",
    "digits of other scripts": "٠ ٠.٥ 0.5 0.1 0.1\n",
    "commas": "0,0.5,0.5,0.1,0.1\n",
    "zero area": "0 0.5 0.5 0 0\n",
    "tiny": "0 0.5 0.5 1e-320 1e-320\n",
    "huge numbers": "0 1e308 1e308 1e308 1e308\n",
}


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _picture(form: str, size: tuple[int, int] = (64, 64), mode: str = "RGB", **how: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, form, **how)
    return buffer.getvalue()


def _jpeg_of_size(width: int, height: int) -> bytes:
    sound = bytearray(_picture("JPEG"))
    at = sound.find(b"\xff\xc0")
    struct.pack_into(">HH", sound, at + 5, height, width)
    return bytes(sound)


def _images() -> Iterator[tuple[str, bytes | Callable[[], bytes]]]:
    jpeg, png = _picture("JPEG"), _picture("PNG")
    yield "PNG, 65,500 squared, no pixels", _png(65_500, 65_500)
    yield "PNG, 20,000 squared", lambda: _png(20_000, 20_000, bytes(20_000) * 2000)
    yield "PNG, 2 billion wide", _png(2**31 - 1, 1)
    yield "PNG, nothing wide", _png(0, 0)
    yield "JPEG, 65,500 squared", _jpeg_of_size(65_500, 65_500)
    yield "JPEG, other size", _jpeg_of_size(32, 640)
    yield "JPEG, nothing wide", _jpeg_of_size(0, 0)
    yield "JPEG, half", jpeg[: len(jpeg) // 2]
    yield "JPEG, header", jpeg[:20]
    yield "JPEG, no end", jpeg[:-2]
    yield "JPEG, text behind", jpeg + b"#!/bin/sh\nmkdir MARKER\n"
    yield "JPEG, comment of 64 KB", jpeg[:2] + b"\xff\xfe\xff\xff" + b"\x1b" * 65533 + jpeg[2:]
    yield "PNG, half", png[: len(png) // 2]
    yield "PNG, text bomb", lambda: png[:33] + _chunk_of_text() + png[33:]
    yield "GIF", _picture("GIF", mode="P")
    yield "GIF of 2,000 frames", _frames
    yield "BMP", _picture("BMP")
    yield "BMP, 30,000 squared", _picture("BMP")[:18] + struct.pack("<ii", 30_000, 30_000) + _picture("BMP")[26:]
    yield "TIFF", _picture("TIFF")
    yield "TIFF, link to itself", b"II*\x00\x08\x00\x00\x00" + b"\x00\x00" + b"\x08\x00\x00\x00"
    yield "TIFF, far directory", b"II*\x00\xff\xff\xff\x7f"
    yield "WebP", _picture("WEBP")
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(MARKER) (w) file closefile\nshowpage\n"
    yield "SVG", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/><script>1</script></svg>'
    yield "XML bomb", b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;">]><svg>&c;</svg>'
    yield "PPM, huge", b"P6\n99999 99999\n255\n"
    yield "PFM, of NaN", b"PF\n64 64\n-1.0\n" + b"\x00\x00\xc0\x7f" * (64 * 64 * 3)
    yield "NumPy with a pickle", b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    yield "HEIC", b"\x00\x00\x00\x18ftypheic" + bytes(99)
    yield "ICO", _picture("ICO")
    yield "grey", _picture("JPEG", mode="L")
    yield "CMYK", _picture("JPEG", mode="CMYK")
    yield "16 bits", _picture("PNG", mode="I;16")
    yield "one pixel", _picture("PNG", (1, 1))
    yield "one by 60,000", _picture("PNG", (1, 60_000))
    yield "text", b"evil"
    yield "web page", b"<!DOCTYPE html>"


def _chunk_of_text() -> bytes:
    content = b"a\x00\x00" + zlib.compress(bytes(200 << 20), 1)
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


def _frames() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("P", (64, 64), i % 255) for i in range(2000)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


USES_LABELS = ("labels: to-coco", "labels: val", "labels: train --dry-run", "labels: train", "labels: doctor")
USES_IMAGES = (
    "image: convert --verify-images",
    "image: predict",
    "image: val",
    "image: train --dry-run",
    "image: inspect",
    "image: doctor",
    "image: to-coco",
)


def _labels_and_images() -> Iterator[Case]:
    for name, text in LABELS.items():
        yield Case("label", name, _text(text), "l.txt", USES_LABELS)
    for name, write in NO_FILES.items():
        yield Case("label", name, write, "l.txt", USES_LABELS)
    for name, raw in _images():
        yield Case("image", name, _text(raw), "i.jpg", USES_IMAGES)
    for name, write in NO_FILES.items():
        yield Case("image", name, write, "i.jpg", USES_IMAGES)


# ---- studies, recipes, key maps, model YAMLs -------------------------------------------------------------------------

STUDY = {
    "name": "s",
    "data": "WORLD/coco.yaml",
    "base": {"epochs": 1, "imgsz": 32, "batch": 4, "plots": False, "workers": 0},
    "arms": {"random": {"random_init": True}, "low": {"random_init": True, "lr0": 0.001}},
    "seeds": [0],
    "devices": ["cpu"],
    "baseline": "random",
}
RECIPE = {
    "epochs": 1,
    "imgsz": 32,
    "batch": 4,
    "nbs": 4,
    "optimizer": "SGD",
    "lr0": 0.01,
    "cos_lr": True,
    "warmup_epochs": 0.0,
    "mosaic": 0.0,
    "close_mosaic": 0,
    "workers": 0,
    "plots": False,
    "freeze_epochs": 1,
    "classes": [0],
}
KEY_MAP = {
    "layers": {"stem": 0, "stage1.*": 1, "stage#.0": "#", "head": None},
    "segments": {"main_conv": "cv1"},
    "strip": ["wrapper"],
    "telltale": "^stem",
    "bn_eps": 0.001,
    "input_norm": "imagenet",
    "untrained_tail": True,
}
MODEL = {
    "nc": 3,
    "scales": {"n": [0.33, 0.25, 1024]},
    "backbone": [
        [-1, 1, "DistilledBackbone", ["yolov8", 1024]],
        [0, 1, "Index", ["P3"]],
        [0, 1, "Index", ["P4"]],
        [0, 1, "Index", ["P5"]],
    ],
    "head": [[-1, 1, "Conv", [64, 1, 1]], [[2, 3, 4], 1, "Detect", ["nc"]]],
    "activation": "nn.SiLU()",
    "scale": "n",
}


def _settings() -> Iterator[Case]:
    for name, text in yaml_mutants(STUDY):
        if name in ("base: empty object", "base: missing", "base: null"):
            continue  # a study with the default sizes, which costs what it costs
        yield Case("study", name, _text(text), "study.yaml", ("study --dry-run",))
    for name, text in yaml_mutants(RECIPE):
        yield Case("recipe", name, _text(text), "recipe.yaml", ("train --recipe",))
    readers = cycle(("inspect --key-map", "train --key-map"))
    for name, text in yaml_mutants(KEY_MAP):
        yield Case("key map", name, _text(text), "map.yaml", (next(readers),))
    evil = "'(a|a|[a-z.]+)+$'", "'((((.*)*)*)*)*x$'", "'(stem|stem.)*" + "(" * 500 + ")" * 500 + "'", "'[unclosed'"
    for i, pattern in enumerate(evil):
        text = f"layers: {{stem: 0}}\ntelltale: {pattern}\n"
        yield Case("key map", f"pattern {i}", _text(text), "map.yaml", ("inspect --key-map", "train --key-map"))
    readers = cycle(("model: train", "model: doctor"))
    for name, text in yaml_mutants(MODEL):
        yield Case("model", name, _text(text), "kdyolov8n.yaml", (next(readers),))
    for kind, file, command in (
        ("study", "study.yaml", "study --dry-run"),
        ("recipe", "recipe.yaml", "train --recipe"),
        ("key map", "map.yaml", "inspect --key-map"),
        ("model", "kdyolov8n.yaml", "model: train"),
    ):
        for name, write in NO_FILES.items():
            yield Case(kind, name, write, file, (command,), harmless=False)


# ---- run folders -----------------------------------------------------------------------------------------------------

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


def _runs() -> Iterator[Case]:
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
            yield Case("run", f"{file}, {name}", _text(text), file, tuple(next(order) for _ in range(times)))
    for file in RUN_FILES:
        for name, write in NO_FILES.items():
            yield Case("run", f"{file}, {name}", write, file, USES_RUNS)
    for name in ("\x1b]0;evil\x07\x9b2J", "a\nb", "n" * 200, "-rf", "[red]x", "\u202egpj", "\udcff"):
        yield Case("folder name", repr(name[:12]), lambda path, marker: path.mkdir(), name, USES_RUNS[:7])


def cases() -> Iterator[Case]:
    """The whole corpus."""
    yield from _coco()
    yield from _data()
    yield from _labels_and_images()
    yield from _settings()
    yield from _runs()


# ---- commands --------------------------------------------------------------------------------------------------------


def _in_world(world: World, file: Path, here: Path) -> None:
    """The file under its name, where WORLD is the folder of the sound data set; what is no text, by a link."""
    target = here / file.name
    if file.is_file() and not file.is_symlink() and file.stat().st_size < 64 << 20:
        raw = file.read_bytes().replace(b"WORLD", os.fsencode(world.data.parent))
        target.write_bytes(raw)
    elif file.exists() or file.is_symlink():
        target.symlink_to(file)


def _copy_of_data(world: World, here: Path) -> Path:
    folder = here / "data"
    shutil.copytree(world.data.parent, folder, symlinks=True, ignore=shutil.ignore_patterns("*.cache"))
    for path in (folder / "coco.yaml", *folder.glob("*.txt")):
        path.write_text(path.read_text().replace(str(world.data.parent), str(folder)))
    return folder


def _put(file: Path, *places: Path) -> None:
    for place in places:
        place.unlink(missing_ok=True)
        if file.exists() or file.is_symlink():
            place.symlink_to(file)


def _as_list(world: World, file: Path, here: Path) -> None:
    _put(file, _copy_of_data(world, here) / "val.txt")


def _as_label(world: World, file: Path, here: Path) -> None:
    folder = _copy_of_data(world, here)
    _put(file, *(folder / "labels" / split / "000001.txt" for split in ("train", "val")))


def _as_image(world: World, file: Path, here: Path) -> None:
    folder = _copy_of_data(world, here)
    _put(file, *(folder / "images" / split / "000001.jpg" for split in ("train", "val")))
    (here / "pictures").mkdir()
    shutil.copy(world.root / "val" / "000002.jpg", here / "pictures")
    _put(file, here / "pictures" / "000001.jpg")


def _as_run(world: World, file: Path, here: Path) -> None:
    """Two runs beside each other; the first has the file in place of its own, or is called as it is."""
    import socket

    for name in ("bad", "good"):
        write_run(
            here / "runs" / name,
            data=world.data,
            seed=len(name),
            settings=OWN_SETTINGS,
            ap=0.3,
            per_class={"disc": 0.3},
        )
        (here / "runs" / name / "train.log").write_text("Epoch 1\n")
    bad = here / "runs" / "bad"
    if file.name not in RUN_FILES:
        bad.rename(here / "runs" / file.name)
        (here / "bad").symlink_to(here / "runs" / file.name)
        return
    place = bad / file.name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    if file.name == "process.json" and file.is_file() and file.stat().st_size < 64 << 20:
        place.write_bytes(file.read_bytes().replace(b"HOST", socket.gethostname().encode()))
        (bad / "pid.txt").write_text("999999\n")
    else:
        _put(file, place)


def _list_runs(world: World, file: Path) -> None:
    import kdyolo

    found = kdyolo.list_runs([Path("runs")])
    assert len(found) >= 1, "the good run beside it is hidden"


_TINY = "--epochs 1 --imgsz 32 --batch 4 --device cpu --random-init --work-dir new plots=False workers=0"
_DRY = "train --data {data} --device cpu --work-dir new --dry-run"
_VAL = "--imgsz 32 --batch 2 --device cpu workers=0 plots=False"


def commands() -> dict[str, Command]:
    """The commands that open such files, by the names that cases have for them."""
    convert = "convert --annotations {file} --images {images} --split val --out out"
    return {
        "convert": Command(convert, leaves=("out",)),
        **{
            f"convert {flag}": Command(f"{convert} {flag}", leaves=("out",))
            for flag in ("--segments", "--skip-invalid", "--verify-images", "--include-crowd")
        },
        "score, truth": Command("score predictions.json {file}", _results),
        "score --ci": Command("score predictions.json {file} --ci --resamples 20 --per-class", _results),
        "score, results": Command("score {file} {truth}"),
        "score, two": Command("score {file} predictions.json {truth} --resamples 20", _results),
        "val --annotations": Command(f"val --model {{model}} --data {{data}} --annotations {{file}} {_VAL}"),
        "doctor --data": Command("doctor --data data.yaml", _as_yaml),
        "val --data": Command(f"val --model {{model}} --data data.yaml {_VAL}", _as_yaml),
        "train --dry-run": Command(f"train --data data.yaml {_TINY} --dry-run", _as_yaml, leaves=("new",)),
        "train": Command(f"train --data data.yaml {_TINY}", _as_yaml),
        "to-coco": Command("to-coco data.yaml --out o.json", _as_yaml, leaves=("o.json",)),
        "labels: to-coco": Command("to-coco data/coco.yaml --out o.json", _as_label, leaves=("o.json",)),
        "labels: val": Command(f"val --model {{model}} --data data/coco.yaml {_VAL}", _as_label),
        "labels: train --dry-run": Command(
            f"train --data data/coco.yaml {_TINY} --dry-run", _as_label, leaves=("new",)
        ),
        "labels: train": Command(f"train --data data/coco.yaml {_TINY} val=False", _as_label),
        "labels: doctor": Command("doctor --data data/coco.yaml", _as_label),
        "image: convert --verify-images": Command(
            "convert --annotations {truth} --images pictures --split val --out out --verify-images",
            _as_image,
            leaves=("out",),
        ),
        "image: predict": Command("predict --model {model} --source pictures --imgsz 32 --device cpu", _as_image),
        "image: val": Command(f"val --model {{model}} --data data/coco.yaml {_VAL}", _as_image),
        "image: train --dry-run": Command(f"train --data data/coco.yaml {_TINY} --dry-run", _as_image, leaves=("new",)),
        "image: inspect": Command("inspect {backbone} --image {file} --out f.png --imgsz 64", leaves=("f.png",)),
        "image: doctor": Command("doctor --data data/coco.yaml", _as_image),
        "image: to-coco": Command("to-coco data/coco.yaml --out o.json", _as_image, leaves=("o.json",)),
        "study --dry-run": Command("study study.yaml --dry-run", _in_world),
        "train --recipe": Command(f"{_DRY} --random-init --recipe {{file}}", leaves=("new",)),
        "inspect --key-map": Command("inspect {backbone} --key-map {file}"),
        "train --key-map": Command(
            f"{_DRY} --imgsz 32 --backbone {{backbone}} --key-map {{file}} workers=0",
            leaves=("new",),
        ),
        "model: train": Command(
            f"{_DRY} --imgsz 32 --random-init --model {{file}} workers=0",
            leaves=("new",),
        ),
        "model: doctor": Command("doctor --model {file} --backbone {backbone}"),
        "ps": Command("ps runs", _as_run),
        "ps --json": Command("ps runs --json", _as_run),
        "stop": Command("stop runs/bad --timeout 1", _as_run),
        "logs": Command("logs runs/bad", _as_run),
        "compare": Command("compare runs/bad runs/good --anyway", _as_run),
        "compare --out": Command("compare runs/good runs/bad --anyway --out report --format md", _as_run),
        "card": Command("card runs/bad", _as_run),
        "export-stock RUN": Command("export-stock runs/bad --out o.pt", _as_run, leaves=("o.pt",)),
        "extract RUN": Command("extract runs/bad --out o.safetensors", _as_run, leaves=("o.safetensors",)),
        "resume RUN": Command("train --resume runs/bad", _as_run),
        "list_runs": Command(_list_runs, _as_run),
    }


def _as_yaml(world: World, file: Path, here: Path) -> None:
    if file.name == "val.txt":
        _as_list(world, file, here)
        (here / "data.yaml").symlink_to(here / "data" / "coco.yaml")
    else:
        _in_world(world, file, here)


def _results(world: World, file: Path, here: Path) -> None:
    (here / "predictions.json").write_text(json.dumps(DETECTIONS))
