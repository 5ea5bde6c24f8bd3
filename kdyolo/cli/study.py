"""``kdyolo study``: arms, seeds and devices of one file, trained and compared."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import click

from kdyolo.cli.base import command, echo, json_option, plain_data, print_result
from kdyolo.cli.jobs import detach_option, run_detached
from kdyolo.errors import RunError
from kdyolo.utils.progress import verbosity
from kdyolo.utils.text import shell_word

if TYPE_CHECKING:
    from kdyolo.experiments.study.study import Study


def _check_study(given: Mapping[str, Any]) -> None:
    """Find the mistakes in a study's file, for a command line that has others already."""
    from kdyolo.experiments.study.study import Study

    if file := given.get("file"):
        Study.from_file(file, engine=given.get("engine") or "local")


@command(
    "  kdyolo study study.yaml --dry-run\n"
    "  kdyolo study study.yaml            # also to go on after an interruption\n"
    "  kdyolo study study.yaml --detach\n"
    "  kdyolo study study.yaml --engine ray",
    check=_check_study,
)
@click.argument("file", type=click.Path())
@click.option("--dry-run", is_flag=True, help="Check everything, time a few steps of each arm, print the plan.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Child processes on this machine, or tasks on a Ray cluster.",
)
@detach_option
@json_option
def study(file: str, dry_run: bool, engine: Literal["local", "ray"], detach: bool, as_json: bool) -> None:
    """Train every arm with every seed, and say what can be said of the differences.

    FILE is a YAML with name, data, base, arms, seeds, devices and baseline. Runs are ordinary work dirs in
    studies/NAME/ARM/seedK. Calling again resumes what was interrupted and never repeats what is finished.
    """
    if detach:
        run_detached(dry_run, as_json)
        return
    from kdyolo.experiments.study.study import Study

    planned = Study.from_file(file, engine=engine)
    if dry_run and as_json:
        print_result(plain_data(planned.plan().to_dict("records")))
        return
    if dry_run:
        _print_plan(planned)
        return
    try:
        planned.run(engine)
    except KeyboardInterrupt:
        echo(f"\nInterrupted; all runs are stopped. Go on with: kdyolo study {shell_word(file)}", err=True)
        raise
    told = not as_json and verbosity() != "quiet"  # by the study itself
    comparison = None if told else planned.comparison()
    if as_json:
        print_result(comparison.to_dict() if comparison else None)
    elif comparison:
        print_result(comparison.table())


def _print_plan(planned: Study) -> None:
    """Runs, their commands, and the time that they take."""
    from kdyolo.utils.tables import aligned
    from kdyolo.utils.text import format_duration, plural, short_path

    plan = planned.plan()
    print_result(f"\nplan of {planned.file.name}: {plural(len(planned.runs), 'run')} in {short_path(planned.folder)}\n")
    for name, lines in planned.rehearse_distillations().items():
        print_result(f"{name}\n  " + lines.replace("\n", "\n  ") + "\n")
    try:
        estimate = planned.estimate()
        plan["about"] = [format_duration(sum(estimate[arm])) if arm in estimate else "" for arm in plan["arm"]]
        left = format_duration(planned.time_left(estimate))
        at_once = f"{len(planned.devices)} at once"
        beside = "distillations, " if planned.distillations else ""
        time = f"about {left} with {at_once}, {beside}evaluation, optimizer steps and waiting for images not counted"
    except RunError as e:
        time = f"how long it takes is not known: {e}"
    cells = plan.astype(object).where(plan.notna(), "")  # a distillation has no share of labels
    echo("\n".join(aligned([list(plan.columns), *cells.astype(str).values.tolist()])))
    if todo := [job for job in planned.jobs if job.state() != "finished"]:
        print_result(f"\nthe first:\n  kdyolo {shlex.join(todo[0].arguments(planned.devices[0]))}")
    print_result(f"\n{time}. Nothing was trained.")
