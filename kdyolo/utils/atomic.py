"""Files that are replaced completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class AtomicPath(type(Path())):  # type: ignore[misc]
    """A path whose ``write_bytes`` replaces the file completely or not at all, also if the process is killed in it."""

    def write_bytes(self, data: Any) -> int:
        """Write beside, flush to disk, rename."""
        partial = Path(f"{self}.partial")
        with partial.open("wb") as file:
            count = file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self)
        return count
