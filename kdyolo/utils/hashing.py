"""SHA-256 of a file, read in pieces."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kdyolo.utils.progress import Progress

_PIECE = 1 << 20  # bytes read at a time


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes; no more than a piece of it is in memory.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits, as ``sha256sum`` prints them.

    Raises:
        OSError: The file cannot be read.
    """
    digest = hashlib.sha256()
    pieces = path.stat().st_size // _PIECE + 1
    with path.open("rb") as file, Progress(f"hashing {path.name}", pieces, "MiB") as progress:
        while piece := file.read(_PIECE):
            digest.update(piece)
            progress.advance()
    return digest.hexdigest()
