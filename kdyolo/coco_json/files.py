"""COCO's JSON files, plain or gzipped, read with bounds: their bytes, or their content as plain data."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

from kdyolo.errors import DatasetError
from kdyolo.utils.plain_files import refuse_endless
from kdyolo.utils.system import pause_gc

MOST_UNZIPPED = 100  # bytes for one of a gzipped file; annotations have some 20
EXPECTED = "a COCO JSON file"
_GZIP = b"\x1f\x8b"


def read_bytes(path: Path, expected: str = EXPECTED) -> bytes:
    """The text of a file, unpacked, without a byte-order mark.

    Args:
        path: JSON file, also gzipped, whatever its name.
        expected: What the file should be, for messages.

    Raises:
        DatasetError: The file cannot be read, or is a bomb.
    """
    refuse_endless(path, error=DatasetError)
    try:
        data = path.read_bytes()
        data = _unzipped(path, data) if data[:2] == _GZIP else data
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"{path}: cannot be read: {reason}. Expected {expected}.") from error
    return data.removeprefix(codecs.BOM_UTF8)


def is_gzipped(path: Path) -> bool:
    """Whether a readable file is gzipped, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def read_json_document(path: Path, expected: str = EXPECTED) -> Any:
    """The content of a JSON file, with NaN and Infinity as Python's own ``json`` writes them.

    Args:
        path: JSON file, also gzipped, whatever its name.
        expected: What the file should be, for messages.

    Raises:
        DatasetError: The file cannot be read, or is no JSON.
    """
    data = read_bytes(path, expected)
    try:
        with pause_gc():
            return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # of ValueError: JSON, UTF-8, and numbers of thousands of digits
        raise DatasetError(f"{path}: {error}. Expected {expected}.") from error


def _unzipped(path: Path, data: bytes) -> bytes:
    most = max(1 << 24, MOST_UNZIPPED * len(data))
    with gzip.open(io.BytesIO(data)) as file:
        unzipped = file.read(most + 1)
    if len(unzipped) > most:
        raise DatasetError(
            f"{path}: refused, it unpacks to more than {MOST_UNZIPPED} times its {len(data):,} bytes, as no "
            "annotations do; this may be a bomb. If it is what it should be, unpack it with gunzip."
        )
    return unzipped
