"""Text tables of a comparison: for a terminal, and as Markdown."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdyolo.experiments.comparison.differences import points
from kdyolo.experiments.comparison.findings.label_efficiency import LabelPoint
from kdyolo.experiments.comparison.grouping import Arm
from kdyolo.experiments.comparison.result import ComparisonResult
from kdyolo.utils.tables import aligned, markdown_table, markdown_text, terminal_width
from kdyolo.utils.text import canonical, format_duration, printable, short_path

CLASSES_SHOWN = 10
_WIDTH = 100


@dataclass(frozen=True)
class Table:
    """A heading and rows of cells.

    Attributes:
        title: Heading of the table.
        columns: Headings of the columns.
        rows: Cells of each row.
        left: Number of columns, from the first, whose cells are words and stand left; numbers stand right.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1


def tables(comparison: ComparisonResult) -> Iterator[Table]:
    """All tables that have rows, the most interesting first."""
    found = (
        *(_values(comparison), _differences(comparison), _labels(comparison), _distillations(comparison)),
        *(_targets(comparison), _phases(comparison)),
        *(_official(comparison), _classes(comparison), _settings(comparison), _runs(comparison)),
    )
    return (table for table in found if table.rows)


def text(comparison: ComparisonResult) -> str:
    """All tables for a terminal; control characters in names are shown, not obeyed."""
    parts = [printable(comparison.title)]
    parts += [_wrapped(f"NOT LIKE FOR LIKE: {printable(sentence)}") for sentence in comparison.unlike]
    parts += [_aligned(table) for table in tables(comparison)]
    notes = [_wrapped(f"note: {printable(note)}") for note in comparison.notes]
    return "\n\n".join([*parts, "\n".join([*notes, _wrapped(f"statistics: {comparison.method}")])])


def markdown(comparison: ComparisonResult) -> str:
    """All tables as Markdown, with every character of a name as itself."""
    parts = [f"# {markdown_text(comparison.title)}"]
    parts += [f"> **Not like for like:** {markdown_text(sentence)}" for sentence in comparison.unlike]
    for table in tables(comparison):
        head, *rows = [[markdown_text(cell) for cell in row] for row in (table.columns, *table.rows)]
        lines = markdown_table(head, rows, "<" * table.left + ">")
        parts.append("\n".join([f"## {markdown_text(table.title)}", "", *lines]))
    parts.append("\n".join(["## Notes", "", *(f"- {markdown_text(note)}" for note in comparison.notes)]))
    parts.append(f"## Statistics\n\n{markdown_text(comparison.method)}")
    return "\n\n".join(parts) + "\n"


# ---- the tables ------------------------------------------------------------------------------------------------------


def _values(comparison: ComparisonResult) -> Table:
    metric = comparison.metric
    others = [name for name in comparison.metrics if name in ("mAP50-95", "mAP50", "official AP") and name != metric]
    width = max(len(arm.runs) for arm in comparison.arms)
    seeds = [seed for seed in dict.fromkeys(seed for arm in comparison.arms for seed in arm.seeds) if seed is not None]
    by_seed = all(len(set(arm.seeds)) == len(arm.seeds) and None not in arm.seeds for arm in comparison.arms)
    heads = [f"seed {seed}" for seed in sorted(seeds)] if by_seed else [f"run {i + 1}" for i in range(width)]

    def cells(arm: Arm) -> list[str]:
        values = arm.points[metric]
        named = dict(zip(arm.seeds, values, strict=True))
        each = [named.get(seed, math.nan) for seed in sorted(seeds)] if by_seed else [*values]
        return [_number(value) for value in (*each, *[math.nan] * (len(heads) - len(each)))]

    rows = []
    for arm in comparison.arms:
        mean = arm.values[metric]
        interval = f"{mean.low:.3f}…{mean.high:.3f}" if mean.known else "–"
        name = f"{arm.name} (baseline)" if arm.name == comparison.baseline else arm.name
        rest = [_number(arm.values[other].estimate) for other in others]
        rows.append([name, str(mean.n), _number(mean.estimate), interval, *cells(arm), *rest])
    where = "best epoch" if comparison.at == "best" else "last epoch"
    title = f"{metric}, {where}: mean over seeds with {comparison.arms[0].values[metric].level:.0%} CI"
    return Table(title, ["arm", "n", metric, "CI", *heads, *others], rows)


def _differences(comparison: ComparisonResult) -> Table:
    rows = [
        [d.arm, d.words, ("paired" if d.paired else "unpaired") if d.interval.known else "–"]
        for d in comparison.differences
    ]
    return Table(f"difference to {comparison.baseline}, in points of 0–100", ["arm", "difference", "seeds"], rows, 3)


def _labels(comparison: ComparisonResult) -> Table:
    """An arm to a row, a share of the labels to a column, and the sentence on where a gain is significant."""
    found = comparison.labels
    if found is None:
        return Table("", [], [])
    heads = {p.share: p.labels for p in sorted(found.points, key=lambda p: p.share)}
    rows = []
    for arm in dict.fromkeys(point.arm for point in found.points):
        of = {point.share: point for point in found.points if point.arm == arm}
        name = f"{arm} (baseline)" if arm == found.baseline else arm
        rows.append([name, *(_at_share(of.get(share)) for share in heads), found.gains.get(arm, "")])
    title = f"{found.metric} over the number of labels, mean over seeds; difference to {found.baseline} in points"
    return Table(title, ["arm", *heads.values(), "in words"], rows, len(heads) + 2)


def _at_share(point: LabelPoint | None) -> str:
    if point is None:
        return "–"
    return _number(point.value.estimate) + (f" ({point.difference.words})" if point.difference else "")


def _distillations(comparison: ComparisonResult) -> Table:
    rows = [
        [", ".join(d.arms), d.teacher, d.taps, f"{d.images:,}" if d.images else "–", str(d.epochs),
         format_duration(d.seconds), d.verdict]
        for d in comparison.distillations
    ]  # fmt: skip
    title = "distillations (their time is in none of the arms' own)"
    return Table(title, ["arms", "teacher", "taps", "images", "epochs", "time", "verdict"], rows, 7)


def _targets(comparison: ComparisonResult) -> Table:
    values = list(dict.fromkeys(target.value for target in comparison.targets))
    by_arm: dict[str, list[str]] = {}
    for target in comparison.targets:
        if not target.reached:
            cell = "never"
        else:
            cell = f"epoch {target.epochs:g}, {format_duration(target.seconds)}"
            cell += f" ({target.reached} of {target.of})" if target.reached < target.of else ""
        by_arm.setdefault(target.arm, []).append(cell)
    rows = [[arm, *cells] for arm, cells in by_arm.items()] if values else []
    return Table(
        "first reached mAP50-95 of (median of the seeds that did)", ["arm", *(f"{v:.4g}" for v in values)], rows
    )


def _phases(comparison: ComparisonResult) -> Table:
    rows = [
        [p.arm, p.phase, str(p.epochs), _number(p.seconds_per_epoch, 2), _number(p.memory_gb, 2)]
        for p in comparison.phases
    ]
    return Table("speed and memory", ["arm", "phase", "epochs", "s/epoch", "GiB"], rows, 2)


def _official(comparison: ComparisonResult) -> Table:
    names = dict.fromkeys(name for values in comparison.official.values() for name in values)

    def cell(arm: str, name: str) -> str:
        interval = comparison.official[arm].get(name)
        if interval is None:
            return "–"
        spread = f" ±{(interval.high - interval.low) / 2:.3f}" if interval.known else ""
        return f"{interval.estimate:.3f}{spread}"

    rows = [[name, *(cell(arm, name) for arm in comparison.official)] for name in names]
    return Table("official COCO metrics of best.pt", ["metric", *comparison.official], rows)


def _classes(comparison: ComparisonResult) -> Table:
    found = sorted(comparison.class_differences, key=lambda c: -abs(c.difference))
    rows = [
        [c.name, c.arm, str(c.objects), f"{c.baseline_ap:.3f}", f"{c.arm_ap:.3f}", points(c.difference)]
        for c in found[:CLASSES_SHOWN]
        if c.difference
    ]
    title = (
        f"official AP per class: the {len(rows)} largest of {len(found)} differences (no test: they are the extremes)"
    )
    columns = ["class", "arm", "objects", str(comparison.baseline), "arm's", "difference"]
    return Table(title, columns, rows, 2)


def _settings(comparison: ComparisonResult) -> Table:
    arms = [arm.name for arm in comparison.arms]
    rows = [[name, *(_setting(values[arm]) for arm in arms)] for name, values in comparison.differing.items()]
    return Table(f"settings that differ ({len(comparison.equal)} are equal)", ["setting", *arms], rows, len(arms) + 1)


def _runs(comparison: ComparisonResult) -> Table:
    def cells(facts: Mapping[str, Any]) -> list[str]:
        rest = (str(facts.get(name, "–")) for name in ("arm", "seed", "state", "best epoch"))
        return [str(short_path(Path(facts["folder"]))), *rest]

    rows = [
        [*cells(facts), format_duration(facts.get("training time (s)", math.nan))] for facts in comparison.provenance
    ]
    return Table("runs", ["folder", "arm", "seed", "state", "best epoch", "time"], rows, 4)


# ---- cells -----------------------------------------------------------------------------------------------------------


def _number(value: float, digits: int = 3) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _setting(value: Any) -> str:
    if isinstance(value, list):
        return " / ".join(map(_setting, value))
    return "none" if value is None else value if isinstance(value, str) else canonical(value)


def _aligned(table: Table) -> str:
    lines = aligned([table.columns, *table.rows], "<" * table.left + ">", indent=2)
    return "\n".join([printable(table.title), *lines])


def _wrapped(sentence: str) -> str:
    width = min(_WIDTH, terminal_width() or _WIDTH)
    return textwrap.fill(sentence, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
