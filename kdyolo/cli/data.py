"""``kdyolo convert`` and ``to-coco``: COCO annotations to an Ultralytics data set and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdyolo.cli.base import command, echo, json_option, plain_data, print_result, there
from kdyolo.errors import collect_mistakes
from kdyolo.runs.process_control import ended_by_signals

if TYPE_CHECKING:
    from kdyolo.data.coco.reading.schema import SkipInvalid


@command(
    "  kdyolo convert COCO2017/ --out datasets/coco\n"
    "  kdyolo convert --annotations shop/train.json --images shop/img --split train \\\n"
    "                 --annotations shop/val.json --images shop/img --split val --out datasets/shop --name shop\n"
    "  kdyolo convert COCO2017/ --out datasets/traffic --name traffic --classes person,bicycle,car --min-area 100",
    check=there("root", "annotations", "images"),
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
@click.option(
    "--skip-invalid",
    is_flag=False,
    flag_value="few",
    type=click.Choice(["few", "any"]),
    help="Leave out invalid records and count them. At most 5 % of a split's objects; with =any as many as there are.",
)
@click.option("--classes", metavar="NAME,NAME", help="Convert these categories only.")
@click.option("--min-area", type=float, default=0.0, metavar="PX²", help="Leave out objects with a smaller area.")
@click.option("--include-crowd", is_flag=True, help="Write crowd regions as ordinary objects.")
@click.option("--segments", is_flag=True, help="Write polygons instead of boxes, for segmentation heads.")
@click.option("--verify-images", is_flag=True, help="Open every image, and compare its size; then training need not.")
@click.option(
    "--keep-empty-categories", is_flag=True, help="Keep unused rows of supercategories, as Roboflow has them."
)
@json_option
def convert(
    root: str | None,
    out: str,
    annotations: Sequence[str],
    images: Sequence[str],
    split: Sequence[str],
    classes: str | None,
    skip_invalid: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn COCO annotations into an Ultralytics data set.

    ROOT holds annotations/instances_*.json and the images, as the official archives and CVAT have them, or
    _annotations.coco.json in the folder of each split, as Roboflow has it.
    """
    from kdyolo.data.coco_to_yolo import CocoSplit, convert_coco

    if not len(annotations) == len(images) == len(split):
        with collect_mistakes() as mistakes:
            mistakes.add(
                f"--annotations, --images and --split belong together, one of each per split; "
                f"found {len(annotations)}, {len(images)} and {len(split)}."
            )
            mistakes.result(lambda: there("root", "annotations", "images")(click.get_current_context().params))
    sources = [CocoSplit(Path(a), Path(i), s) for a, i, s in zip(annotations, images, split, strict=True)]
    chosen = [name.strip() for name in classes.split(",")] if classes else ()
    skip: SkipInvalid = "any" if skip_invalid == "any" else skip_invalid is not None
    with ended_by_signals():
        summary = convert_coco(root, out, sources=sources, classes=chosen, skip_invalid=skip, **options)
    if as_json:
        print_result(plain_data(summary))
        return
    print_result(summary.table())
    echo(Path(out) / summary.yaml.name)  # as the user wrote it, ready for --data


def _check_dataset(given: Mapping[str, Any]) -> None:
    """Find out whether the data set is there, for a command line that has mistakes already."""
    from kdyolo.data.dataset_yaml import dataset_file

    if dataset := given.get("dataset"):
        dataset_file(dataset)


@command(
    "  kdyolo to-coco datasets/coco/coco.yaml --out instances.json\n"
    "  kdyolo to-coco datasets/coco/coco.yaml --split val --out instances_val.json",
    check=_check_dataset,
)
@click.argument("dataset", type=click.Path())
@click.option("--out", required=True, type=click.Path(), help="JSON file to write.")
@click.option("--split", type=click.Choice(["train", "val", "test"]), help="One part of the data set. Default: all.")
@json_option
def to_coco(dataset: str, out: str, split: str | None, as_json: bool) -> None:
    """Write COCO annotations from the labels of an Ultralytics data set.

    DATASET is its YAML. Where kdyolo converted it from COCO, ids come back as they were.
    """
    from kdyolo.data.yolo_to_coco import to_coco

    summary = to_coco(dataset, out, split=split)
    print_result(plain_data(summary) if as_json else str(summary))
