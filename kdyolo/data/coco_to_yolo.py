"""COCO → YOLO: labels, links to the images, lists and a dataset YAML that Ultralytics trains on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kdyolo.arguments import checked
from kdyolo.coco_json.records import Key
from kdyolo.data.coco.categories import choose_categories, merge_categories, numbered_apart, only_in_some
from kdyolo.data.coco.label_table import LabelTable, Selection, SplitLabels
from kdyolo.data.coco.output_dir import HEADER, check_other_yamls, check_out
from kdyolo.data.coco.reading.annotations import Annotations
from kdyolo.data.coco.reading.json_chunks import FastPathUnavailable
from kdyolo.data.coco.reading.reader import read_annotations
from kdyolo.data.coco.reading.schema import AnnotationRecord, DetailedAnnotation, SkipInvalid
from kdyolo.data.coco.split_writer import LINKS, Link, SplitPlan, annotations_name, list_name
from kdyolo.data.coco.splits import CocoSplit, check_sources, find_sources, is_plain_name, pick_roles
from kdyolo.data.coco.summary import ConversionSummary, SplitSummary, refuse_empty_split, split_warnings
from kdyolo.data.coco.transaction import commit
from kdyolo.data.empty_splits import CROWDS
from kdyolo.errors import ConfigError, collect_mistakes
from kdyolo.utils.parallel import parallel_map
from kdyolo.utils.progress import Progress
from kdyolo.utils.system import pause_gc
from kdyolo.utils.text import quoted

if TYPE_CHECKING:
    from kdyolo.data.coco.label_batches import Labeller
    from kdyolo.data.image_verification import ImageVerifier

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, where PyYAML has it

__all__ = ["CocoSplit", "ConversionSummary", "SplitSummary", "convert_coco"]


@checked
@pause_gc()
def convert_coco(
    root: str | Path | None = None,
    out: str | Path | None = None,
    *,
    name: str = "coco",
    link: Link = "symlink",
    sources: Sequence[CocoSplit] = (),
    skip_invalid: SkipInvalid = False,
    classes: Sequence[str] = (),
    min_area: float = 0.0,
    include_crowd: bool = False,
    segments: bool = False,
    verify_images: bool = False,
    keep_empty_categories: bool = False,
) -> ConversionSummary:
    """Convert COCO detection annotations to an Ultralytics dataset, completely or not at all.

    Nothing is written before everything was read and checked. Doing it again gives the same bytes. What a tool writes
    otherwise than COCO but with one meaning (ids as texts, images by URL, no box but an outline, …) is read so, and
    told in the notes; ``out`` then gets a regular annotation file in place of a link to the original.

    Args:
        root: COCO folder in the official layout (``annotations/instances_<split>.json`` and the images in
            ``images/<split>/``, ``<split>/`` or ``images/``) or in Roboflow's (``<split>/_annotations.coco.json``). It
            is never written to. Give either this or ``sources``.
        out: Folder to write: a missing or empty one, or an earlier conversion, whose entries of the same splits are
            replaced.
        name: Name of the dataset YAML, ``<out>/<name>.yaml``.
        link: How images and annotation files get into ``out``: links to the originals, or copies.
        sources: The splits one by one, for any other layout.
        skip_invalid: Whether invalid images and annotations are left out and counted, instead of raising. With True at
            most 5 % of the objects of a split and no category with all of its objects; with "any" as many as there are.
        classes: Names of the categories to convert; all if empty. Classes are numbered by their category ids, as
            without a choice, and images without any of them stay as background.
        min_area: Smallest area in pixels²: annotations whose ``area`` (without one: that of the box) is smaller are
            left out.
        include_crowd: Whether crowd regions are written as ordinary objects.
        segments: Whether polygons are written instead of boxes, for segmentation heads.
        verify_images: Whether every image is opened: one that cannot be read is invalid, one of another size than its
            record says is reported. Ultralytics' label cache is written as well, since that is what its first scan is
            for.
        keep_empty_categories: Whether a category without annotations that is the supercategory of another one, or has
            its name, becomes a class.

    Returns:
        Paths, classes and counts of what was written.

    Raises:
        ConfigError: The arguments contradict each other, or the splits have no clear roles.
        DatasetError: The data is not what it should be (the message names file and record), or ``out`` cannot be
            written.

    Examples:
        >>> from kdyolo import convert_coco
        >>> convert_coco("COCO2017", "datasets/new").yaml.name
        'coco.yaml'
    """
    target, folder = Path(out or "").expanduser().resolve(), None if root is None else Path(root).expanduser()
    named = [CocoSplit(Path(s.annotations), Path(s.images), s.split) for s in sources]
    with collect_mistakes() as mistakes:
        mistakes.result(lambda: _check_arguments(root, out, name, link, sources, min_area, skip_invalid))
        found = mistakes.result(lambda: find_sources(folder)) if folder else named
        if found:
            mistakes.result(lambda: check_sources(found))
        if found and out:
            mistakes.result(lambda: check_out(target, folder, found))
    assert found is not None  # else there were mistakes
    out, root, sources = target, folder, found
    roles = pick_roles([source.split for source in sources])

    inspector = _inspector() if verify_images else None
    category_numbers: dict[Key, int] = {}
    read = partial(
        read_annotations,
        skip_invalid=skip_invalid,
        detailed=segments,
        problems=inspector.problems if inspector else None,
        category_numbers=category_numbers,
    )
    data = [read(source.annotations, source.images) for source in sources]
    apart = numbered_apart(data)
    if apart:
        read = partial(read, by_name=True)
        data = [read(source.annotations, source.images) for source in sources]
    categories, notes = merge_categories(data, keep_empty_categories)
    chosen = choose_categories(categories, classes)
    listed = dict.fromkeys(key for of_split in data for key in of_split.categories)
    class_of = listed | {category_id: index for index, category_id in enumerate(chosen)}
    selection = Selection(class_of, min_area, include_crowd, _polygon_of if segments else None)
    splits = [
        _Split(source, *_label(of_split, selection, partial(read, source.annotations, source.images, whole=True)))
        for source, of_split in zip(sources, data, strict=True)
    ]
    summaries = {split.source.split: split.summary() for split in splits}
    for split in splits:
        refuse_empty_split(split.source.annotations, split.source.split, summaries[split.source.split])

    dataset = _dataset_yaml(out, roles, chosen, summaries)
    text = f"{HEADER}\n{yaml.dump(dataset, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)}"

    def check() -> None:
        check_out(out, root, sources)
        check_other_yamls(out, name, dataset)

    check()
    commit([split.plan() for split in splits], f"{name}.yaml", text, out, link, check)
    warnings = [
        *(only_in_some(data) if apart else ()),
        *split_warnings(roles, summaries, everything=not (classes or min_area or include_crowd)),
    ]
    if inspector:
        for split in splits:
            warnings += _use_findings(split, inspector, out, len(chosen))
    yaml_path = out / f"{name}.yaml"
    return ConversionSummary(
        yaml_path, dataset["names"], dataset["category_ids"], roles, summaries, tuple(warnings), tuple(notes)
    )


@dataclass(frozen=True)
class _Split:
    """A split that is ready to be written."""

    source: CocoSplit
    data: Annotations
    labels: SplitLabels

    def plan(self) -> SplitPlan:
        annotations = self.data.content() if self.data.content else self.source.annotations.resolve()
        names = [image.file_name for image in self.data.images.values()]
        return SplitPlan(self.source.split, annotations, self.source.images.resolve(), names, self.labels.files)

    def summary(self) -> SplitSummary:
        counts = self.labels.counts
        return SplitSummary(
            annotations=counts.annotations + sum(self.data.skipped_annotations.values()),
            images=len(self.data.images),
            backgrounds=self.labels.backgrounds,
            boxes=counts.boxes,
            crowds=counts.crowds,
            clipped=counts.clipped,
            empty=counts.empty,
            skipped_images=self.data.skipped_images,
            skipped_annotations=self.data.skipped_annotations,
            unselected=counts.unselected,
            small=counts.small,
            box_fallback=counts.box_fallback,
            notes=self.data.notes,
        )


def _label(
    data: Annotations, selection: Selection, read_whole: Callable[[], Annotations]
) -> tuple[Annotations, SplitLabels]:
    """The labels of one file, by the fast way; by the careful one (the whole file is read) where it is irregular."""
    try:
        return data, _label_batches(data, selection)
    except FastPathUnavailable:
        data = read_whole()
        return data, _label_batches(data, selection)


def _label_batches(data: Annotations, selection: Selection) -> SplitLabels:
    @cache
    def labeller() -> Labeller:
        from kdyolo.data.coco.label_batches import Labeller  # numpy, and with it threads: only where the work is done

        return Labeller(data.images, selection)

    with Progress("reading", len(data.batches), "slices") as progress:

        def work(batches: Sequence[Callable[[], list[AnnotationRecord]]]) -> LabelTable:
            columns = []
            for batch in batches:
                columns.append(labeller().columns(batch()))
                progress.advance()
            return labeller().labels(columns)

        parts = parallel_map(work, data.batches, at_least=1, progress=progress, apart=True, meanwhile=data.check_images)
    labels = SplitLabels(parts, len(data.images))
    if not data.checked and labels.ids_repeat:
        raise FastPathUnavailable
    return labels


def _polygon_of(annotation: DetailedAnnotation, width: int, height: int) -> list[float] | None:
    # In each process when it needs it: numpy, OpenCV and Ultralytics take seconds, and end all forking where they run.
    from kdyolo.data.coco.segmentation import polygon_of

    return polygon_of(annotation, width, height)


def _inspector() -> ImageVerifier:
    from kdyolo.data.image_verification import ImageVerifier  # Pillow waits until it is needed

    return ImageVerifier()


def _use_findings(split: _Split, inspector: ImageVerifier, out: Path, classes: int) -> Iterable[str]:
    """Warn about images of another size than their records say, and write the label cache of a verified split."""
    from kdyolo.data.label_cache import write_label_cache

    name, folder = split.source.split, split.source.images
    found = {image.file_name: inspector.found[folder, image.file_name] for image in split.data.images.values()}
    others = [
        f"{image.file_name} ({image.width}×{image.height}, the file {f.width}×{f.height})"
        for image in split.data.images.values()
        if (f := found[image.file_name]) and (f.width, f.height) != (image.width, image.height)
    ]
    if others:
        yield (
            f"{name}: {len(others)} images have another size than their records say, which labels follow; perhaps an "
            f"EXIF orientation turns them: {', '.join(others[:3])}{', …' if len(others) > 3 else ''}"
        )
    if broken := [file for file, f in found.items() if f.broken_end]:
        yield (
            f"{name}: {len(broken)} JPEGs lack their end marker; Ultralytics writes them anew in {out} at its first "
            f"scan: {', '.join(broken[:3])}{', …' if len(broken) > 3 else ''}"
        )
    elif not write_label_cache(out, name, {file: (f.height, f.width) for file, f in found.items()}, classes):
        yield f"{name}: no label cache was written, as this Ultralytics has a new format of it; it will scan once"


def _check_arguments(
    root: str | Path | None,
    out: str | Path | None,
    name: str,
    link: str,
    sources: Sequence[CocoSplit],
    min_area: float,
    skip_invalid: object,
) -> None:
    mistakes = []
    if (root is None) == (not sources):
        found = "neither" if root is None else "both"
        mistakes.append(
            f"expected either a COCO folder or --annotations, --images and --split, found {found}: give one of these"
        )
    if out is None or not str(out):
        mistakes.append("expected an output folder (--out), found none: say where to write the dataset")
    if not is_plain_name(name):
        mistakes.append(f"--name {name!r} cannot name a file: use letters, digits, '_', '-', '.'")
    if link not in LINKS:
        mistakes.append(f"expected --link to be one of {', '.join(LINKS)}, found {link!r}")
    if not 0 <= min_area < float("inf"):
        mistakes.append(f"expected --min-area to be a number of pixels², 0 or more, found {min_area}")
    if skip_invalid not in (False, True, "any"):
        mistakes.append(f"expected --skip-invalid or --skip-invalid=any, found {quoted(skip_invalid)}")
    if mistakes:
        raise ConfigError(mistakes)


def _dataset_yaml(
    out: Path, roles: dict[str, str], categories: dict[int, str], summaries: Mapping[str, SplitSummary]
) -> dict[str, Any]:
    crowds = {role: summaries[split].many_crowds for role, split in roles.items() if summaries[split].many_crowds}
    return {
        "path": str(out),
        **{role: list_name(split) for role, split in roles.items()},
        "names": dict(enumerate(categories.values())),
        "category_ids": dict(enumerate(categories)),
        "annotations": {role: annotations_name(split) for role, split in roles.items()},
        **({CROWDS: crowds} if crowds else {}),
    }
