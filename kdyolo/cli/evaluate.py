"""``kdyolo val``, ``predict`` and ``score``: what a trained detector finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kdyolo.cli.base import command, echo, evaluator_option, key_values, print_result
from kdyolo.errors import ConfigError


@command(
    "  kdyolo val --model runs/detect/train/weights/best.pt --data datasets/coco/coco.yaml\n"
    "  kdyolo val --model best.pt --data datasets/coco/coco.yaml --errors --per-class\n"
    "  kdyolo val --model best.pt --data shop.yaml --annotations shop/val.json --imgsz 320 conf=0.01"
)
@click.option("--model", required=True, type=click.Path(), help="Trained checkpoint (.pt).")
@click.option("--data", required=True, type=click.Path(), help="Data set YAML.")
@click.option("--imgsz", type=int, help="Image size in pixels. Default: the one trained with.")
@click.option("--batch", type=int, help="Images per batch.")
@click.option("--device", help="cpu, 0, mps, …")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="Part of the data set. Default: val.")
@click.option("--annotations", type=click.Path(), help="COCO JSON of the split. Default: the one in the YAML.")
@evaluator_option
@click.option("--per-class", is_flag=True, help="Also AP of every category.")
@click.option("--errors", is_flag=True, help="Split the loss of AP into kinds of errors; save the worst images.")
@click.option("--run-download", is_flag=True, help="Run the data set YAML's 'download' if images are missing.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def val(settings: Sequence[str], model: str, **options: Any) -> None:
    """Evaluate a trained detector: Ultralytics' metrics, then the official COCO metrics.

    These count all images of the annotation file that the data set was converted from; with classes=[0,2] the
    categories of these classes alone. Detections are kept in predictions.json.
    """
    files = {"--model": model, "--data": options["data"], "--annotations": options["annotations"]}
    missing = {what: file for what, file in files.items() if file is not None and not Path(file).is_file()}
    if missing:
        raise ConfigError([f"{what} {file}: no such file." for what, file in missing.items()])
    given = {key: value for key, value in options.items() if value is not None}
    given.update(key_values(settings, taken=given))
    from kdyolo.engine.model import KDYOLO

    KDYOLO(model).val(**given)


@command(
    "  kdyolo predict --model runs/detect/train/weights/best.pt --source images/\n"
    "  kdyolo predict --model best.pt --source street.jpg --conf 0.5 save_txt=True"
)
@click.option("--model", required=True, type=click.Path(), help="Trained checkpoint (.pt).")
@click.option("--source", required=True, help="Image, folder, video, glob, URL or camera number.")
@click.option("--imgsz", type=int, help="Image size in pixels. Default: the one trained with.")
@click.option("--conf", type=float, help="Smallest score to show. Default: 0.25.")
@click.option("--device", help="cpu, 0, mps, …")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def predict(settings: Sequence[str], model: str, **options: Any) -> None:
    """Draw a trained detector's predictions, on images resized as in its training."""
    if not Path(model).is_file():
        raise ConfigError(f"--model {model}: no such file.")
    given = {key: value for key, value in options.items() if value is not None}
    given.update(key_values(settings, taken=given))
    from kdyolo.engine.model import KDYOLO

    for _ in KDYOLO(model).predict(**{"save": True, **given}, stream=True):  # Ultralytics logs each image
        pass


@command(
    "  kdyolo score predictions.json instances_val2017.json\n"
    "  kdyolo score predictions.json instances_val2017.json --ci --per-class\n"
    "  kdyolo score a.json b.json instances_val2017.json --json"
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
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
    if not 2 <= len(files) <= 3:
        raise ConfigError(f"expected PRED.json ANN.json, or two results files and ANN.json; found {len(files)} files.")
    *predictions, annotations = files
    if len(predictions) == 2 and per_class:
        raise ConfigError("--per-class is for one results file: score each on its own.")
    from kdyolo.metrics.coco_files import read_ground_truth
    from kdyolo.metrics.ground_truth import find_categories

    truth = read_ground_truth(annotations)
    categories = find_categories(truth, category) if category else None
    draws = {"resamples": resamples, "seed": seed}
    if len(predictions) == 2:
        from kdyolo.metrics.bootstrap import compare_coco

        echo(f"drawing the images {resamples:,} times for each model …", err=True)
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
        echo(f"drawing the images {resamples:,} times …", err=True)  # half a minute for COCO's 5,000
    intervals = confidence(truth, results.detections, categories=categories, **draws) if ci else None
    if as_json:
        print_result({**scores.to_dict(), **({"interval": intervals.to_dict()} if intervals else {})})
    else:
        print_result(scores.table(per_class, intervals.suffixes() if intervals else ()))
