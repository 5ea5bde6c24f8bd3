"""The corpus of data: annotations, data YAMLs, labels, images, recipes, studies, key maps, model YAMLs."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import Any

import yaml
from PIL import Image

from tests.hostile import distillation, run_files
from tests.hostile.case import DataCase, no_files, text_file
from tests.hostile.values import json_mutants, yaml_mutants

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


def _coco() -> Iterator[DataCase]:
    turns, readers = cycle(CONVERTS), cycle(("score, truth", "score --ci", "val --annotations"))
    for name, text in json_mutants(TRUTH):
        yield DataCase("coco", name, text_file(text), "a.json", (next(turns), next(turns), next(readers)))
    for name, segmentation in _BOMB_COUNTS.items():
        text = _truth_with(segmentation=segmentation)
        yield DataCase(
            "segmentation", name, text_file(text), "a.json", ("convert --segments", "convert", "score, truth")
        )
        crowd = _truth_with(segmentation=segmentation, iscrowd=1)
        yield DataCase(
            "segmentation",
            f"{name}, crowd",
            text_file(crowd),
            "a.json",
            ("convert --segments", "convert --include-crowd"),
        )
    for name, raw in _odd_json():
        yield DataCase(
            "json",
            name,
            text_file(raw),
            "a.json",
            (*CONVERTS[:3], "score, truth", "score, results", "val --annotations"),
        )
    yield from no_files("json", "a.json", ("convert", "score, truth", "score, results", "val --annotations"))
    for name, text in json_mutants(DETECTIONS):
        yield DataCase("results", name, text_file(text), "d.json", ("score, results", "score, two"))


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


def _data() -> Iterator[DataCase]:
    turns = cycle(USES_DATA)
    for name, text in yaml_mutants(DATA):
        yield DataCase("data", name, text_file(text), "data.yaml", (next(turns), next(turns)))
    for name, script in _SCRIPTS.items():
        for missing in ({"val": "nowhere"}, {"val": "nowhere", "train": "nowhere"}, {"path": "nowhere"}, {}):
            content = yaml.safe_dump({**DATA, **missing, "download": script})
            what = f"download {name}, missing {' and '.join(missing) or 'nothing'}"
            yield DataCase("data", what, text_file(content), "data.yaml", USES_DATA, harmless=not missing)
    yield from no_files("data", "data.yaml", USES_DATA, harmless=False)
    upwards = "\n".join(
        ["../" * i + "etc/passwd" for i in range(9)] + ["/etc/passwd", "\x1b]0;evil\x07.jpg", "n" * 9999]
    )
    lists = {"paths upwards": upwards, "a million lines": "a.jpg\n" * 1_000_000, "one line of 10 MB": "n" * 10_000_000}
    for name, text in lists.items():
        yield DataCase("list", name, text_file(text), "val.txt", USES_DATA)
    yield from no_files("list", "val.txt", USES_DATA)


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
    yield "PNG, text bomb", lambda: png[:33] + _chunk_oftext_file() + png[33:]
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


def _chunk_oftext_file() -> bytes:
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


def _labels_and_images() -> Iterator[DataCase]:
    for name, text in LABELS.items():
        yield DataCase("label", name, text_file(text), "l.txt", USES_LABELS)
    yield from no_files("label", "l.txt", USES_LABELS)
    for name, raw in _images():
        yield DataCase("image", name, text_file(raw), "i.jpg", USES_IMAGES)
    yield from no_files("image", "i.jpg", USES_IMAGES)


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


def _settings() -> Iterator[DataCase]:
    for name, text in yaml_mutants(STUDY):
        if name in ("base: empty object", "base: missing", "base: null", "base.imgsz: missing", "base.imgsz: null"):
            continue  # a study with the default sizes, which costs what it costs
        yield DataCase("study", name, text_file(text), "study.yaml", ("study --dry-run",))
    for name, text in yaml_mutants(RECIPE):
        # one without sizes is a training of the default ones, which costs what it costs
        whole = name in ("whole: null", "whole: empty object", "imgsz: null", "imgsz: missing", "empty", "comment")
        commands = ("train --recipe, sized" if whole else "train --recipe",)
        yield DataCase("recipe", name, text_file(text), "recipe.yaml", commands)
    readers = cycle(("inspect --key-map", "train --key-map"))
    for name, text in yaml_mutants(KEY_MAP):
        yield DataCase("key map", name, text_file(text), "map.yaml", (next(readers),))
    evil = "'(a|a|[a-z.]+)+$'", "'((((.*)*)*)*)*x$'", "'(stem|stem.)*" + "(" * 500 + ")" * 500 + "'", "'[unclosed'"
    for i, pattern in enumerate(evil):
        text = f"layers: {{stem: 0}}\ntelltale: {pattern}\n"
        yield DataCase("key map", f"pattern {i}", text_file(text), "map.yaml", ("inspect --key-map", "train --key-map"))
    readers = cycle(("model: train", "model: doctor"))
    for name, text in yaml_mutants(MODEL):
        yield DataCase("model", name, text_file(text), "kdyolov8n.yaml", (next(readers),))
    for kind, file, command in (
        ("study", "study.yaml", "study --dry-run"),
        ("recipe", "recipe.yaml", "train --recipe, sized"),
        ("key map", "map.yaml", "inspect --key-map"),
        ("model", "kdyolov8n.yaml", "model: train"),
    ):
        for case in no_files(kind, file, (command,), harmless=False):
            if (kind, case.name) != ("recipe", "empty"):  # which asks for Ultralytics' own settings
                yield case


def cases() -> Iterator[DataCase]:
    """The whole corpus."""
    yield from _coco()
    yield from _data()
    yield from _labels_and_images()
    yield from _settings()
    yield from run_files.cases()
    yield from distillation.cases()
