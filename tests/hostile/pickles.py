"""Pickles that call or import something, written opcode by opcode, and the three containers that torch puts them in."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SENTINEL = "SENTINEL-OF-THE-CORPUS"
Stream = Callable[[str], bytes]  # path of the marker → opcodes that leave one object on the stack


def text(value: str) -> bytes:
    """BINUNICODE."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def imported(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def from_stack(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def called(function: bytes, *arguments: bytes) -> bytes:
    """REDUCE."""
    return function + b"(" + b"".join(arguments) + b"tR"


MKDIR = imported("os", "mkdir")
_MAP = imported("builtins", "map")
_FROZENSET = imported("builtins", "frozenset")


def partial_by_state(marker: str) -> bytes:
    """BUILD gives an innocent ``functools.partial`` another function, which REDUCE then calls."""
    harmless = imported("functools", "partial") + b"(" + imported("builtins", "print") + b"t\x81"
    state = b"(" + MKDIR + text(marker) + b"\x85}Ntb"
    return harmless + state + b")R"


def lazily(marker: str) -> bytes:
    """NEWOBJ alone: a frozen set of a map that makes the marker as it is walked along."""
    walk = _MAP + b"(" + MKDIR + b"](" + text(marker) + b"et\x81"
    return _FROZENSET + b"(" + walk + b"t\x81"


def lazily_with_keywords(marker: str) -> bytes:
    """The same by NEWOBJ_EX."""
    walk = _MAP + b"(" + MKDIR + b"](" + text(marker) + b"et}\x92"
    return _FROZENSET + b"(" + walk + b"t}\x92"


def persistent(*parts: bytes) -> bytes:
    """BINPERSID of a tuple, as torch refers to its storages."""
    return b"(" + b"".join(parts) + b"tQ"


# Every opcode that calls, imports, or refers to the outside.
CALLING: dict[str, Stream] = {
    "GLOBAL": lambda m: MKDIR,
    "STACK_GLOBAL": lambda m: from_stack("os", "mkdir"),
    "GLOBAL, REDUCE": lambda m: called(MKDIR, text(m)),
    "STACK_GLOBAL, REDUCE": lambda m: called(from_stack("os", "mkdir"), text(m)),
    "through the memo": lambda m: MKDIR + b"q\xf00h\xf0" + text(m) + b"\x85R",
    "INST": lambda m: b"(" + text(m) + b"ios\nmkdir\n",
    "OBJ": lambda m: b"(" + MKDIR + text(m) + b"o",
    "NEWOBJ": lazily,
    "NEWOBJ_EX": lazily_with_keywords,
    "BUILD": partial_by_state,
    "EXT1": lambda m: b"\x82\x01" + text(m) + b"\x85R",
    "EXT2": lambda m: b"\x83\x01\x01" + text(m) + b"\x85R",
    "EXT4": lambda m: b"\x84\x01\x01\x00\x00" + text(m) + b"\x85R",
    "PERSID": lambda m: b"P" + m.encode() + b"\n",
    "BINPERSID of a text": lambda m: text(m) + b"Q",
    "BINPERSID of a storage": lambda m: persistent(text("storage"), MKDIR, text(m), text("cpu"), b"K\x04"),
    "BINPERSID of a module": lambda m: persistent(text("module"), MKDIR, text(m), text("pass")),
    "exec": lambda m: called(imported("builtins", "exec"), text(f"import os; os.mkdir({m!r})")),
    "eval of Python 2": lambda m: called(imported("__builtin__", "eval"), text(f"__import__('os').mkdir({m!r})")),
    "getattr": lambda m: called(called(imported("builtins", "getattr"), imported("os", "path"), text("join")), text(m)),
    "system": lambda m: called(imported("posix", "system"), text(f"mkdir '{m}'")),
    "name with dots": lambda m: called(from_stack("torch.serialization", "os.mkdir"), text(m)),
    "torch.hub": lambda m: called(imported("torch.hub", "load"), text(m), text("x")),
    "torch.load": lambda m: called(imported("torch", "load"), text(m)),
    "torch.jit.load": lambda m: called(imported("torch.jit", "load"), text(m)),
    "ultralytics by name": lambda m: called(imported("ultralytics.utils.checks", "check_requirements"), text("evil")),
    "through ultralytics": lambda m: called(imported("ultralytics.utils.downloads", "subprocess.run"), text(m)),
    "numpy's loader": lambda m: called(imported("numpy", "load"), text(m)),
    "bytearray": lambda m: called(imported("builtins", "bytearray"), b"J\x00\x00\x00\x7f"),
    "bytearray from the stack": lambda m: called(from_stack("builtins", "bytearray"), b"J\x00\x00\x00\x7f"),
    "stand-in called": lambda m: called(imported("numpy", "f2py.os.mkdir"), text(m)),
    "import of this": lambda m: imported("antigravity", "webbrowser"),
}

# What costs instead: time, memory, or the interpreter's stack.
COSTLY: dict[str, Stream] = {
    "five million marks": lambda m: b"(" * 5_000_000 + b"t",
    "deep tuples": lambda m: b")" + b"\x85" * 400_000,
    "deep lists": lambda m: b"](" * 100_000 + b"]" + b"e" * 100_000,
    "doubling": lambda m: b"]" + b"q\x01" + b"(h\x01h\x01h\x01h\x01h\x01h\x01h\x01h\x01lq\x01" * 40,
    "memo far away": lambda m: b"Nr\xff\xff\xff\x7f",
    "text of 4 GB": lambda m: b"X\xf0\xff\xff\xff",
    "text of 8 EB": lambda m: b"\x8d" + b"\xff" * 7 + b"\x7f",
    "bytes of 8 EB": lambda m: b"\x8e" + b"\xff" * 7 + b"\x7f",
    "byte array of 8 EB": lambda m: b"\x96" + b"\xff" * 7 + b"\x7f",
    "number of a million digits": lambda m: b"I" + b"9" * 1_000_000 + b"\n",
    "long of a million digits": lambda m: b"L" + b"9" * 1_000_000 + b"L\n",
    "LONG4 of 2 GB": lambda m: b"\x8b\xff\xff\xff\x7f",
    "frame of 8 EB": lambda m: b"\x95" + b"\xff" * 7 + b"\x7fN",
    "buffer that is not there": lambda m: b"\x97\x98",
    "stack that is empty": lambda m: b"00000R",
    "memo that is empty": lambda m: b"h\xfe",
    "opcode that is none": lambda m: b"\xff\xfe",
}
STREAMS = CALLING | COSTLY


def tensors() -> dict[str, torch.Tensor]:
    """Two layers under the names of an old checkpoint."""
    generator = torch.Generator().manual_seed(2)
    shapes = {"conv.weight": (4, 3, 3, 3), "bn.weight": (4,), "bn.running_mean": (4,), "bn.running_var": (4,)}
    layers = ("stem", "stage1.0")
    return {f"{layer}.{t}": torch.rand(shape, generator=generator) for layer in layers for t, shape in shapes.items()}


PLACES: dict[str, Callable[[], Any]] = {
    "whole": lambda: SENTINEL,
    "tensor": lambda: {**tensors(), "stage2.0.conv.weight": SENTINEL},
    "metadata": lambda: {"state_dict": tensors(), "meta": {"epoch": 3, "more": [SENTINEL]}},
    "key": lambda: {**tensors(), SENTINEL: 1},
}


def _spliced(pickled: bytes, stream: bytes) -> bytes:
    before, sentinel, after = pickled.partition(text(SENTINEL))
    assert sentinel, "torch pickles texts otherwise"
    return before + stream + after


def saved(content: Any, legacy: bool = False) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def entries_of(archive: bytes) -> dict[str, bytes]:
    """Name → content of each entry."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def in_archive(stream: bytes, place: str) -> bytes:
    """A torch archive with the stream at a place of its pickle, all checksums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in entries_of(saved(PLACES[place]())).items():
            file.writestr(name, _spliced(content, stream) if name.endswith("data.pkl") else content)
    return buffer.getvalue()


def in_legacy(stream: bytes, place: str) -> bytes:
    """The same in torch's format before 1.6, which is a row of pickles."""
    return _spliced(saved(PLACES[place](), legacy=True), stream)


def in_tar(stream: bytes, place: str) -> bytes:
    """The same in torch's first format, a tar archive."""
    buffer = io.BytesIO()
    pickled = _spliced(b"\x80\x02" + pickle.dumps(PLACES[place](), 2)[2:], stream) if place == "whole" else stream
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name, content in {"storages": pickle.dumps(0, 2), "tensors": pickle.dumps(0, 2), "pickle": pickled}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def bare(stream: bytes, place: str) -> bytes:
    """A pickle and nothing else, by ``pickle.dump``."""
    content = {"whole": stream, "tensor": b"}" + text("stem.conv.weight") + stream + b"s"}
    return b"\x80\x04" + content[place] + b"."


# Container and place, as one name.
HOLDERS: dict[str, Callable[[bytes], bytes]] = {
    "bare": lambda stream: bare(stream, "whole"),
    "bare, tensor": lambda stream: bare(stream, "tensor"),
    "bare, second": lambda stream: saved(tensors(), legacy=True) + b"\x80\x02" + stream + b".",
    **{f"legacy, {place}": lambda stream, place=place: in_legacy(stream, place) for place in PLACES},
    **{f"zip, {place}": lambda stream, place=place: in_archive(stream, place) for place in PLACES},
    "tar": lambda stream: in_tar(stream, "whole"),
}


def write_pickle(path: Path, marker: str, stream: str, holder: str) -> None:
    """Write one of :data:`STREAMS` in one of :data:`HOLDERS`."""
    path.write_bytes(HOLDERS[holder](STREAMS[stream](marker)))
