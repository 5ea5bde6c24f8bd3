"""``kdyolo val``, ``predict`` and ``score``: what a trained detector finds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdyolo.cli.base import (
    command,
    complete_settings,
    evaluator_option,
    json_option,
    key_values,
    note,
    print_if_quiet,
    print_result,
    require_files,
    there,
)
from kdyolo.cli.parsing.next_steps import NEXT_TO_NOTHING
from kdyolo.cli.parsing.output import is_later_rank
from kdyolo.errors import CheckpointError, DatasetError, collect_mistakes
from kdyolo.runs.files import BEST_NAME, weights_file
from kdyolo.utils.text import plural, short_path

if TYPE_CHECKING:
    from kdyolo.engine.model import KDYOLO


def _given(
    settings: Sequence[str], options: Mapping[str, Any], files: Mapping[str, str | None]
) -> tuple[dict[str, Any], KDYOLO | None]:
    """Options and settings together, and the detector, if one is named: all of it checked before a word is printed.

    Args:
        settings: Texts of the form ``key=value``.
        options: What was given as options.
        files: Option → file that must be there.

    Raises:
        KDYOLOError: Every mistake found, at once; of a single one the kind that it is.
    """
    from kdyolo.data.dataset_yaml import check_for_ultralytics, dataset_file
    from kdyolo.engine.options.ultralytics_settings import check_settings
    from kdyolo.runs.lifecycle.devices import Machine, read_devices

    given, detector, data = {key: value for key, value in options.items() if value is not None}, None, None
    with collect_mistakes() as mistakes:
        given |= key_values(settings, given, mistakes)
        known = {key: value for key, value in given.items() if key not in OWN}
        mistakes.result(lambda: check_settings(known, OWN))
        if device := given.get("device"):
            mistakes.result(lambda: read_devices(device, Machine.here(), {}))
        for what, file in files.items():
            if file and what == "--data":  # also the name of one that Ultralytics ships, or the folder of one
                data = mistakes.result(partial(dataset_file, file)) and file
            elif what == "--model":
                detector = mistakes.result(partial(_opened, file))
            else:
                mistakes.result(partial(require_files, {what: file}))
        mistakes.result(lambda: _require_source(given.get("source")))
        if mistakes and data and not options.get("run_download"):  # else the evaluation looks into it
            mistakes.result(lambda: check_for_ultralytics(data, given.get("split") or "val"))
    return given, detector


def _opened(model: str | None) -> KDYOLO | None:
    """A trained detector; None where none is named. Of a run's folder the message names its best checkpoint."""
    from kdyolo.checkpoints.checks.missing_models import refuse_weights_alone
    from kdyolo.engine.foreign_errors import foreign_errors_explained
    from kdyolo.engine.model import KDYOLO

    if not model:
        return None
    if not Path(model).exists():
        raise CheckpointError(f"--model {model}: no such file. Expected a trained detector, e.g. a run's {BEST}.")
    if Path(model).is_dir() and not Path(model).name.endswith("_model"):  # as exported ones are named
        inside = Path(model, BEST) if Path(model, BEST).is_file() else f"e.g. a run's {BEST}"
        raise CheckpointError(f"--model {model}: expected a trained detector, found a folder. Name the file: {inside}")
    if Path(model).suffix in (".yaml", ".yml"):
        raise CheckpointError(f"--model {model}: expected a trained detector, e.g. a run's {BEST}; found a YAML file.")
    refuse_weights_alone(model)
    with foreign_errors_explained():
        return KDYOLO(model)


def _require_source(source: str | None) -> None:
    """Refuse images that are not there; addresses, patterns, cameras and screens are left to Ultralytics."""
    if source and not NO_PATH.search(source) and not Path(source).expanduser().exists():
        raise DatasetError(f"--source {source}: no such file or folder. Expected an image, folder, video, glob or URL.")


def _check_others(given: Mapping[str, Any]) -> None:
    """Find the mistakes in files and settings of a command line that has others already."""
    options = {key: value for key, value in given.items() if value and key not in ("settings", "model")}
    files = {f"--{name}": given.get(name) for name in ("model", "data", "annotations")}
    _given(given.get("settings") or (), options, files)


BEST = weights_file(Path(), BEST_NAME)  # within a run
NO_PATH = re.compile(r"://|[*?\[]|^\d+$|^screen")  # addresses, patterns, cameras, screens: what else a source may be
# Options of the commands here that Ultralytics does not know.
OWN = ("annotations", "evaluator", "per_class", "errors", "run_download", "as_json")


@command(
    "  kdyolo val runs/detect/train/weights/best.pt datasets/coco/coco.yaml\n"
    "  kdyolo val --model best.pt --data datasets/coco/coco.yaml --errors --per-class\n"
    "  kdyolo val model=best.pt data=shop.yaml --annotations shop/val.json imgsz=320 conf=0.01",
    order=("model", "data"),
    check=_check_others,
)
@click.option("--model", required=True, type=click.Path(), help="Trained checkpoint (.pt).")
@click.option("--data", required=True, type=click.Path(), help="Data set YAML.")
@click.option("--imgsz", metavar="INTEGER", help="Image size in pixels. Default: the one trained with.")
@click.option("--batch", metavar="INTEGER", help="Images per batch.")
@click.option("--device", help="cpu, 0, mps, …")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Part of the data set. Default: val.")
@click.option("--annotations", type=click.Path(), help="COCO JSON of the split. Default: the one in the YAML.")
@evaluator_option
@click.option("--per-class", is_flag=True, help="Also AP of every category.")
@click.option("--errors", is_flag=True, help="Split the loss of AP into kinds of errors; save the worst images.")
@click.option("--run-download", is_flag=True, help="Run the data set YAML's 'download' if images are missing.")
@json_option
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_settings)
def val(settings: Sequence[str], model: str, as_json: bool, **options: Any) -> None:
    """Evaluate a trained detector: Ultralytics' metrics, then the official COCO metrics.

    These count all images of the annotation file that the data set was converted from; with classes=[0,2] the
    categories of these classes alone. Detections are kept in predictions.json.
    """
    files = {"--model": model, "--data": options["data"], "--annotations": options["annotations"]}
    given, detector = _given(settings, options, files)
    assert detector is not None  # it is required
    metrics = detector.val(**given)
    if is_later_rank():  # the first one has the metrics of all
        return
    if as_json:
        print_result(evaluation_result(metrics))
    else:
        print_if_quiet(_evaluation_text(metrics, options["per_class"]))


def evaluation_result(metrics: Any) -> dict[str, Any]:
    """Metrics of an evaluation as plain data.

    Args:
        metrics: What :meth:`kdyolo.KDYOLO.val` gives.
    """
    scores, errors = getattr(metrics, "coco", None), getattr(metrics, "errors", None)
    return {
        "folder": str(short_path(Path(metrics.save_dir))),
        "metrics": {name: float(value) for name, value in metrics.results_dict.items()},
        "speed": {name: float(value) for name, value in metrics.speed.items()},  # milliseconds an image
        "official": scores.to_dict() if scores is not None else None,
        "errors": errors.to_dict() if errors is not None else None,
    }


def _evaluation_text(metrics: Any, per_class: bool) -> str:
    """Tables of an evaluation: official metrics, else Ultralytics', errors by kind if asked for, and the folder."""
    scores, errors = getattr(metrics, "coco", None), getattr(metrics, "errors", None)
    own = "\n".join(f"{name}  {float(value):.4f}" for name, value in metrics.results_dict.items())
    parts = [own if scores is None else scores.table(per_class), *([] if errors is None else [errors.table()])]
    return "\n".join([*parts, str(short_path(Path(metrics.save_dir)))])


@command(
    "  kdyolo predict runs/detect/train/weights/best.pt images/\n"
    "  kdyolo predict --model best.pt --source street.jpg --conf 0.5 save_txt=True",
    order=("model", "source"),
    check=_check_others,
)
@click.option("--model", required=True, type=click.Path(), help="Trained checkpoint (.pt).")
@click.option("--source", required=True, help="Image, folder, video, glob, URL or camera number.")
@click.option("--imgsz", metavar="INTEGER", help="Image size in pixels. Default: the one trained with.")
@click.option("--conf", metavar="FLOAT", help="Smallest score to show. Default: 0.25.")
@click.option("--device", help="cpu, 0, mps, …")
@json_option
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=complete_settings)
def predict(settings: Sequence[str], model: str, as_json: bool, **options: Any) -> None:
    """Draw a trained detector's predictions, on images resized as in its training."""
    given, detector = _given(settings, options, {"--model": model})
    assert detector is not None  # it is required
    found, folder = [], None
    for result in detector.predict(**{"save": True, **given}, stream=True):  # Ultralytics logs each image
        folder = result.save_dir
        if as_json:
            found.append({"image": result.path, "objects": result.summary(decimals=5)})
    if as_json:
        print_result(found)
    elif folder:
        print_if_quiet(short_path(Path(folder)))


@command(
    "  kdyolo score predictions.json instances_val2017.json\n"
    "  kdyolo score predictions.json instances_val2017.json --ci --per-class\n"
    "  kdyolo score a.json b.json instances_val2017.json --json",
    check=there("files"),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="PRED.json [OTHER.json] ANN.json")
@evaluator_option
@click.option("--category", multiple=True, metavar="NAME", help="Only this category, by name or id; may be repeated.")
@click.option(
    "--category-offset",
    default="auto",
    show_default=True,
    metavar="N",
    help="Add N to each category id of the predictions; from-0, from-1, coco: they stand for places of the categories.",
)
@click.option("--per-class", is_flag=True, help="Also AP of every category.")
@click.option("--ci", is_flag=True, help="95% confidence intervals: a bootstrap over the images.")
@click.option("--resamples", type=int, default=1000, show_default=True, help="Draws of the bootstrap.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap.")
@json_option
def score(
    files: Sequence[str],
    evaluator: Any,
    category: Sequence[str],
    category_offset: str,
    per_class: bool,
    ci: bool,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Score the COCO results of any detector: the official twelve metrics.

    PRED.json is a list of image_id, category_id, bbox [left, top, width, height] and score; ANN.json are COCO instance
    annotations. Two results files are compared on the same images, with a paired bootstrap.
    """
    with collect_mistakes() as mistakes:
        if not 2 <= len(files) <= 3:
            mistakes.add(
                f"expected PRED.json ANN.json, or two results files and ANN.json; found {plural(len(files), 'file')}."
            )
        if len(files) == 3 and per_class:
            mistakes.add("--per-class is for one results file: score each on its own.")
        if (ci or len(files) == 3) and resamples < 1:
            mistakes.add(f"--resamples takes a number of draws of at least 1; found {resamples}.")
        for number, file in enumerate(files, 1):
            what = "annotations" if number == len(files) else "results"
            mistakes.result(partial(require_files, {what: file}))
    *predictions, annotations = files
    from kdyolo.metrics.coco_files import read_ground_truth
    from kdyolo.metrics.ground_truth import find_categories

    truth = read_ground_truth(annotations)
    categories = find_categories(truth, category) if category else None
    draws = {"resamples": resamples, "seed": seed}
    if len(predictions) == 2:
        from kdyolo.metrics.bootstrap import compare_coco

        note(f"drawing the images {resamples:,} times for each model …")
        options: Any = {"evaluator": evaluator, "categories": categories, "category_offset": category_offset, **draws}
        comparison = compare_coco(predictions[0], predictions[1], annotations, **options)
        print_result(comparison.to_dict() if as_json else comparison.table((predictions[0], predictions[1])))
        return
    from kdyolo.metrics.bootstrap import confidence
    from kdyolo.metrics.coco_metrics import score_results
    from kdyolo.metrics.results.reading import read_detections

    results = read_detections(predictions[0], truth, category_offset)
    scores = score_results(truth, results, evaluator, categories)
    if ci:
        note(f"drawing the images {resamples:,} times …")  # half a minute for COCO's 5,000
    intervals = confidence(truth, results.detections, categories=categories, **draws) if ci else None
    if as_json:
        print_result({**scores.to_dict(), **({"interval": intervals.to_dict()} if intervals else {})})
    else:
        print_result(scores.table(per_class, intervals.suffixes() if intervals else ()))
    if 0 <= scores.ap < NEXT_TO_NOTHING:
        note(
            "AP is near 0. If the detector is trained longer than a few epochs, look whether boxes are [left, top, "
            "width, height] in pixels of the original images, and whether both files number images and classes alike."
        )
