"""Study: arms and seeds of one file, trained on the available machines and compared.

>>> from kdyolo import Study
>>> study = Study.from_file("study.yaml")
>>> study.plan()
>>> study.run()
>>> study.results()
"""

from __future__ import annotations

import html
import math
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdyolo.arguments import checked
from kdyolo.errors import ConfigError, KDYOLOError, RunError
from kdyolo.experiments.comparison.label_shares import arm_at, bare_name
from kdyolo.experiments.study.arm_checks import StudyArm, missing_devices, read_study
from kdyolo.experiments.study.distillations import random_stand_in
from kdyolo.experiments.study.job import Job
from kdyolo.experiments.study.label_subsets import subset_of
from kdyolo.experiments.study.live_table import LiveTable
from kdyolo.experiments.study.local_backend import LocalBackend
from kdyolo.experiments.study.scheduler import Backend, Outcome, drive
from kdyolo.experiments.study.study_file import SUBSETS, StudyFile
from kdyolo.experiments.study.study_run import StudyRun
from kdyolo.runs import detach
from kdyolo.runs.files import ARGS_NAME, LOG_NAME, MAP, MAP50, STUDY_NAME, is_run
from kdyolo.runs.pid_file import claimed_folder
from kdyolo.runs.process_control import ended_by_signals
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.progress import each_line_once
from kdyolo.utils.tables import ShownInOneLine, fitted
from kdyolo.utils.text import plural, printable, shell_word, short_path

if TYPE_CHECKING:
    import pandas as pd

    from kdyolo.experiments.compare import RunComparison

BACKENDS = ("local", "ray")
DIGEST_NAME = f"{STUDY_NAME}.sha256"  # for sha256sum -c
REPORT = "report"


class Study(ShownInOneLine):
    """Arms and seeds that a study file asks for, checked. Make one with :meth:`from_file`.

    Attributes:
        file: The study file.
        arms: Arms with what each trains.
        devices: Devices, each for one run at a time.
        folder: Folder of the study, ``studies/<name>``; its runs are in ``<arm>/seed<k>/``.
        runs: Runs of every arm with every seed, and each share of the labels; a seed of all arms before the next seed.
        distillations: What runs start from that is distilled first, in the order in which it is needed.
    """

    def __init__(self, file: StudyFile, arms: tuple[StudyArm, ...], devices: tuple[str, ...], root: Path) -> None:
        self.file, self.arms, self.devices = file, arms, devices
        self.folder = (root / file.name).resolve()
        # Seed by seed, so that a study that is stopped early has pairs to compare.
        shares = file.labels or (1.0,)
        self.runs = tuple(self._run(arm, seed, share) for seed in file.seeds for share in shares for arm in arms)
        self.distillations = tuple({run.distillation: None for run in self.runs if run.distillation})

    def headline(self) -> str:
        """The study's name, and how much it trains where."""
        arms, runs = plural(len(self.arms), "arm"), plural(len(self.runs), "run")
        return f"{self.file.name}, {arms}, {runs} in {self.folder}"

    def _repr_html_(self) -> str:
        try:
            return f"{super()._repr_html_()}{self.plan().to_html(index=False)}"
        except KDYOLOError as e:  # a folder of other runs; :meth:`plan` raises it
            return f"{super()._repr_html_()}<pre>{html.escape(str(e))}</pre>"

    def _run(self, arm: StudyArm, seed: int, share: float) -> StudyRun:
        distillation = arm.distillation
        first = distillation.of(arm.student, seed, self.folder) if distillation and arm.student else None
        if not self.file.labels:
            return StudyRun(arm, seed, self.folder / arm.name / f"seed{seed}", first)
        subset = subset_of(str(arm.options["data"]), share, seed, self.folder / SUBSETS)
        return StudyRun(arm, seed, self.folder / arm_at(arm.name, share) / f"seed{seed}", first, subset)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Distillations and runs in the order in which they start: each distillation before the first run of it."""
        found: dict[Job, None] = {}
        for run in self.runs:
            found |= {run.distillation: None} if run.distillation else {}
            found[run] = None
        return tuple(found)

    @classmethod
    @checked
    def from_file(
        cls, path: str | Path, *, root: str | Path = "studies", engine: Literal["local", "ray"] = "local"
    ) -> Study:
        """Read a study file, and check all that it asks for. Nothing is written.

        Args:
            path: The YAML file; paths in it are relative to the current folder.
            root: Folder in which the study's own folder is.
            engine: Backend that is to compute the runs; with ``"ray"``, devices need not be on this machine.

        Raises:
            ConfigError: The file has mistakes; the error names all of them.
        """
        file, arms, devices = read_study(path, here=engine == "local")
        return cls(file, arms, devices, Path(root))

    def plan(self) -> pd.DataFrame:
        """A row for each run: ``arm``, ``seed``, ``status`` (new, begun, resumable, finished), ``epochs``, ``model``.

        With ``labels`` also the share of them; before the runs, a row for each distillation, named as its folder is.

        Raises:
            RunError: The folder holds runs of something else; see :meth:`check_folder`.
        """
        import pandas as pd

        self.check_folder()
        rows: list[dict[str, Any]] = [
            {"arm": d.name, "seed": d.options.get("seed", 0), "status": d.state(), "epochs": d.epochs,
             "model": d.options["model"]}
            for d in self.distillations
        ]  # fmt: skip
        rows += [
            {"arm": r.arm.name, "seed": r.seed, "status": r.state(), "epochs": r.epochs, "model": r.arm.model,
             **({"labels": r.subset.share if r.subset else 1.0} if self.file.labels else {})}
            for r in self.runs
        ]  # fmt: skip
        table: pd.DataFrame = pd.DataFrame(rows)
        return table

    @each_line_once()  # the data set is that of all arms, and so are the warnings about it
    def estimate(self) -> dict[str, list[float]]:
        """Seconds of each epoch of each arm, from a few timed steps in every phase; evaluation is not counted.

        Steps are timed on the first device; where one run has several GPUs, on the first of them with its share.

        Raises:
            RunError: This machine has no such device, as may be with a cluster.
        """
        if missing := missing_devices(self.devices):
            raise RunError(f"steps cannot be timed here. {' '.join(missing)}")
        from ultralytics.utils import LOGGER

        from kdyolo.engine.preflight import measure_run
        from kdyolo.engine.start.plan import plan_run

        seconds, level = {}, LOGGER.level
        for arm in self.arms:
            LOGGER.setLevel("WARNING")  # a table of layers for each arm would bury the plan
            try:
                with LocalBackend(self.devices).confined(0), random_stand_in(arm.student) as backbone:
                    start = {"backbone": str(backbone)} if backbone else {}
                    own = {"device": self.devices[0], "seed": self.file.seeds[0], **start}
                    plan = plan_run({**arm.options, **own})
                    rehearsal = measure_run(plan)
            finally:
                LOGGER.setLevel(level)
            phases = ([phase.seconds * rehearsal.steps] * phase.epochs for phase in rehearsal.phases)
            seconds[arm.name] = [epoch for phase in phases for epoch in phase]
        return seconds

    def rehearse_distillations(self) -> dict[str, str]:
        """Check each distillation that is not finished, time a few of its steps, and say what it will take.

        Returns:
            Name of the distillation → lines for a person.

        Raises:
            KDYOLOError: Something is not what it should be.
        """
        from kdyolo.distillation.distill import preview

        return {
            d.name: preview(d.images, d.teacher, {**d.options, "device": self.devices[0]})
            for d in self.distillations
            if d.state() != "finished"
        }

    def time_left(self, estimate: Mapping[str, list[float]]) -> float:
        """Seconds until all runs are finished, started in order, each on the device that is free first.

        Distillations are not counted: see :meth:`rehearse_distillations`.
        """
        free_at = [0.0] * len(self.devices)
        for run in self.runs:
            if run.state() == "finished":
                continue
            history = run.history() if run.state() == "resumable" else None
            place = free_at.index(min(free_at))
            seconds = sum(estimate[run.arm.name][len(history.epochs) if history else 0 :])
            free_at[place] += seconds * (run.subset.share if run.subset else 1.0)
        return max(free_at)

    def check_folder(self) -> None:
        """Refuse a folder that holds runs which the file does not ask for, or asks for differently.

        Raises:
            RunError: There are such runs; the error says which they are, why, and what to do.
        """
        wanted = {job.folder for job in self.jobs}
        found = sorted(path.parent for path in self.folder.glob(f"*/*/{ARGS_NAME}"))
        stray = [f"{self._name(path)}: not in the file" for path in found if path not in wanted and is_run(path)]
        stray += [f"{run.name}: {'; '.join(why)}" for run in self.runs if (why := run.differences())]
        if stray:
            raise RunError(
                f"{self.file.path} has changed since runs of this study were trained; these no longer belong to it:\n  "
                + "\n  ".join(stray)
                + "\nNothing was touched. Give the study another name; or undo the change "
                f"({self.folder / STUDY_NAME} is the file as it was); or move these folders out of {self.folder}, and "
                "what is missing is trained anew."
            )

    def _name(self, folder: Path) -> str:
        return str(folder.relative_to(self.folder))

    def run(self, engine: str | Backend = "local", *, report: bool = True) -> pd.DataFrame:
        """Train all that is not finished yet, resume what was interrupted, and compare.

        A run that fails does not stop the others. Ctrl-C stops all of them, so that the next call goes on.

        Args:
            engine: Backend that computes the runs: ``"local"``, ``"ray"`` (needs ``kdyolo[ray]``), or a
                :class:`~kdyolo.experiments.study.scheduler.Backend` of your own.
            report: Write ``report/`` and print the comparison at the end.

        Returns:
            :meth:`results`.

        Raises:
            ConfigError: There is no such backend.
            RunError: The folder does not fit the file, the study runs already, or runs failed: which, and the ends of
                their logs.
        """
        self.check_folder()
        folders = {job.name: job.folder for job in self.jobs}
        with closing(self._backend(engine) if isinstance(engine, str) else engine) as backend:
            self.folder.mkdir(parents=True, exist_ok=True)
            with ended_by_signals(), claimed_folder(self.folder):
                self._keep_file()
                self._continue_in_background()
                for run in self.runs:
                    if run.subset:
                        run.subset.write()
                with LiveTable(self.file.name, folders) as table:
                    outcome = drive(self.jobs, backend, table)
                problems = [problem] if (problem := self._problem(outcome)) else []
                try:
                    if report:
                        self._report()
                except KDYOLOError as e:  # told together with the failed runs, which matter more
                    problems.append(f"The comparison: {e}")
        if problems:
            raise RunError("\n".join(problems))
        return self.results()

    def _backend(self, name: str) -> Backend:
        if name == "local":
            return LocalBackend(self.devices)
        if name == "ray":
            from kdyolo.experiments.study.ray_backend import RayBackend

            return RayBackend(self.devices, self.folder)
        raise ConfigError(f"unknown engine {name!r}. Expected one of {', '.join(BACKENDS)}.")

    def _keep_file(self) -> None:
        """Copy the study file, and write its digest, beside the runs."""
        copy = self.folder / STUDY_NAME
        if copy.resolve() != self.file.path.resolve():
            write_atomic(copy, self.file.content)
        write_atomic(self.folder / DIGEST_NAME, f"{self.file.sha256}  {STUDY_NAME}\n")

    def _continue_in_background(self) -> None:
        """In a detached study, print to its ``train.log`` from now on, and release the terminal that waits."""
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

    def _problem(self, outcome: Outcome) -> str:
        """What went wrong, with the ends of logs; nothing if all runs are finished."""
        if not (outcome.failures or outcome.left):
            return ""
        failed, left = (
            f"{len(outcome.failures)} of {plural(len(self.jobs), 'run')} failed",
            [run.name for run in outcome.left],
        )
        lines = [f"{failed}; the others are finished."]
        if left:
            lines = [f"no device is left on which runs train. {failed}; not finished: {', '.join(left)}."]
        lines += [f"{place} took no more runs after {failure}" for place, failure in outcome.retired.items()]
        lines += map(str, outcome.failures)
        lines.append(
            f"Mend what is wrong and call kdyolo study {shell_word(self.file.path)} again: finished runs are kept, "
            "others go on."
        )
        return "\n".join(lines)

    def comparison(self, out: str | Path | None = None) -> RunComparison | None:
        """Compare the finished runs, also where they are not like for like; None if no run is finished.

        Args:
            out: Folder of the report; None for no report.
        """
        from kdyolo.experiments.compare import compare_runs

        finished = [run.folder for run in self.runs if run.state() == "finished"]
        if not finished:
            return None
        baseline = self.file.baseline
        trained = {bare_name(run.folder.parent.name) for run in self.runs if run.folder in finished}
        if baseline not in trained:  # by now: the first of those that are there
            baseline = next(run.arm.name for run in self.runs if run.folder in finished)
        compared = compare_runs(*finished, baseline=baseline, anyway=True)
        compared = replace(compared, title=self.file.name)  # runs one by one do not say of which study they are
        if out is not None:
            compared.write_report(out)
        return compared

    def _report(self) -> None:
        import click

        comparison = self.comparison(self.folder / REPORT)
        if comparison is None:
            click.echo("No run is finished, so there is nothing to compare yet.")
            return
        click.echo(fitted(comparison.table()))  # which shows what a terminal would obey, as names bring it, as escapes
        click.echo(printable(f"report: {short_path(self.folder / REPORT / 'report.html')}"))

    def results(self) -> pd.DataFrame:
        """A row for each run: ``arm``, ``seed``, ``status``, ``epochs`` done, and the metrics of its best epoch.

        ``mAP50-95`` and ``mAP50`` are Ultralytics', ``official AP`` is that of ``best.pt`` where kept; all in 0–1, NaN
        where there is none. ``seconds`` is the time of all its epochs.
        """
        import pandas as pd

        table: pd.DataFrame = pd.DataFrame([_row(run, bool(self.file.labels)) for run in self.runs])
        return table


def _row(run: StudyRun, labels: bool) -> dict[str, Any]:
    history = run.history()
    return {
        "arm": run.arm.name,
        **({"labels": run.subset.share if run.subset else 1.0} if labels else {}),
        "seed": run.seed,
        "status": run.state(),
        "epochs": len(history.epochs) if history else 0,
        "mAP50-95": history.value(MAP) if history else math.nan,
        "mAP50": history.value(MAP50) if history else math.nan,
        "official AP": (history.scores or {}).get("AP", math.nan) if history else math.nan,
        "seconds": sum(s for s in history.seconds if not math.isnan(s)) if history else math.nan,
        "folder": str(run.folder),
    }
