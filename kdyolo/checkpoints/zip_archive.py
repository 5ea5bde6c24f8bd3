"""Archives that ``torch.save`` writes, checked before anything in them is read; digest and checksums in one pass."""

from __future__ import annotations

import hashlib
import re
import struct
import threading
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from kdyolo.errors import CheckpointError
from kdyolo.utils.progress import Progress
from kdyolo.utils.text import quoted

CHUNK = 4 << 20  # bytes read at a time: few enough to be hashed while they are still in the processor's cache
CENTRAL_DIRECTORY_LIMIT = 2 << 20  # bytes: room for some ten thousand tensors; a large checkpoint holds two thousand
DESCRIPTOR = 1 << 3  # flag of an entry whose sizes stand behind it, and not in the header before it
ZIP64 = 0xFFFFFFFF  # in place of a size that stands elsewhere
# What zipfile and struct raise for damaged archives: ``check_archive`` makes a CheckpointError with the cause of it.
_DAMAGE = (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error)


class Span(NamedTuple):
    """Bytes of a file whose checksum is known."""

    start: int
    end: int
    crc: int
    name: str


def file_sha256(path: Path, checksums: Sequence[Span] = (), stop: threading.Event | None = None) -> str:
    """Hex digest of a file's bytes, read once and in pieces; on the way, checksums of parts of it are compared.

    Args:
        path: The file.
        checksums: Parts, in the file's order and without overlap.
        stop: Once it is set, the rest is not read, and the digest is that of nothing in particular.

    Raises:
        CheckpointError: A checksum differs.
    """
    digest, position, crc = hashlib.sha256(), 0, 0
    size = path.stat().st_size
    left, buffer = list(reversed(checksums)), memoryview(bytearray(min(CHUNK, size)))
    progress = Progress(f"hashing {path.name}", size // CHUNK + 1, f"pieces of {CHUNK >> 20} MiB")
    with progress, path.open("rb", buffering=0) as file:
        while (piece := buffer[: file.readinto(buffer)]) and not (stop and stop.is_set()):
            digest.update(piece)
            while left and left[-1].start < position + len(piece):
                start, end, expected, name = left[-1]
                crc = zlib.crc32(piece[max(0, start - position) : end - position], crc)
                if end > position + len(piece):
                    break  # goes on in the next piece
                if crc != expected:
                    raise CheckpointError(f"{path}: damaged, {name} in it has another checksum. Copy it again.")
                crc = 0
                left.pop()
            position += len(piece)
            progress.advance()
    return digest.hexdigest()


def check_archive(path: Path, size: int) -> tuple[list[Span], bytes]:
    """Refuse archives that ``torch.save`` did not write; the checksums to compare, if it has any, and the pickle."""
    damaged = f"{path}: damaged, truncated or not a file that torch.save wrote"
    try:
        if _central_directory_size(path, size) > CENTRAL_DIRECTORY_LIMIT:
            raise CheckpointError(f"{path}: refused, its archive lists far more entries than any checkpoint has.")
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename.partition("/")[2] for entry in entries]
            if any(name == "constants.pkl" or name.startswith("code/") for name in names):
                raise CheckpointError(
                    f"{path}: a TorchScript archive, which is a program. Expected weights: save its state_dict()."
                )
            if "data.pkl" not in names:
                found = [entry.filename for entry in entries[:2]]
                raise CheckpointError(f"{damaged}: a zip archive of other things, e.g. {found}.")
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if packed or sum(entry.file_size for entry in entries) > size:
                raise CheckpointError(
                    f"{path}: refused, its archive claims to hold more than the file's {size:,} bytes (compressed or "
                    "overlapping entries). torch.save writes neither; this may be a zip bomb."
                )
            _check_unambiguous(path, size, entries)
            pickle_entry, spans = entries[names.index("data.pkl")], _spans(path, entries)
            if not any(entry.CRC for entry in entries):  # torch.serialization.set_crc32_options(False)
                pickle_entry.CRC = None  # type: ignore[assignment]
                return [], archive.read(pickle_entry)
            return spans, archive.read(pickle_entry)
    except _DAMAGE as e:
        raise CheckpointError(f"{damaged} ({e}). Copy or download it again.") from e


def _check_unambiguous(path: Path, size: int, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse archives that two readers may read differently: what is checked here must be what torch reads.

    ``torch.save`` writes one folder, each entry once (torch compares names without regard to case), from the first
    byte of the file to the last.

    Raises:
        CheckpointError: An entry stands twice, beside the folder, or something before or after the archive.
    """
    why = None
    names = Counter(entry.filename.lower() for entry in entries)
    if twice := [name for name, count in names.items() if count > 1]:
        why = f"its archive holds {quoted(twice[0])} twice, so that what is checked need not be what is read"
    elif len({entry.filename.partition("/")[0] for entry in entries}) > 1:
        why = "its archive holds more than one folder"
    elif led := [entry.filename for entry in entries if ".." in re.split(r"[/\\]", entry.filename)]:
        why = f"its archive holds {quoted(led[0])}, a name that leads out of its folder"
    elif entries and min(entry.header_offset for entry in entries) != 0:
        why = "something stands before its archive"
    else:
        with path.open("rb") as file:
            file.seek(size - 22)
            if not re.fullmatch(rb"PK\x05\x06.{16}\0\0", file.read(), re.DOTALL):
                why = "something stands after its archive"
    if why:
        raise CheckpointError(f"{path}: refused, {why}. torch.save writes no such file: save the state_dict() anew.")


def _spans(path: Path, entries: Sequence[zipfile.ZipInfo]) -> list[Span]:
    """Where the bytes of each entry lie, by the header before them, which is what torch goes by too."""
    spans = []
    with path.open("rb") as file:
        for entry in entries:
            file.seek(entry.header_offset)
            magic, flags, size, name_length, extra_length = struct.unpack("<4s2xH14xIHH", file.read(30))
            if magic != b"PK\x03\x04" or file.read(name_length) != entry.orig_filename.encode():
                raise zipfile.BadZipFile(f"{entry.filename} is not where the archive says")
            if size not in (entry.file_size, ZIP64, 0 if flags & DESCRIPTOR else ZIP64):
                raise zipfile.BadZipFile(f"{entry.filename} has two sizes")
            start = entry.header_offset + 30 + name_length + extra_length
            spans.append(Span(start, start + entry.file_size, entry.CRC, entry.filename))
    spans.sort()
    if any(before.end > after.start for before, after in pairwise(spans)) or (
        spans and spans[-1].end > path.stat().st_size
    ):
        raise zipfile.BadZipFile("its entries overlap")
    return [span for span in spans if span.end > span.start]


def _central_directory_size(path: Path, size: int) -> int:
    """Size in bytes that a zip file's end states for its directory, which is read into memory as a whole."""
    with path.open("rb") as file:
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
    end, end64 = tail.rfind(b"PK\x05\x06"), tail.rfind(b"PK\x06\x06")
    stated = struct.unpack_from("<I", tail, end + 12)[0] if end >= 0 else 0
    stated64 = struct.unpack_from("<Q", tail, end64 + 40)[0] if end64 >= 0 else 0
    return int(max(stated if stated != 0xFFFFFFFF else 0, stated64))
