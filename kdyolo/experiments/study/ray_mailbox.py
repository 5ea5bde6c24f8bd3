"""Mailbox of a study on a Ray cluster. Its process imports this module alone, and so begins without PyTorch."""

from __future__ import annotations


class RayMailbox:
    """Messages between the driver and its tasks: runs to stop, and files of runs in folders that are not shared."""

    def __init__(self) -> None:
        self._stopped: set[str] = set()
        self._posted: dict[str, bytes] = {}

    def stop(self, name: str) -> None:
        """Have a run end as soon as its task looks."""
        self._stopped.add(name)

    def exchange(self, name: str, files: bytes | None) -> bool:
        """Leave a run's files, and return whether the run is to stop."""
        if files is not None:
            self._posted[name] = files
        return name in self._stopped

    def take(self, name: str) -> bytes | None:
        """The files that a run has left since they were last taken."""
        return self._posted.pop(name, None)
