"""SHA-256 of a file, read in pieces."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

_PIECE = 1 << 20  # bytes read at a time where Python cannot do it by itself


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes; no more than a piece of it is in memory.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits, as ``sha256sum`` prints them.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if sys.version_info >= (3, 11):
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while piece := file.read(_PIECE):
            digest.update(piece)
        return digest.hexdigest()
