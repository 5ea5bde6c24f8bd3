"""What can go wrong, by subject.

Each message says what was expected, what was found and what to do next. The command line prints the message alone and
exits with a non-zero code; ``--debug`` shows the traceback as well.
"""

from __future__ import annotations

from collections.abc import Sequence


class KDYOLOError(Exception):
    """Base class of every error that kdyolo raises on purpose."""


class CheckpointError(KDYOLOError):
    """A weights file cannot be read, or does not fill the backbone it is meant for."""


class DatasetError(KDYOLOError):
    """COCO annotations, images or a dataset YAML are not what they should be."""


class ModelError(KDYOLOError):
    """A model YAML cannot be found, resolved or built."""


class ConfigError(KDYOLOError):
    """Options contradict each other, are unknown or out of range. All mistakes found are reported at once."""

    def __init__(self, mistakes: str | Sequence[str]) -> None:
        self.mistakes: tuple[str, ...] = (mistakes,) if isinstance(mistakes, str) else tuple(mistakes)
        several = len(self.mistakes) > 1
        super().__init__(
            "\n  - ".join((f"{len(self.mistakes)} mistakes:", *self.mistakes)) if several else self.mistakes[0]
        )


class RunError(KDYOLOError):
    """A training run cannot start, continue or be finished as asked."""
