"""Comparison of training runs: arms with their spread over seeds, and what can be said of their differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdyolo.arguments import checked
from kdyolo.errors import ConfigError, collect_mistakes
from kdyolo.experiments.comparison.comparability import check_comparable, compare_settings
from kdyolo.experiments.comparison.cost_and_classes import (
    ClassDifference,
    PhaseTiming,
    Target,
    automatic_targets,
    find_class_differences,
    find_official,
    find_phases,
    find_targets,
)
from kdyolo.experiments.comparison.differences import METHOD, Difference, common_seeds, find_differences
from kdyolo.experiments.comparison.findings.distillation_facts import find_distillations
from kdyolo.experiments.comparison.findings.label_efficiency import by_share, label_curves
from kdyolo.experiments.comparison.grouping import Arm, Gathered, arm_folder, gather, run_name
from kdyolo.experiments.comparison.label_shares import bare_name, share_name
from kdyolo.experiments.comparison.metric_values import (
    BEST,
    LAST,
    MAIN,
    OFFICIAL_AP,
    Scope,
    check_metric,
    find_scope,
    require_metric,
    with_values,
)
from kdyolo.experiments.comparison.result import ComparisonResult
from kdyolo.experiments.comparison.run_facts import run_facts
from kdyolo.experiments.comparison.run_settings import was_resumed
from kdyolo.experiments.comparison.significance import Interval
from kdyolo.runs.files import run_folder_of
from kdyolo.runs.history import Run
from kdyolo.utils.tables import ShownAsTable
from kdyolo.utils.text import did_you_mean, plural

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Arm",
    "ClassDifference",
    "Difference",
    "Interval",
    "PhaseTiming",
    "RunComparison",
    "Target",
    "compare",
    "compare_runs",
]


@dataclass(frozen=True, repr=False)
class RunComparison(ShownAsTable, ComparisonResult):
    """Arms side by side, with ways to show them: see :class:`ComparisonResult` for the attributes."""

    def headline(self) -> str:
        """The title, how much is compared, and with what."""
        runs = sum(len(arm.runs) for arm in self.arms)
        against = f", baseline {self.baseline}" if self.baseline is not None else ""
        return f"{self.title}: {plural(len(self.arms), 'arm')}, {plural(runs, 'run')}{against}"

    def to_frame(self) -> pd.DataFrame:
        """A row for each run: arm, seed, folder, epochs, and the value of every metric (in 0–1; NaN if left out)."""
        from kdyolo.experiments.comparison.dataframes import runs_frame

        return runs_frame(self)

    def differences_frame(self) -> pd.DataFrame:
        """A row for each difference: metric, arm, estimate (in 0–1), ends of the interval, p-values, verdict."""
        from kdyolo.experiments.comparison.dataframes import differences_frame

        return differences_frame(self)

    def to_dict(self) -> dict[str, Any]:
        """All attributes as plain data for JSON; a value that is missing or not finite is null."""
        from kdyolo.experiments.comparison.dataframes import to_plain

        content: dict[str, Any] = to_plain(self)
        return content

    def to_csv(self) -> str:
        """:meth:`to_frame` as comma-separated values."""
        return str(self.to_frame().to_csv(index=False, lineterminator="\n"))

    def to_markdown(self) -> str:
        """All tables as Markdown."""
        from kdyolo.experiments.comparison.text_tables import markdown

        return markdown(self)

    def table(self) -> str:
        """All tables for a terminal."""
        from kdyolo.experiments.comparison.text_tables import text

        return text(self)

    def write_report(self, folder: str | Path) -> Path:
        """Write ``report.html``, one self-contained page.

        Args:
            folder: Folder of the report; made if it is not there.

        Returns:
            ``folder/report.html``.

        Raises:
            RunError: The folder cannot be written.
        """
        from kdyolo.experiments.report.html_report import write_report

        return write_report(self, folder)

    def __str__(self) -> str:
        return self.table()


@checked
def compare_runs(
    *runs: str | Path,
    baseline: str | Path | None = None,
    out: str | Path | None = None,
    anyway: bool = False,
    metric: str = MAIN,
    at: str = BEST,
    targets: Sequence[float] | None = None,
) -> RunComparison:
    """Compare training runs, kdyolo's or stock Ultralytics', with the uncertainty that comes from the seed.

    Args:
        runs: Run folders, checkpoints in them, folders of an arm, or of a study. Runs in ``<arm>/seed<k>/`` are an arm;
            others are one if they differ in nothing but seed, environment and places.
        baseline: Run, or name of an arm, that the others are compared with. Default: the study file's, else the arm
            that started random; of several such the one named ``random``.
        out: Folder in which ``report.html`` is written.
        anyway: Compare what is not like for like, and say so, instead of refusing.
        metric: ``"mAP50-95"``, ``"mAP50"``, ``"precision"``, ``"recall"``, ``"official AP"``, ``"official AP50"``, …
        at: ``"best"``: values at the epoch with the highest mAP50-95; ``"last"``: at the last.
        targets: mAP50-95 (in 0–1) for which the time to reach them is reported. Default: fractions of the baseline's.

    Returns:
        The comparison, to print, or to read by its attributes and :meth:`RunComparison.to_frame`.

    Raises:
        ConfigError: Options are wrong (the error names all of them), or it is not clear which arm is the baseline.
        RunError: A path is no run, a run has no results or is given twice, or runs are not like for like.

    Examples:
        >>> from kdyolo import compare
        >>> comparison = compare("studies/does-it-help", baseline="random")
        >>> comparison.baseline
        'random'
    """
    gathered = check_comparison(runs, metric, at, targets)
    shares = by_share(gathered.arms)
    share = max(shares, key=lambda s: (len(shares[s]), s), default=0.0)
    groups = shares or {share: gathered.arms}
    unlike = tuple(dict.fromkeys(said for arms in groups.values() for said in check_comparable(arms, anyway)))
    scopes = {each: find_scope(arms, at) for each, arms in groups.items()}
    for each, arms in groups.items():
        require_metric(arms, metric, scopes[each])
    valued = {each: tuple(with_values(arm, scopes[each]) for arm in arms) for each, arms in groups.items()}
    arms, scope = valued[share], scopes[share]
    base = _baseline(arms, gathered.baseline if baseline is None else baseline)
    of_shares = [
        f"all but the label efficiency is of the runs with {share_name(share)} of the labels",
        "each seed draws the images of a share anew, the same for all arms",
    ]
    comparison = _compare_arms(
        arms,
        base,
        scope,
        metric,
        targets,
        title=gathered.title or " · ".join(arm.name for arm in arms),
        unlike=unlike,
        notes=(*(of_shares if shares else ()), *gathered.notes, *scope.notes, *_notes(arms, base, scope, metric)),
    )
    if shares:
        curves = label_curves(valued, metric, base.name if base else None)
        comparison = replace(comparison, labels=curves)
    if out is not None:
        comparison.write_report(out)
    return comparison


compare = compare_runs  # the short name of ``from kdyolo import compare``


def _compare_arms(
    arms: tuple[Arm, ...],
    base: Arm | None,
    scope: Scope,
    metric: str,
    targets: Sequence[float] | None,
    *,
    title: str,
    unlike: tuple[str, ...],
    notes: tuple[str, ...],
) -> RunComparison:
    """All that can be said of arms whose values are known; ``base`` is None if there is one arm only."""
    metrics = [m for m in dict.fromkeys((metric, MAIN, "mAP50", OFFICIAL_AP)) if all(m in arm.values for arm in arms)]
    final = (base or min(arms, key=lambda arm: arm.values[metric].estimate)).values.get(MAIN)
    equal, differing = compare_settings(arms)
    return RunComparison(
        title=title,
        arms=arms,
        baseline=base.name if base else None,
        metric=metric,
        at=scope.at,
        differences=find_differences(arms, base, metrics) if base else (),
        equal=equal,
        differing=differing,
        unlike=unlike,
        phases=find_phases(arms),
        targets=find_targets(arms, targets or automatic_targets(final.estimate if final else 0), scope),
        official=find_official(arms, scope),
        class_differences=find_class_differences(arms, base, scope) if base else (),
        provenance=tuple(run_facts(arm, run) for arm in arms for run in arm.runs),
        notes=notes,
        method=METHOD,
        distillations=find_distillations(arms),
    )


def check_comparison(
    runs: Sequence[str | Path], metric: str, at: str, targets: Sequence[float] | None = None
) -> Gathered:
    """Read the runs, and refuse what is wrong with them or with the options; see :func:`compare_runs`.

    Raises:
        ConfigError: Options are wrong, or there are several mistakes; the error names all of them.
        RunError: A single path is no run, or a run has no results.
    """
    with collect_mistakes() as mistakes:
        mistakes.result(lambda: check_metric(metric, at))
        mistakes.result(lambda: _check_targets(targets))
        gathered = mistakes.result(lambda: gather(runs))
    assert gathered is not None  # else there were mistakes
    return gathered


def _check_targets(targets: Sequence[float] | None) -> None:
    wrong = [value for value in targets or () if not 0 < value <= 1]
    if wrong:
        raise ConfigError(
            f"targets are mAP50-95 above 0 and up to 1; found {', '.join(f'{value:g}' for value in wrong)}."
        )


def _baseline(arms: Sequence[Arm], wanted: str | Path | None) -> Arm | None:
    """The arm that is wanted, by name or by one of its runs, else the random one; None if there is only one arm.

    Of several that started random it is the one of that name.

    Raises:
        ConfigError: None is wanted, and which one is the random one is not clear; or what is wanted is none.
    """
    names = [arm.name for arm in arms]
    if wanted is not None:
        base = arms[names.index(str(wanted))] if str(wanted) in names else _arm_of_run(arms, Path(wanted))
    elif len(arms) > 1:
        random = [arm for arm in arms if all(map(_started_random, arm.runs))]
        if len(random) != 1 and not (named := [arm for arm in random if bare_name(arm.name) == "random"]):
            why = "Several arms" if random else "No arm"
            raise ConfigError(
                f"what is the baseline? {why} started random. Expected a baseline (--baseline), one of: "
                f"{', '.join(names)}."
            )
        base = random[0] if len(random) == 1 else named[0]
    return base if len(arms) > 1 else None


def _started_random(run: Run) -> bool:
    """Whether a run started from no weights at all, by its record or, of a stock run, by its arguments."""
    if run.record is not None:
        settings = run.record.get("settings") or {}
        return not (run.record.get("backbone") or run.record.get("started_from") or settings.get("backbone"))
    trained_from = (run.args.get("model"), run.args.get("pretrained"))
    return not any(str(value).endswith(".pt") for value in trained_from)


def _arm_of_run(arms: Sequence[Arm], wanted: Path) -> Arm:
    folder = run_folder_of(wanted)
    for arm in arms:
        if any(folder.resolve() in (run.path.resolve(), arm_folder(run)) for run in arm.runs):
            return arm
    names = [arm.name for arm in arms]
    raise ConfigError(
        f"baseline {wanted} is none of the arms compared, nor a run of one.{did_you_mean(str(wanted), names)} "
        f"Expected one of: {', '.join(names)}."
    )


def _notes(arms: Sequence[Arm], base: Arm | None, scope: Scope, metric: str) -> list[str]:
    notes = [f"{run_name(run)}: {note}" for arm in arms for run in arm.runs for note in run.notes]
    if scope.at == BEST:
        notes.append(
            "the best epoch is chosen on the same images that it is judged by, which flatters every arm a little; "
            f"compare --at {LAST} has no such choice"
        )
    if base is None:
        notes.append("there is only one arm, so there is no difference to tell: these runs differ in their seed only")
    elif any(arm.values[metric].n == 1 for arm in arms):
        single = [arm.name for arm in arms if arm.values[metric].n == 1]
        notes.append(f"a single run in {', '.join(single)}: how far another seed would move it is not known")
    for arm in arms:
        if base is None or arm is base:
            continue
        pairs = common_seeds(arm, base, metric)
        if len(pairs) > 1 and len(pairs) < max(arm.values[metric].n, base.values[metric].n):
            seeds = ", ".join(map(str, pairs))
            notes.append(f"{arm.name} − {base.name} is over the seeds that both have ({seeds}), its means over all")
    if base is not None:
        notes += _same_settings(arms)
    return notes + _resumed_by_stock(arms)


def _same_settings(arms: Sequence[Arm]) -> list[str]:
    """Notes on arms with the same settings, whose difference is chance."""
    differing = compare_settings(arms)[1]
    first: dict[str, str] = {}
    notes = []
    for arm in arms:
        key = repr([values.get(arm.name) for values in differing.values()])
        if key in first:
            notes.append(f"{first[key]} and {arm.name} have the same settings: their difference is chance")
        first.setdefault(key, arm.name)
    return notes


def _resumed_by_stock(arms: Sequence[Arm]) -> list[str]:
    """Notes on loose runs that cannot be grouped with other seeds, because their settings were overwritten."""
    loose = [run for arm in arms for run in arm.runs if run.record is None and arm_folder(run) is None]
    return [
        f"{run_name(run)} was resumed by stock Ultralytics, which overwrites what it started from; to have it in one "
        "arm with other seeds, put them into folders <arm>/seed<k>/"
        for run in loose
        if was_resumed(run)
    ]
