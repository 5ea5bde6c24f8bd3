"""Atomic writes: a file is replaced completely or stays what it was."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SUFFIX = ".partial"  # what copies a run folder leaves such files out


@contextmanager
def replacing(path: Path, *, name: str | None = None, shared: bool = False) -> Iterator[Path]:
    """Write a file under another name beside it, and move it into place once it is complete.

    If anything is raised meanwhile, the old file stays and the new one is removed. If the process is killed, the old
    file stays, and the next write goes over what was left.

    Args:
        path: The file to replace or create; its folder must exist.
        name: The temporary name, for writers that look at it; None: the file's with ``.partial`` behind it.
        shared: Whether several processes may write the file at the same time; each then has a temporary name of its
            own that starts with a dot.

    Yields:
        The temporary name to write to.

    Raises:
        OSError: The new file cannot be moved into place.
    """
    usual = f".{path.name}.{secrets.token_hex(4)}{SUFFIX}" if shared else f"{path.name}{SUFFIX}"
    partial = Path(path.parent, name or usual)
    try:
        yield partial
        partial.replace(path)
    except BaseException as e:
        if isinstance(e, OSError) and e.filename is None:  # what fails while it writes does not say where
            e.filename = str(path)
        with suppress(OSError):  # on a disk that has become read-only; what was raised says so already
            partial.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, data: str | bytes | memoryview, *, shared: bool = False, flush: bool = False) -> int:
    """Replace a file's content completely or not at all.

    Args:
        path: The file to replace or create.
        data: The new content; text is written as UTF-8, with its line ends unchanged.
        shared: Whether several processes may write the file at the same time; see :func:`replacing`.
        flush: Wait until the content is on the disk, so that it also survives a power failure.

    Returns:
        The number of bytes written.

    Raises:
        OSError: The file cannot be written; the old one is unchanged.
    """
    with replacing(path, shared=shared) as partial, partial.open("wb") as file:
        count = file.write(data.encode("utf-8") if isinstance(data, str) else data)
        if flush:
            file.flush()
            os.fsync(file.fileno())
    return count


def write_tensors(
    path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None, *, shared: bool = False
) -> None:
    """Write a safetensors file completely or not at all.

    Args:
        path: The file to replace or create.
        tensors: Tensors of torch by name, on the CPU and contiguous.
        metadata: Text by name, in the file's header.
        shared: Whether several processes may write the file at the same time; see :func:`replacing`.

    Raises:
        OSError: The file cannot be written, of which safetensors speaks in a way of its own; the old one is unchanged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with replacing(path, shared=shared) as partial:
            partial.touch()
            usual = partial.stat().st_mode  # of new files here; safetensors lets nobody else read its own
            save_file(dict(tensors), partial, dict(metadata) if metadata else None)
            partial.chmod(usual)
    except SafetensorError as e:
        found = re.search(r"os error (\d+)", str(e))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from e


class AtomicPath(type(Path())):  # type: ignore[misc]
    """A path whose ``write_bytes`` replaces the file completely or not at all, for writers that take any path.

    Paths that are made from it with ``/`` are of the same kind.
    """

    def write_bytes(self, data: Any) -> int:
        """Replace the file's content, and wait until it is on the disk.

        Args:
            data: The new content, bytes or a buffer.

        Returns:
            The number of bytes written.
        """
        return write_atomic(Path(self), data, flush=True)
