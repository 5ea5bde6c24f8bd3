"""Model card of a run in Markdown: what its detector is, how it came about and how well it does."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from kdyolo.arguments import checked
from kdyolo.data.dataset_yaml import ROLES, look_at_dataset
from kdyolo.errors import DatasetError, RunError
from kdyolo.metrics.names import NAMES
from kdyolo.runs.contents.forms import Count, Epochs, Name
from kdyolo.runs.files import ARGS_NAME, BEST_NAME, CARD_NAME, MAP, MAP50, RECORD_NAME, RESULTS_NAME
from kdyolo.runs.history import Run, read_run
from kdyolo.utils.atomic import write_atomic
from kdyolo.utils.plain_files import is_file
from kdyolo.utils.tables import markdown_code, markdown_row, markdown_table, markdown_text
from kdyolo.utils.text import shortened
from kdyolo.utils.yaml_files import check_values

# Licences of teachers' weights, as published with each model, by how their names begin; the first that fits.
TEACHER_TERMS: tuple[tuple[str, str], ...] = (
    ("dinov3", "DINOv3 License (Meta): not an open-source licence, read it before you pass derived weights on"),
    ("dinov2", "Apache-2.0"),
    ("sam3", "SAM License (Meta): not an open-source licence, read it before you pass derived weights on"),
    ("sam2", "Apache-2.0"),
    ("samvit", "Apache-2.0"),
)
# Parts of names; the last two are Apple's licence of models for research, and Meta's of SEER.
_NON_COMMERCIAL = ("-nc", "non-commercial", "noncommercial", "research", "amlr", "seer")
_CELL = 1000  # characters of a value at most


class _Backbone(msgspec.Struct):
    """What a card needs of a backbone's record."""

    path: Name
    sha256: Name
    source: Name
    model: Name
    matched: Count
    total: Count
    values: Count
    bn_eps: float


class _Schedule(msgspec.Struct):
    """What a card needs of a schedule's record."""

    epochs: Epochs
    backbone_lr: float
    freeze_epochs: Epochs | Name


class _Recipe(msgspec.Struct):
    """What a card needs of a recipe's record."""

    name: Name
    values: dict[str, Any]


class _Record(msgspec.Struct):
    """What a card needs of a run's record."""

    versions: dict[str, Any]
    command: str
    settings: dict[str, Any]
    schedule: _Schedule
    recipe: _Recipe
    data: Name
    seed: int
    model: Name
    backbone: _Backbone | None = None


METRICS = (MAP, MAP50, "metrics/precision(B)", "metrics/recall(B)")


@checked
def write_model_card(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the model card of a run, from what the run has recorded.

    Args:
        run: The work dir of a kdyolo run with at least one finished epoch.
        out: The file to write; None: ``model_card.md`` in the run.

    Returns:
        The path of the file.

    Raises:
        RunError: The folder is not that of a kdyolo run, no epoch is finished, its record lacks what a card says, or
            the card cannot be written.

    Examples:
        >>> from kdyolo import write_model_card
        >>> write_model_card("runs/detect/train").name
        'model_card.md'
    """
    folder = Path(run)
    history, record = _read(folder)
    sections = [
        "# " + markdown_text(f"{folder.resolve().name}: {record['model']} on {Path(record['data']).name}"),
        _introduction(record),
        _results(history),
        _backbone(record.get("backbone")),
        _training(record, history),
        _data(record),
        _licence(record),
        _provenance(record),
    ]
    path = Path(out) if out else folder / CARD_NAME
    try:
        write_atomic(path, "\n\n".join(sections) + "\n")
    except OSError as e:
        raise RunError(f"{path}: cannot be written ({e.strerror}). Choose another file.") from e
    return path


def _read(folder: Path) -> tuple[Run, Mapping[str, Any]]:
    if not os.path.lexists(folder / RECORD_NAME):
        raise RunError(f"{folder}: not a kdyolo run, there is no {RECORD_NAME} in it. Expected the work dir of one.")
    run = read_run(folder)
    if run.args.get("task") == "distill":
        raise RunError(f"{folder}: a distillation, which writes its own {CARD_NAME} when it ends. Name a training.")
    if run.record is None or not run.epochs:
        raise RunError(f"{folder}: no epoch is finished, so there is nothing to report yet.")
    check_values(folder / RECORD_NAME, dict(run.record), _Record)
    return run, run.record


def _introduction(record: Mapping[str, Any]) -> str:
    backbone = record.get("backbone")
    start = f"a backbone from {_code(Path(backbone['path']).name)}" if backbone else "a randomly initialised backbone"
    if record.get("started_from"):
        start = f"the detector {_code(Path(record['started_from']).name)}" + (f" and {start}" if backbone else "")
    version = markdown_text(str(record["versions"].get("kdyolo")))
    return (
        "An object detector for [Ultralytics](https://github.com/ultralytics/ultralytics), trained by kdyolo "
        f"{version} from {start}. It takes RGB images in 0–1 and opens with plain Ultralytics."
    )


def _results(run: Run) -> str:
    rows = []
    for what, epoch in (("best", run.best_epoch() or run.epochs[-1]), ("last", run.epochs[-1])):
        values = (f"{run.column(metric)[run.epochs.index(epoch)]:.4f}" for metric in METRICS)
        rows.append([f"{epoch} ({what})", *values])
    lines = ["## Results", "", *markdown_table(("epoch", "mAP50-95", "mAP50", "precision", "recall"), rows)]
    lines += ["", f"Ultralytics' metrics on the validation images after each epoch, from `{RESULTS_NAME}`."]
    official, whose = _official(run)
    if official:
        lines += ["", *markdown_table(list(official), [[f"{value:.4f}" for value in official.values()]])]
        lines += ["", f"Official COCO metrics of {whose}."]
    if not run.finished:
        lines += ["", "The run is not finished."]
    lines += ["", "One run shows no gain: compare several seeds with the same settings before you claim one."]
    return "\n".join(lines)


def _official(run: Run) -> tuple[dict[str, float], str]:
    """The official metrics by name, and of what they are: of ``best.pt``, else of the last epoch that has them."""
    if run.scores:
        known_scores = {name: run.scores[name] for name in NAMES if run.scores.get(name) is not None}
        return known_scores, f"`{BEST_NAME}`"
    official = {name: run.columns[f"coco/{name}"] for name in NAMES if f"coco/{name}" in run.columns}
    known = [i for i, value in enumerate(official.get("AP", [])) if not math.isnan(value)]
    if not known:
        return {}, ""
    return {name: values[known[-1]] for name, values in official.items()}, f"epoch {run.epochs[known[-1]]}"


def _backbone(backbone: Mapping[str, Any] | None) -> str:
    if not backbone:
        return "## Backbone\n\nNo distilled backbone went in."
    facts = {
        "file": _Code(Path(backbone["path"]).name),
        "sha256": _Code(backbone["sha256"]),
        "source": backbone["source"],
        "model": backbone["model"],
        "tensors": f"{backbone['matched']} of {backbone['total']} ({backbone['values']:,} values)",
        "epoch": backbone.get("epoch"),
        "teacher": backbone.get("teacher"),
        "licence of the teacher": backbone.get("teacher_licence"),
        "BatchNorm epsilon": backbone["bn_eps"],
        "images it knows": backbone.get("input_norm"),
        "not from the file": ", ".join(backbone.get("left_out") or ()),
    }
    return "## Backbone\n\n" + _table(facts)


def _training(record: Mapping[str, Any], run: Run) -> str:
    schedule, settings, teacher = record["schedule"], record["settings"], record.get("distill_model")
    facts = {
        "epochs": f"{len(run.epochs)} of {schedule['epochs']}",
        "backbone frozen": _freeze_in_words(schedule),
        "backbone learning rate": f"{schedule['backbone_lr']:g} × the head's",
        "also distilled from": Path(str(teacher.get("path"))).name if teacher else None,
        "recipe": record["recipe"]["name"],
        "resize": settings.get("resize"),
        "seed": record["seed"],
        "command": _Code(record["command"]),
    }
    recipe = markdown_text(shortened(", ".join(f"{k}={v}" for k, v in record["recipe"]["values"].items()), _CELL))
    return "## Training\n\n" + _table(facts) + f"\n\nThe recipe's values: {recipe}. Others are in `{ARGS_NAME}`."


def _freeze_in_words(schedule: Mapping[str, Any]) -> str:
    thaws: Mapping[int, Sequence[str]] = schedule.get("thaws") or {}
    if schedule.get("unfreeze_stages"):
        return ", ".join(f"{'–'.join(parts)} until epoch {int(epoch) - 1}" for epoch, parts in thaws.items())
    epochs = schedule["freeze_epochs"]
    return "never" if epochs == 0 else "to the end" if epochs == "all" or not thaws else f"in epochs 1–{epochs}"


def _data(record: Mapping[str, Any]) -> str:
    path = Path(record["data"])
    facts: dict[str, Any] = {"data set": _Code(path.name)}
    if is_file(path):
        with suppress(DatasetError):  # the file may have become another since; the card says all else
            dataset = look_at_dataset(path)
            names = list(dataset.class_names.values())
            facts["classes"] = f"{len(names)}: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
            facts["annotations"] = ", ".join(file.name for role in ROLES if (file := dataset.annotations(role)))
    return "## Data\n\n" + _table(facts)


def _licence(record: Mapping[str, Any]) -> str:
    lines = [
        "## Licence",
        "",
        "- Trained with Ultralytics and kdyolo, which are AGPL-3.0. Ultralytics holds that this covers trained models "
        "too; other terms take its enterprise licence.",
        "- The images and annotations it was trained on keep their own terms.",
    ]
    if record.get("backbone"):
        lines.append(_teacher(record["backbone"].get("teacher"), record["backbone"].get("teacher_licence")))
    return "\n".join(lines)


def is_non_commercial(licence: str | None) -> bool:
    """Whether a licence, by its name, forbids commercial use."""
    return any(word in (licence or "").lower() for word in _NON_COMMERCIAL)


def _teacher(name: str | None, licence: str | None) -> str:
    if not name:
        return "- The backbone's file does not name its teacher, whose terms apply as well: look them up."
    letters = "".join(c for c in name.rpartition("/")[2].lower() if c.isalnum())  # facebook/sam2.1-hiera → sam21hiera
    terms = next((terms for start, terms in TEACHER_TERMS if letters.startswith(start)), None)
    if licence:
        forbids = ", which forbids commercial use, also of the backbone" if is_non_commercial(licence) else ""
        recorded = f"whose weights are under {markdown_text(licence)}, as the backbone's file records{forbids}"
        known = f" ({terms})" if terms and terms.lower() != licence.lower() else ""
        return f"- The backbone was distilled from {markdown_text(name)}, {recorded}{known}."
    if terms is None:
        return f"- The backbone was distilled from {markdown_text(name)}, whose terms are not known here: look them up."
    return f"- The backbone was distilled from {markdown_text(name)}: {terms}."


def _provenance(record: Mapping[str, Any]) -> str:
    facts = {**record["versions"], "git commit": record.get("git_commit")}
    return "## Provenance\n\n" + _table(facts) + f"\n\nAll of it stands in `{RECORD_NAME}` and inside the checkpoints."


class _Code(str):
    """Text that stands in a table as code."""


def _code(text: str) -> str:
    return markdown_code(shortened(text, _CELL))


def _table(facts: Mapping[str, Any]) -> str:
    """A table of two columns; what is unknown or empty is left out. Nothing in a value is read as Markdown or HTML."""
    known = {
        markdown_text(key): _code(value) if isinstance(value, _Code) else markdown_text(shortened(str(value), _CELL))
        for key, value in facts.items()
        if value not in (None, "")
    }
    return "\n".join(["| | |", "|---|---|", *map(markdown_row, known.items())])
