"""A study: arms and seeds of one file, trained on whatever machines there are, and compared.

>>> from kdyolo import Study
>>> study = Study.from_file("study.yaml")
>>> study.plan()
>>> study.run()
>>> study.results()
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdyolo.errors import ConfigError, KDYOLOError, RunError
from kdyolo.experiments.study.arm_checks import StudyArm, missing_devices, read_study
from kdyolo.experiments.study.live_table import LiveTable
from kdyolo.experiments.study.local_backend import LocalBackend
from kdyolo.experiments.study.scheduler import Backend, Failure, drive
from kdyolo.experiments.study.study_file import StudyFile
from kdyolo.experiments.study.study_run import StudyRun
from kdyolo.runs import detach
from kdyolo.runs.files import LOG_NAME, MAP, MAP50, is_run
from kdyolo.runs.pid_file import claimed_folder
from kdyolo.runs.process_control import ended_by_sigterm

if TYPE_CHECKING:
    import pandas as pd

    from kdyolo.experiments.compare import RunComparison

ENGINES = ("local", "ray")
COPY_NAME = "study.yaml"
DIGEST_NAME = "study.yaml.sha256"  # for sha256sum -c
REPORT = "report"


class Study:
    """What a study file asks for, checked. Make one with :meth:`from_file`.

    Attributes:
        file: The file.
        arms: What each arm trains.
        devices: One run at a time on each.
        folder: ``studies/<name>``; its runs are in ``<arm>/seed<k>/``.
        runs: Every arm with every seed, a seed of all arms before the next seed.
    """

    def __init__(self, file: StudyFile, arms: tuple[StudyArm, ...], devices: tuple[str, ...], root: Path) -> None:
        self.file, self.arms, self.devices = file, arms, devices
        self.folder = (root / file.name).resolve()
        # Seed by seed, so that a study that is stopped early has pairs to compare.
        self.runs = tuple(
            StudyRun(arm, seed, self.folder / arm.name / f"seed{seed}") for seed in file.seeds for arm in arms
        )

    @classmethod
    def from_file(
        cls, path: str | Path, *, root: str | Path = "studies", engine: Literal["local", "ray"] = "local"
    ) -> Study:
        """Read a study file, and check all that it asks for. Nothing is written.

        Args:
            path: The YAML file; paths in it are relative to the current folder.
            root: Where the study's own folder is.
            engine: With ``"ray"``, devices need not be on this machine.

        Raises:
            ConfigError: Every mistake in the file, in one error.
        """
        file, arms, devices = read_study(path, here=engine == "local")
        return cls(file, arms, devices, Path(root))

    def plan(self) -> pd.DataFrame:
        """A row for each run: ``arm``, ``seed``, ``status`` (new, begun, resumable, finished), ``epochs``, ``model``.

        Raises:
            RunError: The folder holds runs of something else; see :meth:`check_folder`.
        """
        import pandas as pd

        self.check_folder()
        rows = [
            {"arm": r.arm.name, "seed": r.seed, "status": r.state(), "epochs": r.epochs, "model": r.arm.model}
            for r in self.runs
        ]
        table: pd.DataFrame = pd.DataFrame(rows)
        return table

    def estimate(self) -> dict[str, list[float]]:
        """Seconds of each epoch of each arm, from a few timed steps in every phase; evaluation is not counted.

        Steps are timed on the first device, of several GPUs for one run on the first of them.

        Raises:
            RunError: This machine has no such device, as may be with a cluster.
        """
        if missing := missing_devices(self.devices):
            raise RunError(f"steps cannot be timed here. {' '.join(missing)}")
        from ultralytics.utils import LOGGER

        from kdyolo.engine.plan import plan_run
        from kdyolo.engine.preflight import measure_run

        seconds, level = {}, LOGGER.level
        for arm in self.arms:
            LOGGER.setLevel("WARNING")  # a table of layers for each arm would bury the plan
            try:
                with LocalBackend(self.devices).confined(0):
                    device = self.devices[0].partition(",")[0]
                    plan = plan_run({**arm.options, "device": device, "seed": self.file.seeds[0]})
                    rehearsal = measure_run(plan)
            finally:
                LOGGER.setLevel(level)
            phases = ([phase.seconds * rehearsal.steps] * phase.epochs for phase in rehearsal.phases)
            seconds[arm.name] = [epoch for phase in phases for epoch in phase]
        return seconds

    def time_left(self, estimate: Mapping[str, list[float]]) -> float:
        """Seconds until all is done, runs started in order, each on the device that is free first."""
        free_at = [0.0] * len(self.devices)
        for run in self.runs:
            if run.state() == "finished":
                continue
            history = run.history() if run.state() == "resumable" else None
            place = free_at.index(min(free_at))
            free_at[place] += sum(estimate[run.arm.name][len(history.epochs) if history else 0 :])
        return max(free_at)

    def check_folder(self) -> None:
        """Refuse a folder that holds runs which the file does not ask for, or asks for differently.

        Raises:
            RunError: Which they are, why, and what to do.
        """
        wanted = {run.folder for run in self.runs}
        found = sorted(path.parent for path in self.folder.glob("*/*/args.yaml"))
        stray = [f"{self._name(path)}: not in the file" for path in found if path not in wanted and is_run(path)]
        stray += [f"{run.name}: {'; '.join(why)}" for run in self.runs if (why := run.differences())]
        if stray:
            raise RunError(
                f"{self.file.path} has changed since runs of this study were trained; these no longer belong to it:\n  "
                + "\n  ".join(stray)
                + "\nNothing was touched. Give the study another name; or undo the change "
                f"({self.folder / COPY_NAME} is the file as it was); or move these folders out of {self.folder}, and "
                "what is missing is trained anew."
            )

    def _name(self, folder: Path) -> str:
        return str(folder.relative_to(self.folder))

    def run(self, engine: str | Backend = "local", *, report: bool = True) -> pd.DataFrame:
        """Train all that is not finished yet, resume what was interrupted, and compare.

        A run that fails does not stop the others. Ctrl-C stops all of them, so that the next call goes on.

        Args:
            engine: ``"local"``, ``"ray"`` (needs ``kdyolo[ray]``), or an engine of your own.
            report: Write ``report/`` and print the comparison at the end.

        Returns:
            :meth:`results`.

        Raises:
            ConfigError: Unknown engine.
            RunError: The folder does not fit the file, the study runs already, or runs failed: which, and the ends of
                their logs.
        """
        self.check_folder()
        folders = {run.name: run.folder for run in self.runs}
        with closing(self._engine(engine) if isinstance(engine, str) else engine) as computes:
            self.folder.mkdir(parents=True, exist_ok=True)
            with ended_by_sigterm(), claimed_folder(self.folder):
                self._keep_file()
                self._go_on_in_background()
                with LiveTable(self.file.name, folders) as table:
                    failures = drive(self.runs, computes, table)
                problems = [self._told(failures)] if failures else []
                try:
                    if report:
                        self._report()
                except KDYOLOError as e:  # told together with the failed runs, which matter more
                    problems.append(f"The comparison: {e}")
        if problems:
            raise RunError("\n".join(problems))
        return self.results()

    def _engine(self, name: str) -> Backend:
        if name == "local":
            return LocalBackend(self.devices)
        if name == "ray":
            from kdyolo.experiments.study.ray_backend import RayBackend

            return RayBackend(self.devices, self.folder)
        raise ConfigError(f"unknown engine {name!r}. Expected one of {', '.join(ENGINES)}.")

    def _keep_file(self) -> None:
        """The study file as it is, and its digest, beside the runs."""
        copy = self.folder / COPY_NAME
        if copy.resolve() != self.file.path.resolve():
            copy.write_bytes(self.file.content)
        (self.folder / DIGEST_NAME).write_text(f"{self.file.sha256}  {COPY_NAME}\n", encoding="utf-8")

    def _go_on_in_background(self) -> None:
        """Of a detached study: all that it prints goes to its ``train.log``, and the terminal that waits may go."""
        early = detach.output_file()
        if early is None:
            return
        with (self.folder / LOG_NAME).open("ab") as log:
            log.write(early.read_bytes())
            log.flush()
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
        detach.tell_begun(self.folder)

    def _told(self, failures: list[Failure]) -> str:
        told = "\n".join(map(str, failures))
        return (
            f"{len(failures)} of {len(self.runs)} runs failed; the others are finished.\n{told}\n"
            f"Mend what is wrong and call kdyolo study {self.file.path} again: finished runs are kept, others go on."
        )

    def comparison(self, out: str | Path | None = None) -> RunComparison | None:
        """The runs that are finished, compared; None if there are none. What was asked for is compared as it is.

        Args:
            out: Folder for the report.
        """
        from kdyolo.experiments.compare import compare_runs

        finished = [run.folder for run in self.runs if run.state() == "finished"]
        if not finished:
            return None
        baseline = self.file.baseline
        trained = {run.arm.name for run in self.runs if run.folder in finished}
        return compare_runs(*finished, baseline=baseline if baseline in trained else None, out=out, anyway=True)

    def _report(self) -> None:
        import click

        comparison = self.comparison(self.folder / REPORT)
        if comparison is None:
            click.echo("No run is finished, so there is nothing to compare yet.")
            return
        click.echo(comparison.table())
        click.echo(f"report: {self.folder / REPORT / 'report.html'}")

    def results(self) -> pd.DataFrame:
        """A row for each run: ``arm``, ``seed``, ``status``, ``epochs`` done, and the metrics of its best epoch.

        ``mAP50-95`` and ``mAP50`` are Ultralytics', ``official AP`` is that of ``best.pt`` where kept; all in 0–1, NaN
        where there is none. ``seconds`` is the time of all its epochs.
        """
        import pandas as pd

        table: pd.DataFrame = pd.DataFrame([_row(run) for run in self.runs])
        return table


def _row(run: StudyRun) -> dict[str, Any]:
    history = run.history()
    return {
        "arm": run.arm.name,
        "seed": run.seed,
        "status": run.state(),
        "epochs": len(history.epochs) if history else 0,
        "mAP50-95": history.value(MAP) if history else math.nan,
        "mAP50": history.value(MAP50) if history else math.nan,
        "official AP": (history.scores or {}).get("AP", math.nan) if history else math.nan,
        "seconds": sum(s for s in history.seconds if not math.isnan(s)) if history else math.nan,
        "folder": str(run.folder),
    }
