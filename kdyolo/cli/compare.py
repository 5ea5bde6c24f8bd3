"""``kdyolo compare``: runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from kdyolo.cli.base import command, json_option, note, print_result
from kdyolo.errors import ConfigError, Mistakes, collect_mistakes

if TYPE_CHECKING:
    from kdyolo.experiments.compare import RunComparison

FORMATS = ("table", "md", "json", "csv")


def _check_runs(given: Mapping[str, Any]) -> None:
    """Find the mistakes in runs and options, for a command line that has others already."""
    from kdyolo.experiments.compare import check_comparison

    with collect_mistakes() as mistakes:
        wanted = mistakes.result(lambda: _numbers(given["targets"])) if given.get("targets") else None
        _gather_missing_out(given, mistakes)
        metric, at = given.get("metric") or "mAP50-95", given.get("at") or "best"
        mistakes.result(lambda: check_comparison(given.get("runs") or (), metric, at, wanted))


def _gather_missing_out(given: Mapping[str, Any], mistakes: Mistakes) -> None:
    """Note options that need a folder for what is written, where none is given."""
    if given.get("out") is None and (lacking := [f"--{name}" for name in ("plots", "watch") if given.get(name)]):
        mistakes.add(f"{' and '.join(lacking)}: expected --out DIR too, the folder for what is written.")


@command(
    "  kdyolo compare studies/does-distillation-help --out report/\n"
    "  kdyolo compare runs/random runs/frozen50 --baseline runs/random\n"
    "  kdyolo compare runs/random-s* runs/frozen-s* --metric 'official AP' --format md\n"
    "  kdyolo compare runs/a runs/b --baseline runs/a --targets 0.2,0.3 --anyway\n"
    "  kdyolo compare studies/does-distillation-help --out report/ --watch\n"
    "  kdyolo compare studies/does-distillation-help --out paper/ --plots svg",
    check=_check_runs,
)
@click.argument("runs", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@click.option(
    "--baseline",
    metavar="RUN|ARM",
    help="What the others are compared with. Default: the study's, or the arm that started random.",
)
@click.option("--out", type=click.Path(file_okay=False), help="Folder for report.html, one self-contained page.")
@click.option("--anyway", is_flag=True, help="Compare what is not like for like; the report then says so.")
@click.option("--metric", default="mAP50-95", show_default=True, help="Or mAP50, precision, recall, 'official AP', …")
@click.option("--at", type=click.Choice(["best", "last"]), default="best", show_default=True, help="Epoch to judge by.")
@click.option(
    "--targets", metavar="mAP,mAP", help="mAP50-95 of which to tell the time. Default: shares of the baseline's."
)
@click.option("--plots", type=click.Choice(["png", "svg"]), help="Also the charts as single pictures, in OUT/plots/.")
@click.option("--watch", is_flag=True, help="Write the report anew whenever runs have gone on, until all are finished.")
@click.option(
    "--interval", type=float, default=10.0, show_default=True, metavar="SECONDS", help="How often --watch looks."
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="What is printed."
)
@json_option
def compare(
    runs: Sequence[str],
    baseline: str | None,
    out: str | None,
    anyway: bool,
    metric: str,
    at: str,
    targets: str | None,
    plots: Literal["png", "svg"] | None,
    watch: bool,
    interval: float,
    form: str,
    as_json: bool,
) -> None:
    """Compare training runs, with the uncertainty that comes from the seed.

    RUN is a run folder of kdyolo or of stock Ultralytics, a checkpoint in one, or the folder of a study. Runs that
    differ in their seed only are one arm.
    """
    with collect_mistakes() as mistakes:
        wanted = mistakes.result(lambda: _numbers(targets)) if targets is not None else None
        _gather_missing_out({"out": out, "plots": plots, "watch": watch}, mistakes)
        if mistakes:
            from kdyolo.experiments.compare import check_comparison

            mistakes.result(lambda: check_comparison(runs, metric, at, wanted))
    from kdyolo.experiments.compare import compare_runs

    def compared(out: str | None) -> RunComparison:
        return compare_runs(*runs, baseline=baseline, out=out, anyway=anyway, metric=metric, at=at, targets=wanted)

    comparison = _watched(compared, runs, out, interval) if watch and out else compared(out)
    if comparison is None:
        return
    if plots and out:
        from kdyolo.experiments.report.matplotlib_figures import write_plots

        write_plots(comparison, Path(out) / "plots", plots)
    if as_json or form == "json":
        print_result(comparison.to_dict())
    else:
        printed = {"table": comparison.table, "md": comparison.to_markdown, "csv": comparison.to_csv}[form]()
        print_result(printed.removesuffix("\n"))
    if out is not None:
        report = f"{out.rstrip('/')}/report.html"
        print_result(report) if form == "table" and not as_json else note(report)


def _watched(
    compared: Callable[[str | None], RunComparison], runs: Sequence[str], out: str, interval: float
) -> RunComparison | None:
    """The comparison when all runs are finished, or at Ctrl-C; its report is kept fresh until then."""
    from kdyolo.experiments.watch import watch

    return watch(lambda: compared(None), runs, out, interval=interval, tell=note)


def _numbers(text: str) -> list[float]:
    """``"0.2,0.3"`` → numbers."""
    try:
        return [float(piece) for piece in text.split(",")]
    except ValueError:
        raise ConfigError(f"--targets: expected numbers such as 0.2,0.3; found {text!r}.") from None
