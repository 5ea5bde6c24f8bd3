"""The ``kdyolo`` command: parse, call one function, print. Heavy imports wait inside the commands."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from kdyolo import __version__
from kdyolo.errors import ConfigError, KDYOLOError
from kdyolo.resources import let_threads_sleep

F = TypeVar("F", bound=Callable[..., Any])

EVALUATORS = ("faster-coco-eval", "pycocotools")  # as in kdyolo.coco.score, which is heavy to import

EXIT_USAGE = 2  # contradictory, unknown or misspelt options, as click uses it
EXIT_ERROR = 1  # everything else that is wrong with what was given
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells have it


def _command(examples: str) -> Callable[[F], click.Command]:
    """A subcommand with ``--debug`` and examples below its help, kept line by line."""

    def decorate(function: F) -> click.Command:
        function = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")(
            function
        )
        return cli.command(epilog=f"\b\nExamples:\n{examples}", context_settings={"max_content_width": 100})(function)

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdyolo")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def cli() -> None:
    """From a distilled backbone to a COCO detector on Ultralytics.

    \b
    kdyolo convert COCO2017/ --out datasets/coco
    kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --freeze 50
    yolo val model=runs/detect/train/weights/best.pt data=datasets/coco/coco.yaml
    """  # noqa: D301 - click wants the backspace itself


_evaluator_option = click.option(
    "--evaluator",
    type=click.Choice(EVALUATORS),
    default=EVALUATORS[0],
    show_default=True,
    help="What computes the official metrics; pycocotools is the reference.",
)


@_command(
    "  kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --freeze 50\n"
    "  kdyolo train --data datasets/coco/coco.yaml --model kdyolov8s.yaml --random-init\n"
    "  kdyolo train --data datasets/coco/coco.yaml --weights yolov8s.pt --backbone ckpt.pth --recipe coco-mosaic\n"
    "  kdyolo train --data datasets/coco/coco.yaml --backbone ckpt.pth --epochs 12 lr0=0.02 hsv_h=0\n"
    "  kdyolo train --resume runs/detect/train"
)
@click.option("--data", type=click.Path(), help="Data set YAML, e.g. the one that 'kdyolo convert' printed.")
@click.option("--backbone", type=click.Path(), help="Distillation checkpoint (.pt, .pth, .safetensors) to inject.")
@click.option("--model", help="Model YAML, e.g. kdyolov8s.yaml. Default: the scale that the backbone fits.")
@click.option("--weights", type=click.Path(), help="Ultralytics .pt the detector starts from, e.g. yolov8s.pt.")
@click.option("--random-init", is_flag=True, help="Say explicitly that the run starts random: a baseline.")
@click.option(
    "--freeze",
    "--freeze-epochs",
    "freeze_epochs",
    metavar="N|all",
    help="Freeze the backbone in epochs 1…N and train it from N+1 on; 0 (default) never, 'all' to the end.",
)
@click.option("--unfreeze-stages", metavar="PLAN", help='Thaw part by part, deepest first: "10:p5,20:p4,30:all".')
@click.option("--backbone-lr", type=float, help="Learning rate of the backbone as a factor of the head's (default 1).")
@click.option(
    "--thaw-warmup", type=float, metavar="E", help="Epochs in which a thawed part reaches its rate (default 1)."
)
@click.option("--freeze-bn", type=click.Choice(["with-backbone", "always"]), help="Until when BatchNorm stands still.")
@click.option("--recipe", metavar="NAME|FILE", help="Training recipe: coco (default), coco-mosaic, or a YAML file.")
@click.option("--epochs", type=int, help="Number of epochs.")
@click.option("--batch", help="Images per batch.")
@click.option("--imgsz", type=int, help="Image size in pixels: the side of the square that the network sees.")
@click.option("--resize", type=click.Choice(["letterbox", "stretch"]), help="Keep the aspect ratio (default) or not.")
@click.option("--device", help="cpu, 0, mps, …")
@click.option("--workers", type=int, help="Data loader workers.")
@click.option("--seed", type=int, help="Random seed.")
@click.option("--save-period", type=int, help="Keep a checkpoint every N epochs.")
@click.option(
    "--coco-eval-period",
    type=click.IntRange(min=0),
    metavar="N",
    help="Official COCO metrics in results.csv every N epochs. Default: 0, at the end only.",
)
@click.option("--work-dir", type=click.Path(), help="The run folder itself. Default: runs/detect/train, train-2, …")
@click.option("--exist-ok", is_flag=True, help="Allow a work dir that is not empty.")
@click.option("--allow-partial", is_flag=True, help="Accept a checkpoint that does not fill the backbone.")
@click.option("--bn-eps", type=float, help="BatchNorm epsilon of the backbone, if the recognised one is wrong.")
@click.option("--input-norm", metavar="NORM", help="Images the backbone knows: 0-1, imagenet, or MEANS/STDS.")
@click.option("--key-map", type=click.Path(), metavar="FILE", help="YAML with the names of an unknown checkpoint.")
@click.option("--trust", is_flag=True, help="Unpickle checkpoints completely: RUNS ANY CODE that they bring.")
@click.option("--resume", type=click.Path(), metavar="RUN", help="Continue an interrupted run: its folder or last.pt.")
@click.option("--dry-run", is_flag=True, help="Check everything, measure one batch, print the plan; train nothing.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def train(settings: Sequence[str], resume: str | None, dry_run: bool, **options: Any) -> None:
    """Train a detector on a distilled backbone.

    Any Ultralytics setting can follow the options as KEY=VALUE; options left out take the recipe's values.
    """
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    given.update(_key_values(settings, taken=given))
    if resume is not None:
        if dry_run:
            raise ConfigError("--dry-run is for a new run: one to resume has been checked already.")
        _resume(Path(resume), given)
        return
    if not given.get("data"):
        raise ConfigError("no data set. Expected --data with a YAML such as the one 'kdyolo convert' printed.")
    if dry_run:
        from kdyolo.preflight import preflight

        preflight(given)
        return
    from kdyolo.model import KDYOLO
    from kdyolo.settings import split_settings

    split_settings(given)  # every mistake in the options at once, before any file is opened
    start = ("backbone", "weights", "random_init", "allow_partial", "bn_eps", "input_norm", "key_map", "trust")
    model = KDYOLO(given.pop("model", None), **{key: given.pop(key) for key in start if key in given})
    model.train(**given)


def _resume(run: Path, given: dict[str, Any]) -> None:
    from kdyolo.trainer import KDTrainer

    last = str(run if run.suffix == ".pt" else run / "weights" / "last.pt")
    KDTrainer(overrides={**given, "task": "detect", "mode": "train", "model": last, "resume": last}).train()


@_command("  kdyolo doctor\n  kdyolo doctor --data datasets/coco/coco.yaml --backbone ckpt.pth")
@click.option("--data", type=click.Path(), help="Data set YAML to check.")
@click.option("--backbone", type=click.Path(), help="Distillation checkpoint to check.")
@click.option("--model", help="Model YAML that the checkpoint should fit.")
def doctor(**options: Any) -> None:
    """Show versions, processor, GPUs and free space, and check a data set and a checkpoint."""
    from kdyolo.preflight import check_parts, environment

    click.echo(environment())
    if found := check_parts(**options):
        click.echo(found)


@_command(
    "  kdyolo inspect ckpt.pth\n"
    "  kdyolo inspect ckpt.pth --image street.jpg --out features.png\n"
    "  kdyolo inspect epoch_4.pth epoch_9.pth\n"
    "  kdyolo inspect runs/detect/train/weights/best.pt --json"
)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE [OTHER]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--image", type=click.Path(), help="Image whose features are drawn, level by level.")
@click.option("--out", type=click.Path(), help="That picture. Default: features.png.")
@click.option("--imgsz", type=int, default=640, show_default=True, help="Side of the square the image is put in.")
@click.option("--bn-eps", type=float, help="BatchNorm epsilon, if the recognised one is wrong.")
@click.option("--input-norm", metavar="NORM", help="Images the backbone knows: 0-1, imagenet, or MEANS/STDS.")
@click.option("--key-map", type=click.Path(), metavar="FILE", help="YAML with the names of an unknown checkpoint.")
@click.option("--trust", is_flag=True, help="Unpickle the file completely: RUNS ANY CODE that it brings.")
def inspect(files: Sequence[str], as_json: bool, image: str | None, out: str | None, imgsz: int, **how: Any) -> None:
    """Look into a checkpoint: source, stages in numbers, what it fits. Two files: where they differ."""
    if len(files) > 2 or (len(files) == 2 and image):
        raise ConfigError("expected one file, with --image or without, or two files to compare.")
    if out and not image:
        raise ConfigError("--out names the picture of --image, which is not given.")
    from kdyolo.inspection import compare_checkpoints, draw_features, inspect_checkpoint

    found = compare_checkpoints(*files, **how) if len(files) == 2 else inspect_checkpoint(files[0], **how)
    _print(found.to_dict() if as_json else found.table())
    if image:
        picture = draw_features(files[0], image, out or "features.png", imgsz, **how)
        click.echo(picture, err=as_json)


@_command(
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
@_evaluator_option
@click.option("--per-class", is_flag=True, help="Also AP of every category.")
@click.option("--errors", is_flag=True, help="Split the loss of AP into kinds of errors; save the worst images.")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def val(settings: Sequence[str], model: str, **options: Any) -> None:
    """Evaluate a trained detector: Ultralytics' metrics, then the official COCO metrics.

    These count all images of the annotation file that the data set was converted from. Detections are kept in
    predictions.json.
    """
    files = {"--model": model, "--data": options["data"], "--annotations": options["annotations"]}
    missing = {what: file for what, file in files.items() if file is not None and not Path(file).is_file()}
    if missing:
        raise ConfigError([f"{what} {file}: no such file." for what, file in missing.items()])
    given = {key: value for key, value in options.items() if value is not None}
    given.update(_key_values(settings, taken=given))
    from kdyolo.model import KDYOLO

    KDYOLO(model).val(**given)


@_command(
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
    given.update(_key_values(settings, taken=given))
    from kdyolo.model import KDYOLO

    for _ in KDYOLO(model).predict(**{"save": True, **given}, stream=True):  # Ultralytics logs each image
        pass


@_command(
    "  kdyolo convert COCO2017/ --out datasets/coco\n"
    "  kdyolo convert --annotations shop/train.json --images shop/img --split train \\\n"
    "                 --annotations shop/val.json --images shop/img --split val --out datasets/shop --name shop\n"
    "  kdyolo convert COCO2017/ --out datasets/traffic --name traffic --classes person,bicycle,car --min-area 100"
)
@click.argument("root", required=False, type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="Folder to write.")
@click.option("--name", default="coco", show_default=True, help="Name of the data set YAML.")
@click.option(
    "--link",
    type=click.Choice(["symlink", "hardlink", "copy"]),
    default="symlink",
    show_default=True,
    help="How images get into the new folder.",
)
@click.option("--annotations", multiple=True, type=click.Path(), help="COCO-format JSON of one split (repeatable).")
@click.option("--images", multiple=True, type=click.Path(), help="Image folder of that split (repeatable).")
@click.option("--split", multiple=True, help="Name of that split (repeatable).")
@click.option("--skip-invalid", is_flag=True, help="Count invalid records and go on, instead of stopping.")
@click.option("--classes", metavar="NAME,NAME", help="Convert these categories only.")
@click.option("--min-area", type=float, default=0.0, metavar="PX²", help="Leave out objects with a smaller area.")
@click.option("--include-crowd", is_flag=True, help="Write crowd regions as ordinary objects.")
@click.option("--segments", is_flag=True, help="Write polygons instead of boxes, for segmentation heads.")
@click.option("--verify-images", is_flag=True, help="Open every image, and compare its size; then training need not.")
def convert(
    root: str | None,
    out: str,
    annotations: Sequence[str],
    images: Sequence[str],
    split: Sequence[str],
    classes: str | None,
    **options: Any,
) -> None:
    """Turn COCO annotations into an Ultralytics data set.

    ROOT holds annotations/instances_*.json and the images, in either layout of the official archives.
    """
    from kdyolo.coco.convert import Source, convert_coco

    if not len(annotations) == len(images) == len(split):
        raise ConfigError(
            f"--annotations, --images and --split belong together, one of each per split; "
            f"found {len(annotations)}, {len(images)} and {len(split)}."
        )
    sources = [Source(Path(a), Path(i), s) for a, i, s in zip(annotations, images, split, strict=True)]
    chosen = [name.strip() for name in classes.split(",")] if classes else ()
    summary = convert_coco(root, out, sources=sources, classes=chosen, **options)
    click.echo(summary.table())
    click.echo(Path(out) / summary.yaml.name)  # as the user wrote it, ready for --data


@_command(
    "  kdyolo export-stock runs/detect/train\n"
    "  kdyolo export-stock runs/detect/train/weights/epoch40.pt --out detector.pt"
)
@click.argument("source", metavar="RUN|CKPT", type=click.Path())
@click.option("--out", type=click.Path(), help="File to write. Default: NAME-stock.pt beside the checkpoint.")
@click.option("--exist-ok", is_flag=True, help="Replace the file if it exists.")
def export_stock(source: str, out: str | None, exist_ok: bool) -> None:
    """Write a plain Ultralytics checkpoint from any of a run's, also from the middle of a run.

    Its outputs are compared with the source's before it is written.
    """
    from kdyolo.export import export_stock as write

    click.echo(write(source, out, exist_ok))


@_command(
    "  kdyolo extract runs/detect/train/weights/best.pt --out backbone.safetensors\n"
    "  kdyolo train --data datasets/other/other.yaml --backbone backbone.safetensors"
)
@click.argument("source", metavar="RUN|CKPT", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="File to write, ending in .safetensors.")
@click.option("--exist-ok", is_flag=True, help="Replace the file if it exists.")
def extract(source: str, out: str, exist_ok: bool) -> None:
    """Write a detector's backbone on its own, so that it can be injected again, bit for bit."""
    from kdyolo.export import extract_backbone

    click.echo(extract_backbone(source, out, exist_ok))


@_command("  kdyolo card runs/detect/train\n  kdyolo card runs/detect/train --out MODEL_CARD.md")
@click.argument("run", type=click.Path())
@click.option("--out", type=click.Path(), help="File to write. Default: model_card.md in the run.")
def card(run: str, out: str | None) -> None:
    """Write a run's model card: results, backbone, training, data, licences, provenance."""
    from kdyolo.card import write_card

    click.echo(write_card(run, out))


@_command(
    "  kdyolo to-coco datasets/coco/coco.yaml --out instances.json\n"
    "  kdyolo to-coco datasets/coco/coco.yaml --split val --out instances_val.json"
)
@click.argument("dataset", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="JSON file to write.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="One part of the data set. Default: all.")
def to_coco(dataset: str, out: str, split: str | None) -> None:
    """Write COCO annotations from the labels of an Ultralytics data set.

    DATASET is its YAML. Where kdyolo converted it from COCO, ids come back as they were.
    """
    from kdyolo.coco.export import to_coco

    click.echo(to_coco(dataset, out, split=split))


@_command(
    "  kdyolo score predictions.json instances_val2017.json\n"
    "  kdyolo score predictions.json instances_val2017.json --ci --per-class\n"
    "  kdyolo score a.json b.json instances_val2017.json --json"
)
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="PRED.json [OTHER.json] ANN.json")
@_evaluator_option
@click.option("--per-class", is_flag=True, help="Also AP of every category.")
@click.option("--ci", is_flag=True, help="95% confidence intervals: a bootstrap over the images.")
@click.option("--resamples", type=int, default=1000, show_default=True, help="Draws of the bootstrap.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def score(
    files: Sequence[str],
    evaluator: Any,
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
    if len(predictions) == 2:
        if per_class:
            raise ConfigError("--per-class is for one results file: score each on its own.")
        from kdyolo.coco.bootstrap import compare_coco

        click.echo(f"drawing the images {resamples:,} times for each model …", err=True)
        options = {"evaluator": evaluator, "resamples": resamples, "seed": seed}
        comparison = compare_coco(predictions[0], predictions[1], annotations, **options)
        _print(comparison.to_dict() if as_json else comparison.table((predictions[0], predictions[1])))
        return
    from kdyolo.coco.bootstrap import confidence
    from kdyolo.coco.instances import read_detections, read_ground_truth
    from kdyolo.coco.score import score as score_detections

    truth, detections = read_ground_truth(annotations), read_detections(predictions[0])
    scores = score_detections(truth, detections, evaluator, source=predictions[0])
    if ci:
        click.echo(f"drawing the images {resamples:,} times …", err=True)  # half a minute for COCO's 5,000
    intervals = confidence(truth, detections, resamples=resamples, seed=seed) if ci else None
    if as_json:
        _print({**scores.to_dict(), **({"interval": intervals.to_dict()} if intervals else {})})
    else:
        _print(scores.table(per_class, intervals.suffixes() if intervals else ()))


def _print(result: str | dict[str, Any]) -> None:
    """A table, or JSON."""
    click.echo(result if isinstance(result, str) else json.dumps(result, indent=2, ensure_ascii=False))


@_command("  kdyolo demo\n  kdyolo demo --out /tmp/kdyolo-demo")
@click.option("--out", type=click.Path(), default="demo", show_default=True, help="Folder to write.")
def demo(out: str) -> None:
    """Run everything once on drawn shapes: a few minutes on two CPU cores, no network."""
    from kdyolo.demo import run_demo

    run_demo(Path(out))


def _key_values(settings: Sequence[str], taken: dict[str, Any]) -> dict[str, Any]:
    """``("lr0=0.01",)`` → ``{"lr0": 0.01}``, read as Ultralytics reads its own command line.

    Raises:
        ConfigError: Not ``key=value``, or a key that was given as an option already.
    """
    from ultralytics.cfg import parse_key_value_pair

    found: dict[str, Any] = {}
    mistakes = []
    for text in settings:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            mistakes.append(f"expected KEY=VALUE, found {text!r}.")
        elif key in taken or key in found:
            mistakes.append(f"{key} is given twice.")
        else:
            found.update([parse_key_value_pair(text)])
    if isinstance(taken.get("batch"), str):  # whole number, or a share of memory as Ultralytics allows
        found.update([parse_key_value_pair(f"batch={taken['batch']}")])
    if mistakes:
        raise ConfigError(mistakes)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: runs a command and turns errors into one message and an exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    let_threads_sleep()
    try:
        cli.main(arguments, prog_name="kdyolo", standalone_mode=False)
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.NoSuchOption as e:
        e.show()
        click.echo("Ultralytics' own settings are given as KEY=VALUE after the options, e.g. lr0=0.01.", err=True)
        sys.exit(EXIT_USAGE)
    except click.ClickException as e:
        e.show()
        sys.exit(EXIT_USAGE)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(EXIT_INTERRUPTED)
    except Exception as e:  # KDYOLOError is ours; anything else comes from below and is shown by its type as well
        if debug:
            traceback.print_exc()
        ours = isinstance(e, KDYOLOError)
        if ours and os.environ.get("RANK", "0") != "0":  # one of several ranks, and the first one says the same
            sys.exit(EXIT_ERROR)
        click.echo(f"Error: {e}" if ours else f"Error: {type(e).__name__}: {e}", err=True)
        if not ours and not debug:
            click.echo("Run the same command with --debug to see where this comes from.", err=True)
        sys.exit(EXIT_USAGE if isinstance(e, ConfigError) else EXIT_ERROR)


if __name__ == "__main__":
    main()
