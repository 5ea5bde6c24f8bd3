"""Zip archives with a trick in them, tensors that are not what they say, safetensors headers, and files cut short."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from tests.hostile.pickles import MKDIR, called, entries_of, in_archive, saved, tensors, text

Content = Callable[[str], bytes]  # path of the marker → bytes of the file
BOMB = 64 << 20  # bytes in a bomb when it is unpacked


def evil(marker: str) -> bytes:
    """A pickle that makes the marker."""
    return b"\x80\x02" + called(MKDIR, text(marker)) + b"."


def good() -> dict[str, bytes]:
    """The entries of a sound archive."""
    return entries_of(_sound())


@cache
def _sound() -> bytes:
    return saved(tensors())


def zipped(
    entries: list[tuple[str | zipfile.ZipInfo, bytes]], compression: int = zipfile.ZIP_STORED, comment: bytes = b""
) -> bytes:
    """An archive of these entries, in this order, also if names come twice."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content, compression)
        file.comment = comment
    return buffer.getvalue()


def _pkl() -> str:
    return next(name for name in good() if name.endswith("data.pkl"))


def _root() -> str:
    return _pkl().partition("/")[0]


def with_entries(*more: tuple[str | zipfile.ZipInfo, bytes], first: bool = False) -> bytes:
    """The sound archive with more entries."""
    return zipped([*more, *good().items()] if first else [*good().items(), *more])


def _renamed(change: Callable[[str], str]) -> bytes:
    return zipped([(change(name), content) for name, content in good().items()])


def _link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry, target.encode()


class _OneWay(io.RawIOBase):
    """A file that cannot go back, so that sizes stand behind the entries (data descriptors)."""

    def __init__(self) -> None:
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.content += data
        return len(data)


def _descriptors() -> bytes:
    out = _OneWay()
    with zipfile.ZipFile(out, "w") as file:  # type: ignore[arg-type]
        for name, content in good().items():
            file.writestr(name, content)
    return bytes(out.content)


def _zip64() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in good().items():
            with file.open(name, "w", force_zip64=True) as entry:
                entry.write(content)
    return buffer.getvalue()


def _patched(archive: bytes, header: bytes, offset: int, form: str, value: int, name: bytes = b"data.pkl") -> bytes:
    """One field of the header (local ``PK34``, central ``PK12``) of an entry, or of the archive's end, changed."""
    at = archive.find(header)
    while name and at >= 0 and name not in archive[at : at + 120].split(b"PK", 2)[1]:
        at = archive.find(header, at + 1)
    assert at >= 0
    changed = bytearray(archive)
    struct.pack_into(form, changed, at + offset, value)
    return bytes(changed)


LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"


def _overlapping() -> bytes:
    """Every data entry of the directory points to the same bytes."""
    archive = bytearray(_sound())
    places = [m.start() for m in re.finditer(re.escape(CENTRAL), archive)]
    data = [at for at in places if b"/data/" in archive[at + 46 : at + 46 + archive[at + 28]]]
    (first,) = struct.unpack_from("<I", archive, data[0] + 42)
    for at in data:
        struct.pack_into("<I", archive, at + 42, first)
    return bytes(archive)


def _no_checksums(damage: bool) -> bytes:
    """As written with torch's checksums switched off; then a bit flipped."""
    archive = bytearray(_sound())
    for header, offset in ((LOCAL, 14), (CENTRAL, 16)):
        for match in re.finditer(re.escape(header), bytes(archive)):
            struct.pack_into("<I", archive, match.start() + offset, 0)
    if damage:
        archive[archive.find(good()[f"{_root()}/data/0"])] ^= 64
    return bytes(archive)


def _bomb(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for known, content in good().items():
            if known != name:
                file.writestr(known, content, zipfile.ZIP_STORED)
        with file.open(name, "w") as entry:
            for _ in range(BOMB >> 20):
                entry.write(bytes(1 << 20))
    return buffer.getvalue()


def _many_entries(count: int) -> bytes:
    """So many empty files, written by hand, since ``zipfile`` takes its time."""
    out, directory = bytearray(), bytearray()
    for i in range(count):
        name = b"archive/data.pkl" if i == 0 else b"archive/data/%040d" % i
        sizes = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0)
        directory += CENTRAL + b"\x14\x00" + sizes + bytes(10) + struct.pack("<I", len(out)) + name
        out += LOCAL + sizes + name
    end = END + struct.pack("<HHHHIIH", 0, 0, count, count, len(directory), len(out), 0)
    return bytes(out + directory + end)


def _torchscript() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(torch.jit.script(nn.Linear(4, 1)), buffer)
    return buffer.getvalue()


def _edited(content: Any, change: Callable[[bytes], bytes]) -> bytes:
    """A saved archive whose pickle is changed by hand."""
    found = entries_of(saved(content))
    return zipped([(n, change(c) if n.endswith("data.pkl") else c) for n, c in found.items()])


def _replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(pickled: bytes) -> bytes:
        assert old in pickled
        return pickled.replace(old, new)

    return change


ZIP_TRICKS: dict[str, Content] = {
    "pickle twice, evil last": lambda m: with_entries((_pkl(), evil(m))),
    "pickle twice, evil first": lambda m: with_entries((_pkl(), evil(m)), first=True),
    "pickle twice, harmless": lambda m: with_entries((_pkl(), good()[_pkl()])),
    "storage twice": lambda m: with_entries((f"{_root()}/data/0", bytes(432))),
    "two roots, evil first": lambda m: with_entries(("other/data.pkl", evil(m)), first=True),
    "two roots, evil last": lambda m: with_entries(("other/data.pkl", evil(m))),
    "other case": lambda m: with_entries((f"{_root()}/DATA.PKL", evil(m))),
    "no root": lambda m: _renamed(lambda name: name.partition("/")[2]),
    "absolute names": lambda m: _renamed(lambda name: f"/{name}"),
    "absolute entry": lambda m: with_entries((f"{m}", b"x")),
    "names with dots": lambda m: _renamed(lambda name: f"../../{name}"),
    "entry with dots": lambda m: with_entries((f"{_root()}/../../../..{m}", b"x")),
    "backslashes": lambda m: _renamed(lambda name: name.replace("/", "\\")),
    "link": lambda m: with_entries(_link(f"{_root()}/data/9", "/etc/passwd")),
    "link for the pickle": lambda m: zipped([_link(_pkl(), "/etc/passwd"), *list(good().items())[1:]]),
    "link for a storage": lambda m: zipped(
        [_link(n, "/etc/passwd") if n.endswith("data/0") else (n, c) for n, c in good().items()]
    ),
    "overlap": lambda m: _overlapping(),
    "bomb in a storage": lambda m: _bomb(f"{_root()}/data/0"),
    "bomb in the pickle": lambda m: _bomb(_pkl()),
    "bomb beside": lambda m: _bomb(f"{_root()}/data/99"),
    "deflated": lambda m: zipped(list(good().items()), zipfile.ZIP_DEFLATED),
    "bzip2": lambda m: zipped(list(good().items()), zipfile.ZIP_BZIP2),
    "lzma": lambda m: zipped(list(good().items()), zipfile.ZIP_LZMA),
    "unknown compression": lambda m: _patched(_sound(), CENTRAL, 10, "<H", 99),
    "encrypted": lambda m: _patched(_sound(), CENTRAL, 8, "<H", 1),
    "strongly encrypted": lambda m: _patched(_sound(), CENTRAL, 8, "<H", 0x41),
    "needs version 99": lambda m: _patched(_sound(), CENTRAL, 6, "<H", 990),
    "wrong checksum": lambda m: _patched(_sound(), CENTRAL, 16, "<I", 12345),
    "wrong checksum of a storage": lambda m: _patched(_sound(), CENTRAL, 16, "<I", 12345, b"data/0"),
    "no checksums, damaged": lambda m: _no_checksums(damage=True),
    "size differs": lambda m: _patched(_sound(), CENTRAL, 24, "<I", 0x7FFFFFFF),
    "local size differs": lambda m: _patched(_sound(), LOCAL, 22, "<I", 0x7FFFFFFF),
    "starts elsewhere": lambda m: _patched(_sound(), CENTRAL, 42, "<I", 0x7FFFFFF0),
    "name differs": lambda m: _sound().replace(b"/data.pkl", b"/evil.pkl", 1),
    "name with a zero": lambda m: _sound().replace(b"/data.pkl", b"/dat\x00.pkl"),
    "name not UTF-8": lambda m: _sound().replace(b"/data.pkl", b"/dat\xff.pkl"),
    "directory elsewhere": lambda m: _patched(_sound(), END, 16, "<I", 0x7FFFFFF0, b""),
    "directory of 2 GB": lambda m: _patched(_sound(), END, 12, "<I", 0x7FFFFFF0, b""),
    "entries without end": lambda m: _patched(_sound(), END, 10, "<H", 0xFFFF, b""),
    "two disks": lambda m: _patched(_sound(), END, 4, "<H", 7, b""),
    "comment with an archive": lambda m: zipped(list(good().items()), comment=zipped([(_pkl(), evil(m))])),
    "archive with another behind": lambda m: _sound() + zipped([(_pkl(), evil(m))]),
    "archive with a pickle behind": lambda m: _sound() + evil(m),
    "archive with junk behind": lambda m: _sound() + os.urandom(64),
    "pickle, then an archive": lambda m: evil(m) + _sound(),
    "tensors' pickle, then an evil archive": lambda m: (
        saved(tensors(), legacy=True) + in_archive(evil(m)[2:-1], "whole")
    ),
    "safetensors, then an evil archive": lambda m: save(tensors()) + in_archive(evil(m)[2:-1], "whole"),
    "junk, then an archive": lambda m: b"#!/bin/sh\n" + _sound(),
    "many entries": lambda m: _many_entries(60_000),
    "only a directory": lambda m: b"PK\x05\x06" + bytes(18),
    "office document": lambda m: zipped([("[Content_Types].xml", b"<x/>"), ("word/document.xml", b"<x/>")]),
    "TorchScript": lambda m: _torchscript(),
    "TorchScript with a pickle": lambda m: with_entries((f"{_root()}/code/__torch__.py", b"def f(): ...")),
    "constants": lambda m: with_entries((f"{_root()}/constants.pkl", evil(m))),
    "torch.package": lambda m: zipped([("p/.data/extern_modules", b"os"), ("p/data.pkl", evil(m))]),
    "byte order unknown": lambda m: zipped(
        [(n, b"middle" if n.endswith("byteorder") else c) for n, c in good().items()]
    ),
    "storage missing": lambda m: zipped([(n, c) for n, c in good().items() if not n.endswith("data/0")]),
    "storage short": lambda m: zipped([(n, c[:8] if n.endswith("data/0") else c) for n, c in good().items()]),
    "storage from outside": lambda m: _edited(tensors(), _replaced(text("0"), text("../../../../../../etc/passwd"))),
    "storage on a far device": lambda m: _edited(tensors(), _replaced(text("cpu"), text("evil:0"))),
    "storage on a GPU": lambda m: _edited(tensors(), _replaced(text("cpu"), text("cuda:77"))),
    "storage with a negative size": lambda m: _edited(tensors(), _replaced(b"Kl", b"J\xff\xff\xff\xff")),
    "tensor beyond its storage": lambda m: _edited(
        tensors(), _replaced(b"(K\x04K\x03K\x03K\x03t", b"(M\xff\xffM\xff\xffK\x03K\x03t")
    ),
    "tensor with a negative stride": lambda m: _edited(
        tensors(), _replaced(b"(K\x1bK\tK\x03K\x01t", b"(J\xff\xff\xff\xffK\tK\x03K\x01t")
    ),
    "tensor before its storage": lambda m: (
        _edited(tensors(), _replaced(b"QK\x00(K\x04K\x03", b"QJ\xf0\xff\xff\xff(K\x04K\x03"))
        if b"QK\x00(K\x04K\x03" in good()[_pkl()]
        else _sound()[:-1]
    ),
}

# Sound, though few tools write such: loading them is right, so is refusing.
UNUSUAL: dict[str, Content] = {
    "zip64": lambda m: _zip64(),
    "data descriptors": lambda m: _descriptors(),
    "no checksums": lambda m: _no_checksums(damage=False),
    "comment of 64 KB": lambda m: zipped(list(good().items()), comment=b"\x1b]0;x\x07" * 9362),
    "extra entry": lambda m: with_entries((f"{_root()}/notes.txt", b"by hand")),
    "zip entries in another order": lambda m: zipped(list(reversed(good().items()))),
    "big endian": lambda m: zipped([(n, b"big" if n.endswith("byteorder") else c) for n, c in good().items()]),
}


class _Nested:
    """A dictionary in a dictionary, so many deep."""

    @staticmethod
    def of(depth: int) -> Any:
        inner: Any = torch.ones(1)
        for _ in range(depth):
            inner = {"a": inner}
        return inner


def _laughs() -> Any:
    inner: Any = torch.ones(1)
    for _ in range(40):
        inner = [inner] * 10
    return inner


def _third(make: Callable[[], Any]) -> Content:
    """The sound tensors and one that is none."""
    return lambda m: saved({**tensors(), "stage2.0.conv.weight": make()})


def _mmengine(signs: str) -> Content:
    return lambda m: saved({"meta": {"cfg": signs, "mmyolo_version": "0.6"}, "state_dict": tensors()})


# Plain containers with tensors in them, all that torch's restricted loader asks for; some are useless, none may hurt.
ODD_CONTENT: dict[str, Content] = {
    "float8": _third(lambda: torch.ones(2, 2, 1, 1).to(torch.float8_e4m3fn)),
    "bfloat16 NaN": _third(lambda: torch.full((2, 2, 1, 1), float("nan")).bfloat16()),
    "complex": _third(lambda: torch.ones(2, 2, 1, 1, dtype=torch.complex64)),
    "texts for tensors": _third(lambda: "a tensor"),
    "sparse": _third(lambda: torch.eye(3).to_sparse()),
    "quantized": _third(lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)),
    "meta": _third(lambda: torch.empty(1 << 40, device="meta")),
    "expanded": _third(lambda: torch.ones(1).expand(100_000, 100_000)),
    "300 dimensions": _third(lambda: torch.ones([1] * 60)),
    "no elements": _third(lambda: torch.ones(0, 3)),
    "numbers for names": lambda m: saved({i: torch.ones(1) for i in range(5)}),
    "tuples for names": lambda m: saved({("a", 1): torch.ones(1), None: torch.ones(1), 2.5: torch.ones(1)}),
    "names with escapes": lambda m: saved({f"{n}\x1b]0;evil\x07\x9b2J\n\u202e": t for n, t in tensors().items()}),
    "names of 1 MB": lambda m: saved({f"{n}.{'x' * 1_000_000}": t for n, t in list(tensors().items())[:2]}),
    "lone surrogates": lambda m: _edited(
        tensors(), _replaced(b"stage1.0.bn.weight", b"stage1.0.\xed\xa0\x80weight"[:18])
    ),
    "100,000 names": lambda m: saved({f"stem.{i}": 1 for i in range(100_000)}),
    "deep": lambda m: saved({**tensors(), "more": _Nested.of(80)}),
    "laughs": lambda m: saved({**tensors(), "more": _laughs()}),
    "list of tensors": lambda m: saved(list(tensors().values())),
    "one tensor": lambda m: saved(torch.ones(3)),
    "one number": lambda m: saved(7),
    "nothing": lambda m: saved(None),
    "empty dictionary": lambda m: saved({}),
    "metadata of 10 MB": lambda m: saved({"state_dict": tensors(), "meta": {"epoch": "9" * 10_000_000}}),
    "metadata with escapes": lambda m: saved(
        {
            "backbone": tensors(),
            "epoch": 3,
            "config": {"backbone": "\x1b]52;c;ZXZpbA==\x07\n\x85", "model_size": "\x1b[2J"},
        }
    ),
    "metadata of other types": lambda m: saved(
        {
            "backbone": tensors(),
            "epoch": [[]],
            "config": {"backbone": {"a": 1}, "model_size": float("nan"), "image_size": -(10**30)},
        }
    ),
    "epoch beyond all": lambda m: saved(
        {"backbone": tensors(), "epoch": 10**4000, "config": {"backbone": "yolov8", "model_size": "n"}}
    ),
    "epsilon negative": lambda m: saved(
        {
            "meta": {"epoch": 1, "backbone": "yolov8", "model_size": "n", "bn_eps": -1.0, "input_norm": "evil"},
            "state_dict": tensors(),
        }
    ),
    "MMEngine, 200,000 brackets": _mmengine("[" * 200_000),
    "MMEngine, 200,000 minus signs": _mmengine("model = " + "-" * 200_000 + "1"),
    "MMEngine, code": lambda m: saved(
        {
            "meta": {
                "cfg": f"import os\nos.mkdir({m!r})\nmodel = dict(type=__import__('os').mkdir({m!r}))",
                "mmyolo_version": "0.6",
            },
            "state_dict": tensors(),
        }
    ),
    "Lightning, hyper-parameters": lambda m: saved(
        {
            "state_dict": {f"model.student.{n}": t for n, t in tensors().items()},
            "hyper_parameters": {"_class_path": "os.mkdir", "path": m},
            "pytorch-lightning_version": "x" * 100_000,
        }
    ),
}


def _header(header: dict[str, Any] | bytes, data: bytes = bytes(16), length: int | None = None) -> Content:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda m: struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def _tensor(shape: Any = (4,), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


SAFETENSORS: dict[str, Content] = {
    "length of 8 EB": _header({"a": _tensor()}, length=(1 << 63) - 1),
    "length of 100 MB": _header({"a": _tensor()}, length=100_000_000),
    "length of 0": _header({"a": _tensor()}, length=0),
    "length too short": _header({"a": _tensor()}, length=9),
    "overlap": _header({"a": _tensor(), "b": _tensor()}),
    "hole": _header({"a": _tensor(), "b": _tensor((1,), (20, 24))}, bytes(24)),
    "beyond the end": _header({"a": _tensor((400,), (0, 1600))}),
    "offsets reversed": _header({"a": _tensor((4,), (16, 0))}),
    "negative offsets": _header({"a": _tensor((4,), (-16, 0))}),
    "negative shape": _header({"a": _tensor((-4,), (0, 16))}),
    "shape that overflows": _header({"a": _tensor((1 << 62, 4), (0, 16))}),
    "shape of a billion ones": _header({"a": _tensor((1,) * 100_000, (0, 4))}, bytes(4)),
    "shape of texts": _header({"a": _tensor(("4",), (0, 16))}),
    "wrong type": _header({"a": _tensor(dtype="F64")}),
    "unknown type": _header({"a": _tensor(dtype="EVIL")}),
    "type of no sense": _header({"a": _tensor(dtype=7)}),
    "name twice": _header(
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"I32","shape":[4],"data_offsets":[0,16]}}'
    ),
    "not UTF-8": _header(b'{"\xff\xfe":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'),
    "not JSON": _header(b"{'a': 1}"),
    "deep": _header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "list": _header(b'{"__metadata__":[]}', b""),
    "metadata of numbers": _header({"__metadata__": {"epoch": 3}, "a": _tensor()}),
    "metadata of 10 MB": _header({"__metadata__": {"epoch": "9" * 10_000_000}, "a": _tensor()}),
    "metadata with escapes": _header(
        {"__metadata__": {"arch": "\x1b]0;evil\x07", "origin": "\x9b2J\n\r\u202e"}, "a": _tensor()}
    ),
    "name with escapes": _header({"0.conv\x1b]0;evil\x07\n.weight": _tensor()}),
    "no tensors": _header({}, b""),
    "trailing bytes": _header({"a": _tensor()}, bytes(999)),
    "float8": _header({"0.conv.weight": _tensor((16,), (0, 16), "F8_E4M3")}),
    "half a header": _header(b'{"a":{"dtype":"F3'),
}


@cache
def _complete(kind: str) -> bytes:
    return {"zip": _sound, "legacy": lambda: saved(tensors(), legacy=True), "safetensors": lambda: save(tensors())}[
        kind
    ]()


def good_archive() -> bytes:
    """A sound archive."""
    return _sound()


def boundaries(kind: str) -> list[int]:
    """Lengths at which a sound file is cut: about each of its parts' ends."""
    content = _complete(kind)
    if kind == "zip":
        found = [m.start() for m in re.finditer(rb"PK\x03\x04|PK\x01\x02|PK\x05\x06|PK\x06\x06", content)]
        found += [at + 30 for at in found]
    elif kind == "legacy":
        found = [m.end() for m in re.finditer(rb"\.(?=\x80\x02)", content)] + [len(content) // 2]
    else:
        found = [4, 8, 8 + struct.unpack_from("<Q", content)[0]]
    near = {at + d for at in [*found, len(content)] for d in (-1, 0, 1)}
    return sorted(at for at in near if 0 < at < len(content))


def cut(kind: str, length: int) -> Content:
    """The first bytes of a sound file."""
    return lambda m: _complete(kind)[:length]


def write_huge(path: Path) -> None:
    """A file that says it is 8 TB, of which nothing is on the disk."""
    with path.open("wb") as file:
        file.write(_sound()[:4096])
        file.truncate(8 << 40)
