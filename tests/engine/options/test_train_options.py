"""Declaration of options: every consumer follows it, so that an option is added in one place."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import field, fields, make_dataclass

import click
import pytest

from kdyolo import KDYOLO
from kdyolo.cli import cli
from kdyolo.engine.options.train_options import (
    COMMAND_FLAGS,
    DECLARED,
    OPTION_NAMES,
    READING,
    START,
    STOCK_FLAGS,
    TrainOptions,
    command_options,
    declared,
    names_of,
    option,
)
from kdyolo.engine.options.validation import split_options
from kdyolo.errors import ConfigError
from kdyolo.experiments.comparison import run_settings
from kdyolo.experiments.study import arm_checks, study_run
from kdyolo.experiments.study.arm_checks import StudyArm
from tests.builders.commands import CHECKOUT

Wider = make_dataclass(
    "Wider",
    [("colour", str, field(default="red", metadata=option(help="A colour.", group="freeze", in_study=False)))],
    bases=(TrainOptions,),
    frozen=True,
)
OF_THE_COMMAND = ("version", "detach", "debug", "verbose", "quiet", "as_json")


def test_a_field_more_is_an_option_of_the_command() -> None:
    names = list(command_options(Wider))
    assert names.index("colour") == names.index("freeze_bn") + 1
    assert command_options(Wider)["colour"].flags_of("colour") == ("--colour",)
    assert "colour" in names_of(lambda found: not found.in_study, Wider)
    assert "colour" not in declared(TrainOptions)


def test_the_command_has_every_option_with_its_help() -> None:
    parameters = {p.name: p for p in cli.get_command(None, "train").params if isinstance(p, click.Option)}
    assert [name for name in parameters if name not in OF_THE_COMMAND] == list(command_options())
    for name, found in command_options().items():
        assert parameters[name].help == found.help
        assert tuple(parameters[name].opts) == found.flags_of(name)
        assert parameters[name].is_flag is (found.kind == "flag")
    assert set(parameters) == {*OPTION_NAMES, *STOCK_FLAGS, *COMMAND_FLAGS, *OF_THE_COMMAND}


def test_the_detectors_keywords_are_the_options_that_it_starts_from() -> None:
    keywords = inspect.signature(KDYOLO.__init__).parameters
    own = {name: p.default for name, p in keywords.items() if name not in ("self", "model", "task", "verbose")}
    assert own == {f.name: f.default for f in fields(TrainOptions) if f.name in START}
    assert all(f"    {name}: " in (KDYOLO.__doc__ or "") for name in own)


def test_reading_is_part_of_the_start() -> None:
    assert set(READING) == {"bn_eps", "input_norm", "key_map", "trust"}
    assert {*READING, "backbone", "weights", "random_init", "allow_partial"} == set(START)


def test_a_comparison_knows_every_option_that_stock_training_has_at_its_default() -> None:
    defaults = {f.name: f.default for f in fields(TrainOptions)}
    assert {name: value for name, value in defaults.items() if DECLARED[name].in_stock} == run_settings.STOCK
    assert set(defaults) - run_settings.STOCK.keys() == {"recipe", "work_dir"}


@pytest.mark.parametrize("name", OPTION_NAMES)
def test_a_study_compares_what_the_declaration_says(name: str) -> None:
    def identity(value: object) -> dict[str, object]:
        return StudyArm("arm", {}, TrainOptions(**{name: value}), {}, "kdyolov8n.yaml", "abc").identity()

    assert (identity("one") != identity("another")) is DECLARED[name].in_study
    assert (name in study_run._COMPARED) is DECLARED[name].in_study
    assert (name in arm_checks.FILES) is DECLARED[name].input_file


def test_values_of_paths_become_text_and_unknown_names_are_refused() -> None:
    options, _ = split_options({"backbone": CHECKOUT / "b.pth", "work_dir": CHECKOUT / "run"})
    assert options.backbone == str(CHECKOUT / "b.pth")
    assert options.work_dir == str(CHECKOUT / "run")
    with pytest.raises(ConfigError, match="Did you mean 'backbone_lr'"):
        split_options({"backbone_lrr": 1})


def test_the_declaration_imports_neither_torch_nor_ultralytics() -> None:
    code = "import sys, kdyolo.engine.options.train_options; print({'torch', 'ultralytics'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("name", ["random_init", "allow_partial", "trust", "run_download"])
def test_a_text_is_no_yes(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} takes true or false; found 'no'"):
        split_options({name: "no", "backbone": None})
