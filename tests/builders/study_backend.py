"""A backend of studies for tests: each command runs at once, in the test's own process."""

from __future__ import annotations

from collections.abc import Callable

from kdyolo.cli import main
from kdyolo.experiments.study.job import Job


class Ended:
    """A job that has ended when it is looked at."""

    def __init__(self, code: int) -> None:
        self.code = code

    def poll(self) -> int:
        return self.code

    def stop(self) -> None:
        """Nothing goes on."""


class InThisProcess:
    """A backend that runs each command where it is, at once."""

    places_differ = False
    places = ("here",)

    def __init__(self, before: Callable[[list[str]], None] | None = None) -> None:
        self.commands: list[list[str]] = []
        self.before = before

    def start(self, run: Job, place: int) -> Ended:
        words = run.arguments("cpu")
        self.commands.append(words)
        try:
            if self.before:
                self.before(words)
            main(words)
        except SystemExit as e:
            return Ended(int(e.code or 0))
        return Ended(0)

    def close(self) -> None:
        """Nothing is held."""
