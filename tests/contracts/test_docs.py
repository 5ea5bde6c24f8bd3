"""README and documentation hold: commands parse, Python resolves, links and anchors lead somewhere, messages exist."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
from ultralytics.cfg import MODES
from ultralytics.utils import DEFAULT_CFG_DICT, SETTINGS

from kdyolo.cli import cli, main
from kdyolo.cli.parsing.exit_codes import EXIT_CODES, FAILED, INTERRUPTED, TERMINATED, WRONG_CALL
from kdyolo.cli.sections import SECTIONS
from kdyolo.engine.options.train_options import command_options
from kdyolo.errors import ConfigError, RunError
from kdyolo.runs.process_control import Terminated
from kdyolo.utils.shipped_files import shipped
from tests.builders.commands import CHECKOUT
from tests.builders.pages import CODE, Page, pages

PAGES = pages()
# What stands in a shell block beside kdyolo: name of the program → how the rest of the line is checked.
OTHERS = {"pip", "docker", "sha256sum", "export", "tensorboard", "eval"}
# Names that a Python block may use without making them: what the text around it speaks of.
GIVEN = {"images"}
FOREIGN_OPTIONS = {
    *("--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"),  # torchrun
    *("--index-url", "--build-arg", "--rm", "--gpus", "--ipc", "--user", "--logdir"),  # pip, docker, tensorboard
}


def by_name(items: list[Any]) -> dict[str, Any]:
    """Arguments of ``parametrize`` for pages, or for pairs of a page and a text."""
    ids = [item.name if isinstance(item, Page) else f"{item[0].name}: {item[1]}" for item in items]
    return {"argvalues": items, "ids": ids}


# ---- shell -----------------------------------------------------------------------------------------------------------

COMMANDS = [(page, line) for page in PAGES for line in page.shell()]


@pytest.mark.parametrize(("page", "line"), **by_name(COMMANDS))
def test_every_command_is_one(page: Page, line: str) -> None:
    words = shlex.split(line, comments=True)
    program = words[0]
    if program == "torchrun":
        words, program = words[words.index("-m") + 1 :], "kdyolo"
        assert words[0] == "kdyolo"
    if program == "kdyolo":
        parse_kdyolo(words[1:])
    elif program == "make":
        check_make(words[1:])
    elif program == "yolo":
        check_yolo(words[1:])
    elif program in ("python", ".venv/bin/python"):
        check_python(words[1:])
    elif program == "pip":
        check_pip(words[1:])
    else:
        assert program in OTHERS, f"{page.name}: what is {program}?"


def parse_kdyolo(words: list[str]) -> None:
    """A command of kdyolo, with every option and argument, as click reads it; nothing is run."""
    if words == ["--help"]:
        return
    name, *arguments = words
    command = cli.get_command(None, name)
    assert command, name
    command.make_context(name, arguments)  # raises on an unknown option or a missing value


def check_make(words: list[str]) -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    targets = [word for word in words if "=" not in word]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    for variable in (word.partition("=")[0] for word in words if "=" in word):
        assert re.search(rf"^{variable}\s*\??=", makefile, flags=re.MULTILINE), variable


def check_yolo(words: list[str]) -> None:
    mode, *settings = words
    known = set(SETTINGS) if mode == "settings" else set(DEFAULT_CFG_DICT)
    assert mode in MODES or mode in ("settings", "cfg"), mode
    for setting in settings:
        key, equals, value = setting.partition("=")
        assert key in known, setting
        assert equals, setting
        assert value, setting


def check_python(words: list[str]) -> None:
    """A script or tests of this repository; a script's options stand in its source."""
    if words[:2] == ["-m", "pytest"]:
        for path in (word for word in words[2:] if not word.startswith("-")):
            assert (CHECKOUT / path).exists(), path
        return
    script = CHECKOUT / words[0]
    assert script.is_file(), words[0]
    source = script.read_text(encoding="utf-8")
    for option in (word for word in words[1:] if word.startswith("--")):
        assert f'"{option}"' in source, option
    for option in re.findall(r'add_argument\("(--[\w-]+)"[^\n]*required=True', source):
        assert option in words, f"{words[0]} needs {option}"


def check_pip(words: list[str]) -> None:
    assert words[0] == "install", words
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"(?:^|\s)(?:\.|kdyolo)\[(\w+)\]", " ".join(words[1:])):
        assert re.search(rf"^{extra} = \[", project, flags=re.MULTILINE), extra


@pytest.mark.parametrize("page", **by_name(PAGES))
def test_every_option_in_the_text_is_one(page: Page) -> None:
    known = options_of_all_commands() | FOREIGN_OPTIONS
    for code in (found[2] for found in CODE.finditer(page.prose)):
        if re.match(r"(python|git|docker) ", code):
            continue
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code):
            assert option in known, f"{page.name}: {option} in `{code}`"


@cache
def options_of_all_commands() -> frozenset[str]:
    names = [name for section in SECTIONS.values() for name in section]
    found = {o for name in names for parameter in command(name).params for o in parameter.opts}
    return frozenset(found | {o for parameter in cli.params for o in parameter.opts} | {"--help", "--version"})


def command(name: str) -> click.Command:
    found = cli.get_command(None, name)
    assert found, name
    return found


def code_names(page: Page) -> Iterator[str]:
    for found in CODE.finditer(page.prose):
        yield found[2]


COMMANDS_IN_TEXT = [
    (page, found[2]) for page in PAGES for found in CODE.finditer(page.prose) if found[2].startswith("python ")
]


@pytest.mark.parametrize(("page", "line"), **by_name(COMMANDS_IN_TEXT))
def test_every_script_and_test_that_shows_something_is_called_as_it_wants(page: Page, line: str) -> None:
    check_python(shlex.split(line)[1:])


@pytest.mark.parametrize("page", **by_name(PAGES))
def test_every_script_and_test_that_is_named_exists(page: Page) -> None:
    for code in code_names(page):
        for path in re.findall(r"(?<![\w/])(?:scripts|tests|kdyolo|cfg)/[\w/]+(?:\.\w+)?", code):
            assert (CHECKOUT / path).exists(), f"{page.name}: {path}"


# ---- Python ----------------------------------------------------------------------------------------------------------

WITH_PYTHON = [page for page in PAGES if page.blocks("python")]


@pytest.mark.parametrize("page", **by_name(WITH_PYTHON))
def test_python_blocks_resolve_their_names(page: Page) -> None:
    """Imports work, every name is made before it is used, and keywords of kdyolo's functions are theirs."""
    known: dict[str, Any] = dict.fromkeys({*vars(builtins), *GIVEN})
    for block in page.blocks("python"):
        tree = ast.parse(block)
        known |= imported(tree)
        known |= dict.fromkeys(n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
        known |= dict.fromkeys(n.arg for n in ast.walk(tree) if isinstance(n, ast.arg))
        for name in (n.id for n in ast.walk(tree) if isinstance(n, ast.Name)):
            assert name in known, f"{page.name}: {name}"
        for node in (n for n in ast.walk(tree) if isinstance(n, ast.Assign) and len(n.targets) == 1):
            if isinstance(node.targets[0], ast.Name) and (owner := made_by(node.value, known)):
                known[node.targets[0].id] = owner  # model = KDYOLO(…): model has its methods
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            check_call(call, known, page)


def imported(tree: ast.AST) -> dict[str, Any]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            found |= {n.asname or n.name: getattr(module, n.name) for n in node.names}
        elif isinstance(node, ast.Import):
            found |= {n.asname or n.name.partition(".")[0]: importlib.import_module(n.name) for n in node.names}
    return found


def check_call(call: ast.Call, known: dict[str, Any], page: Page) -> None:
    """A call of something of kdyolo, or of one of its methods: the method exists and takes these keywords."""
    function = call.func
    if isinstance(function, ast.Name):
        target = known.get(function.id)
    elif isinstance(function, ast.Attribute) and (owner := made_by(function.value, known)):
        assert hasattr(owner, function.attr), f"{page.name}: {owner.__name__}.{function.attr}"
        target = getattr(owner, function.attr)
    else:
        return
    if not getattr(target, "__module__", "").startswith("kdyolo"):
        return
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    if (
        getattr(target, "__qualname__", "") == "KDYOLO.train"
    ):  # takes any keyword, and refuses those that are none later
        assert keywords.keys() <= {*command_options(), *DEFAULT_CFG_DICT, "trainer"}, f"{page.name}: {list(keywords)}"
    positional = [None] * len(call.args) if not any(isinstance(a, ast.Starred) for a in call.args) else []
    method = isinstance(function, ast.Attribute) and inspect.isfunction(target)
    inspect.signature(target).bind_partial(*([None] if method else []), *positional, **keywords)


def made_by(value: ast.expr, known: dict[str, Any]) -> type | None:
    """The class of kdyolo that an expression stands for, makes or was made by: ``KDYOLO(…)``, ``model``, ``Study``."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        value = value.func
    found = known.get(value.id) if isinstance(value, ast.Name) else None
    return found if inspect.isclass(found) and found.__module__.startswith("kdyolo") else None


@pytest.mark.integration
@pytest.mark.usefixtures("forked_trainings")
def test_ten_minutes_are_walked_as_written(shapes: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Every command of the page, in its order, on smaller images and for fewer epochs; the study has one seed."""
    page = page_of("docs/start/ten-minutes.md")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/shapes").symlink_to(shapes.parent.parent / "root")
    (tmp_path / "demo/epoch_15_backbone_mmdet.pth").symlink_to(checkpoint)
    (study,) = page.blocks("yaml")
    for longer, shorter in {"epochs: 6": "epochs: 1", "imgsz: 128": "imgsz: 32", "[0, 1, 2]": "[0]"}.items():
        assert longer in study
        study = study.replace(longer, shorter)
    (tmp_path / "study.yaml").write_text(study.replace("freeze: 3", "freeze: 1"), encoding="utf-8")
    fast = {"--freeze": "1", "--epochs": "2", "--imgsz": "32"}
    for line in page.shell():
        program, *words = shlex.split(line)
        for option in fast.keys() & set(words):
            words[words.index(option) + 1] = fast[option]
        if words[0] == "train":
            words.append("plots=False")
        if program == "kdyolo":
            main(words)  # exits where something fails
        else:
            assert (program, words[0]) == ("yolo", "val")  # tests of stock commands: tests/integration/test_stock.py
    assert (tmp_path / "preflight/labels.jpg").is_file()
    assert (tmp_path / "runs/first-errors/errors").is_dir()
    assert (tmp_path / "report/report.html").is_file()


# ---- YAML ------------------------------------------------------------------------------------------------------------


STUDIES = [(page, block.splitlines()[0]) for page in PAGES for block in page.blocks("yaml") if "\narms:" in block]


@pytest.mark.parametrize(("page", "first"), **by_name(STUDIES))
def test_every_study_is_one(page: Page, first: str, tmp_path: Path) -> None:
    from kdyolo.experiments.study.study_file import parse_study

    (block,) = (block for block in page.blocks("yaml") if block.startswith(first) and "\narms:" in block)
    (tmp_path / "study.yaml").write_text(block, encoding="utf-8")
    study, mistakes = parse_study(tmp_path / "study.yaml")
    assert mistakes == []
    assert study.baseline in study.arms


def test_the_key_map_of_the_guide_is_one(tmp_path: Path) -> None:
    from kdyolo.checkpoints.key_naming import load_key_map

    (block,) = page_of("docs/guides/checkpoints.md").blocks("yaml")
    (tmp_path / "map.yaml").write_text(block, encoding="utf-8")
    scheme = load_key_map(tmp_path / "map.yaml")
    assert scheme.rename(("block", "3", "reduce", "conv", "weight")) == "3.cv1.conv.weight"


def page_of(name: str) -> Page:
    return next(page for page in PAGES if page.name == name)


# ---- container -------------------------------------------------------------------------------------------------------


def test_the_dockerfile_copies_what_is_there_and_installs_extras_that_exist() -> None:
    text = (CHECKOUT / "Dockerfile").read_text(encoding="utf-8")
    let_through = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [source for line in re.findall(r"^COPY (.+)$", text, flags=re.MULTILINE) for source in line.split()[:-1]]
    assert copied
    for source in copied:
        assert (CHECKOUT / source).exists(), source
        assert f"!{source}" in let_through, source
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r"^ARG EXTRAS=(\S+)$", text, flags=re.MULTILINE)[0].split(","):
        assert re.search(rf"^{extra} = \[", project, flags=re.MULTILINE), extra
    (torch,) = re.findall(r'^  "(torch>=[^"]+)"', project, flags=re.MULTILINE)
    assert f"pip install --quiet '{torch}' torchvision" in text  # else a later step installs PyTorch anew, from PyPI


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", **by_name(PAGES))
def test_links_and_anchors_lead_somewhere(page: Page) -> None:
    known = {found.path: found for found in PAGES}
    for link in page.links():
        if re.match(r"https?://", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), f"{page.name}: {link}"
        if fragment:
            assert fragment in known[target].anchors, f"{page.name}: {link}"


def test_every_page_stands_in_the_contents(reference: Any) -> None:
    text = reference.fill(page_of("docs/index.md").text)
    listed = re.findall(r"^[\w-]+(?:/[\w-]+)*$", "\n".join(re.findall(r"```{toctree}(.*?)```", text, re.DOTALL)), re.M)
    names = [page.name.removeprefix("docs/").removesuffix(".md") for page in PAGES if page.name.startswith("docs/")]
    assert sorted(names) == sorted(["index", *listed])


# ---- reference -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> Iterator[Any]:
    """The module that makes pages from the program; Sphinx is not needed for it."""
    extensions = str(CHECKOUT / "docs" / "_ext")
    sys.path.insert(0, extensions)
    yield importlib.import_module("reference_pages")
    sys.path.remove(extensions)


def test_the_reference_has_every_command_and_option(reference: Any) -> None:
    text = reference.fill(page_of("docs/reference/commands.md").text)
    for section in SECTIONS.values():
        for name in section:
            part = text.partition(f"### kdyolo {name}\n")[2].partition("\n### ")[0]
            for parameter in command(name).params:
                if isinstance(parameter, click.Option) and not parameter.hidden and "--help" not in parameter.opts:
                    assert all(option in part for option in parameter.opts), (name, parameter.opts)


def test_the_reference_has_every_option_of_a_training(reference: Any) -> None:
    text = reference.fill(page_of("docs/reference/train-options.md").text)
    for name, option in command_options().items():
        assert all(f"`{flag}" in text for flag in option.flags_of(name)), name
        assert option.help, name


def test_every_mark_of_a_page_is_filled(reference: Any) -> None:
    marks = [name for page in PAGES for name in reference.MARK.findall(page.text)]
    assert sorted(marks) == sorted(reference.MADE)


def test_every_public_name_stands_in_the_reference(reference: Any) -> None:
    import kdyolo

    text = reference.fill(page_of("docs/reference/python.md").text)
    for name in kdyolo.__all__:
        if name != "__version__":
            value = getattr(kdyolo, name)
            named = value.__name__ if inspect.isclass(value) and issubclass(value, Exception) else name
            assert re.search(rf"::? kdyolo\.(errors\.)?{named}$", text, flags=re.MULTILINE), name


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunError("x"), FAILED),
        (ConfigError("x"), WRONG_CALL),
        (KeyboardInterrupt(), INTERRUPTED),
        (Terminated(), TERMINATED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes_are_those_of_the_command(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "main", fails)
    with pytest.raises(SystemExit) as ended:
        main(["ps"])
    assert ended.value.code == code


def test_every_exit_code_is_described() -> None:
    rows = re.findall(r"^\| (\d+) \|", page_of("docs/reference/exit-codes.md").text, flags=re.MULTILINE)
    assert [int(row) for row in rows] == list(EXIT_CODES)


def test_every_shipped_file_is_described() -> None:
    text = page_of("docs/reference/models-and-recipes.md").text
    for name in (*shipped("models"), *(name.removesuffix(".yaml") for name in shipped("recipes"))):
        assert f"`{name}`" in text, name


def test_every_option_of_an_evaluation_is_described() -> None:
    text = page_of("docs/guides/evaluate.md").text
    common = ("--model", "--data", "--imgsz", "--batch", "--device", "--split")
    for name in ("val", "score"):
        for option in (parameter.opts[0] for parameter in command(name).params):
            assert option in common or option not in NAMED_BY_TEXT[name] or f"`{option}" in text, option


# The options that are an evaluation's own; those of every command (--debug, --json, …) are not told again there.
NAMED_BY_TEXT = {
    "val": {"--annotations", "--evaluator", "--per-class", "--errors", "--run-download"},
    "score": {
        "--evaluator",
        "--category",
        "--category-offset",
        "--per-class",
        "--ci",
        "--resamples",
        "--seed",
        "--json",
    },
}


def test_messages_in_troubleshooting_are_those_of_the_program(reference: Any) -> None:
    texts = [short(text) for path in sorted((CHECKOUT / "kdyolo").rglob("*.py")) for text in texts_in(path, reference)]
    rows = re.findall(r"^\| (`.*?) \| ", page_of("docs/troubleshooting.md").text, flags=re.MULTILINE)
    assert len(rows) > 50
    for message in (found for row in rows for found in re.findall(r"`([^`]+)`", row)):
        assert any(short(message) in text for text in texts), message


@cache
def texts_in(path: Path, reference: Any) -> list[str]:
    """Every text in a module, ``…`` for the values in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [text for node in ast.walk(tree) if isinstance(node, ast.expr) and (text := reference.template(node))]


def short(text: str) -> str:
    """A message without what differs at its ends and without blanks around ``…``."""
    return re.sub(r"(\s*…\s*)+", "…", text).strip("…")


def test_messages_are_found(reference: Any) -> None:
    """The list of messages has what a function of the program really raises."""
    with pytest.raises(ConfigError) as caught:
        cli.get_command(None, "train").main(["--epochs", "3"], standalone_mode=False, obj=[])
    beginning = str(caught.value).split(".")[0]
    assert beginning in reference.messages()
