"""Commands ``kdyolo train`` and ``doctor``: training, and what is checked before it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from kdyolo.cli.base import (
    F,
    GroupedOption,
    command,
    complete_settings,
    json_option,
    key_values,
    note,
    print_if_quiet,
    print_result,
)
from kdyolo.cli.jobs import CONTROL, detach_option, run_detached
from kdyolo.cli.parsing.next_steps import after_training, training_result
from kdyolo.engine.options.train_options import COMMAND_FLAGS, DECLARED, STOCK_FLAGS, TrainOptions, command_options
from kdyolo.errors import Mistakes, collect_mistakes
from kdyolo.runs.files import LAST_NAME, weights_file
from kdyolo.runs.lifecycle.devices import read_rank
from kdyolo.runs.lifecycle.options import Group, Kind, Option
from kdyolo.runs.process_control import ended_by_signals
from kdyolo.utils.shipped_files import shipped
from kdyolo.utils.text import plural

if TYPE_CHECKING:
    from kdyolo.engine.trainer import KDTrainer

TYPES: dict[Kind, Any] = {
    "text": None,
    "path": click.Path(),
    "flag": None,
    "integer": int,
    "number": float,
    "count": click.IntRange(min=0),
}
TITLES: dict[Group, str] = {
    "start": "What it starts from",
    "freeze": "Freezing the backbone",
    "recipe": "Training",
    "run": "Training",
    "reading": "Reading the backbone checkpoint",
}
# Options that stand together in the help though the declaration has them with others.
COMPLETED = {"model": "models", "recipe": "recipes"}  # options that the shell completes with names of shipped files
CONTROLLING = {*COMMAND_FLAGS, "work_dir", "exist_ok", "run_download"}


def _shipped_names(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completions with the names of shipped files, by which they are given; models of every scale.

    What begins as Ultralytics' names do (``yolov8``) is completed to ours, anything else to a file.
    """

    def complete(ctx: click.Context, param: click.Parameter, begun: str) -> list[CompletionItem]:
        names = list(shipped(kind))
        if kind == "models":
            names = [re.sub(r"(kdyolo(?:v8|\d+))", rf"\g<1>{scale}", name) for name in names for scale in "nsmlx"]
        known = [name if kind == "models" else name.removesuffix(".yaml") for name in names]
        found = [name for name in known if name.startswith(begun)] or [n for n in known if n.startswith(f"kd{begun}")]
        return [CompletionItem(name) for name in found] or [CompletionItem(begun, type="file")]

    return complete


def declared_options(
    options: Mapping[str, Option], titles: Mapping[Group, str] | None = None, unread: Collection[str] = ()
) -> Callable[[F], F]:
    """Give a command the options that are declared elsewhere, in the order of the declaration.

    Args:
        options: Name → declaration.
        titles: Group of options → its title in the help. Default: one list.
        unread: Options whose text is read, and found wrong, with all other settings.
    """

    def decorate(function: F) -> F:
        for name, found in reversed(list(options.items())):
            kind = click.Choice(found.choices) if found.choices else TYPES[found.kind]
            function = click.option(
                *found.flags_of(name),
                name,
                cls=GroupedOption,
                group=CONTROL if name in CONTROLLING else (titles or {}).get(found.group, "Options"),
                type=None if name in unread and found.kind == "integer" else kind,
                is_flag=True if found.kind == "flag" else None,  # False would take -1 for an option, not for its value
                metavar=found.metavar or ("INTEGER" if found.kind == "integer" else None),
                shell_complete=_shipped_names(COMPLETED[name]) if name in COMPLETED else None,
                help=found.help,
            )(function)
        return function

    return decorate


def _check_others(given: Mapping[str, Any]) -> None:
    """Find the mistakes in settings, config file and options of a command line that has others already."""
    options = {key: value for key, value in given.items() if value and (key in DECLARED or key in STOCK_FLAGS)}
    with collect_mistakes() as mistakes:
        read = key_values(given.get("settings") or (), options, mistakes)
        asked = mistakes.result(lambda: _of_config(given.get("config")))
        if given.get("resume") is None:
            _add_others(mistakes, asked, {**options, **read})


def _add_others(mistakes: Mistakes, asked: Mapping[str, Any] | None, given: Mapping[str, Any]) -> None:
    """Add the mistakes in options and files to those that there are.

    Args:
        mistakes: Mistakes found so far.
        asked: Options of a config file; None: it cannot be read, so that nobody knows what is missing.
        given: Options beside it.
    """
    from kdyolo.engine.options.validation import split_options
    from kdyolo.engine.start.plan import plan_with_every_mistake

    if asked is None:
        mistakes.result(lambda: split_options(given))
    else:
        mistakes.result(lambda: plan_with_every_mistake({**asked, **given}))


def _of_config(config: str | None) -> dict[str, Any]:
    """The options in a config file; none without one."""
    from kdyolo.cli.parsing.config_file import read_config

    return {} if config is None else read_config(config, TrainOptions().to_dict())


@command(
    "  kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --freeze 50\n"
    "  kdyolo train --data datasets/coco/coco.yaml --model kdyolov8s.yaml --random-init\n"
    "  kdyolo train --data datasets/coco/coco.yaml --weights yolov8s.pt --backbone ckpt.pth --recipe coco-mosaic\n"
    "  kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --epochs 12 lr0=0.02 hsv_h=0\n"
    "  kdyolo train --config runs/detect/train/kdyolo.yaml seed=1\n"
    "  kdyolo train --resume runs/detect/train --detach",
    check=_check_others,
)
@declared_options(command_options(), TITLES, unread=STOCK_FLAGS)
@detach_option
@json_option
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_settings)
def train(
    settings: Sequence[str],
    config: str | None,
    resume: str | None,
    dry_run: bool,
    detach: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a detector on a distilled backbone.

    Any Ultralytics setting can follow the options as KEY=VALUE; options left out take the recipe's values.
    """
    if detach:
        run_detached(dry_run, as_json)
        return
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    read_rank(os.environ)  # Ultralytics reads the same when it is imported, and says less about what is wrong
    with collect_mistakes() as mistakes:
        given.update(key_values(settings, given, mistakes))
        asked = mistakes.result(lambda: _of_config(config))
        if resume is not None and (dry_run or config):
            what = "--dry-run is for a new run" if dry_run else "--config is for a new run"
            mistakes.add(f"{what}: one to resume has its options, and they have been checked already.")
        if resume is None and mistakes:
            _add_others(mistakes, asked, given)
    given = {**(asked or {}), **given}
    with ended_by_signals():
        if resume is not None:
            result = _resume(Path(resume), given)
        elif dry_run:
            from kdyolo.engine.preflight import preflight

            result = {"phases": [asdict(phase) for phase in preflight(given)]}
        else:
            result = _start(given)
    if os.environ.get("RANK", "0") != "0":  # one of several ranks, and the first one says it
        return
    if as_json:
        print_result(result)
    elif dry_run:
        print_if_quiet("\n".join(_phase_in_words(phase) for phase in result["phases"]))
    else:
        print_if_quiet(result["best"])
        note(after_training(result))


def _phase_in_words(phase: Mapping[str, Any]) -> str:
    seconds, memory = phase["seconds"], phase["memory"] / 2**30
    return f"{phase['name']}: {plural(phase['epochs'], 'epoch')}, {seconds:.3g} s a step, {memory:.1f} GiB"


def _start(given: dict[str, Any]) -> dict[str, Any]:
    from kdyolo.engine.start.plan import plan_run
    from kdyolo.engine.trainer import KDTrainer

    return _trained(KDTrainer(plan=plan_run(given)))


def _resume(run: Path, given: dict[str, Any]) -> dict[str, Any]:
    from kdyolo.engine.trainer import KDTrainer

    last = str(run if run.suffix == ".pt" else weights_file(run, LAST_NAME))
    return _trained(KDTrainer(overrides={**given, "task": "detect", "mode": "train", "model": last, "resume": last}))


def _trained(trainer: KDTrainer) -> dict[str, Any]:
    """Train, and say what came of it as plain data."""
    trainer.train()
    if os.environ.get("RANK", "0") != "0":  # whose node need not have the run folder
        return {}
    data = trainer.plan.overrides.get("data") or trainer.args.data
    return training_result(trainer.save_dir, str(data), trainer.data.get("val"))


def _check_parts(given: Mapping[str, Any]) -> None:
    """Find the mistakes in data set, checkpoint and model, for a command line that has others already."""
    from kdyolo.engine.preflight import check_parts

    check_parts(**{name: given.get(name) for name in ("data", "backbone", "model")})


@command("  kdyolo doctor\n  kdyolo doctor --data datasets/coco/coco.yaml --backbone ckpt.pth", check=_check_parts)
@click.option("--data", type=click.Path(), help="Data set YAML to check.")
@click.option("--backbone", type=click.Path(), help="Distillation checkpoint to check.")
@click.option("--model", help="Model YAML that the checkpoint should fit.")
@json_option
def doctor(as_json: bool, **options: Any) -> None:
    """Show versions, processor, GPUs and free space, and check a data set and a checkpoint."""
    from kdyolo.engine.preflight import check_parts, environment

    here = environment()
    if not as_json:
        print_result(here)
    found = check_parts(**options)
    if as_json:
        print_result({"environment": here.splitlines(), "found": found.splitlines()})
    elif found:
        print_result(found)
