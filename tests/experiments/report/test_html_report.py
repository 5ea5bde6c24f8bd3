"""The report in a real browser: what it shows, in light and dark, wide and narrow, with names that are HTML."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from kdyolo.errors import RunError
from kdyolo.experiments.compare import compare_runs
from kdyolo.experiments.report import write_report
from kdyolo.experiments.report.html_report import head_facts, render
from kdyolo.experiments.report.sample_images import Samples
from kdyolo.runs.files import MAP
from tests.builders.browser import Page, chromium
from tests.builders.run_folders import write_run
from tests.builders.studies import comparison_of, write_study

EVIL = "%{x}<b>b</b><script>alert(1)</script><img src=x onerror=alert(2)>\"'& {{ 7*7 }} $a_b$"
SHORT = EVIL[:14] + "…" + EVIL[-13:]
NO_PICTURES = Samples((), "", {})


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def study(shapes, tmp_path_factory):
    """Three arms of three seeds, one of them frozen for ten of its twenty epochs."""
    return comparison_of(write_study(tmp_path_factory.mktemp("study"), shapes), "random", "Does it help?")


@pytest.fixture(scope="module")
def report(study, tmp_path_factory) -> Path:
    return write_report(study, tmp_path_factory.mktemp("report") / "new" / "folder")


@pytest.fixture(scope="module")
def page_of(browser, report):
    """``page_of(width)``: the report as wide as that, opened once; whoever changes it changes it back."""
    pages = {}
    yield lambda width: pages.get(width) or pages.setdefault(width, Page(browser, report, width))
    for page in pages.values():
        page.close()


@pytest.fixture(scope="module")
def page(page_of):
    return page_of(1200)


def test_one_file_and_nothing_else(report):
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]


def test_a_folder_that_cannot_be_written_is_one_clear_error(study, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RunError, match=r"cannot be written .* --out"):
        write_report(study, tmp_path / "file" / "report")


def test_the_page_is_without_fault_and_asks_no_network(page):
    assert page.complaints == []
    assert page.requests == []


def test_the_verdict_comes_first(page):
    first = page.tab.locator("main section").first
    assert first.get_attribute("id") == "verdict"
    text = first.inner_text()
    assert "frozen10" in text
    assert re.search(r"\+2\.\d mAP, 95% CI", text)


def test_the_differences_have_whiskers_and_a_zero_line(page):
    chart = "#chart-differences"
    assert page.count(f"{chart} .scatterlayer .trace .points path") == 2  # the arms but the baseline
    assert page.count(f"{chart} .errorbars .xerror") == 2
    assert page.count(f"{chart} .shapelayer path") == 1


def test_every_arm_has_a_mean_and_seeds_in_every_panel(page):
    titles = page.tab.locator("#curves figcaption").all_inner_texts()
    beside = ["mAP50-95: difference to random, points", "mAP50-95, the last epochs"]
    assert titles[:4] == ["mAP50-95", *beside, "mAP50"]
    titles = [title for title in titles if title not in beside]
    assert {"box loss, train", "box loss, val", "class loss, val"} <= set(titles)
    assert [t for t in titles if t.startswith("learning rate")] == [
        "learning rate: backbone weight, backbone bn, backbone bias",
        "learning rate: head weight, head bn, head bias",
    ]
    for number in range(len(titles)):
        assert page.count(f"#chart-curve-{number} .scatterlayer .trace .lines path") == 3 * (3 + 1)
        assert page.count(f"#chart-curve-{number} .scatterlayer .trace .points path") > 3  # the mean has markers


def test_the_head_says_what_was_trained_on_what(page, study):
    facts = page.tab.locator("header .fact").all_inner_texts()
    today = date.today().isoformat()
    assert facts[:5] == [
        "data data/coco", "model kdyolov8n", "epochs 20", "image size 64 px", "validation images 4"
    ]  # fmt: skip
    assert facts[5].startswith("trained 20")
    assert facts[5] <= f"trained {today}"
    longer = replace(study, arms=(*study.arms[:2], replace(study.arms[2], runs=(other(study.arms[2].runs[0]),))))
    assert head_facts(longer)["epochs"] == "20, 40"
    assert head_facts(longer)["model"] == "kdyolov8n, yolov8s"


def other(run):
    return replace(run, args={**run.args, "epochs": 40, "model": "yolov8s.pt"}, record=None)


def test_arms_stand_in_the_order_of_their_effects_with_their_values(page, study):
    arms = [d.arm for d in sorted(study.differences, key=lambda d: -d.interval.estimate) if d.metric == "mAP50-95"]
    assert page.tab.locator("#verdict li .word").all_inner_texts() == arms == ["frozen10", "unfrozen"]
    assert page.tab.locator("#chart-differences .ytick text").all_text_contents() == arms
    values = page.tab.locator("#chart-differences .annotation-text").all_text_contents()
    assert all(re.fullmatch(r"[+−]\d\.\d \([+−]\d\.\d…[+−]\d\.\d\)", value) for value in values)
    for value, arm in zip(values, arms, strict=True):
        words = next(d.words for d in study.differences if (d.arm, d.metric) == (arm, "mAP50-95"))
        assert value.split()[0] == words.split()[0]


def test_the_table_of_differences_has_the_same_order_in_every_metric(page, study):
    page.tab.locator("#verdict details").evaluate("details => details.open = true")
    rows = [row.split() for row in page.tab.locator("#verdict tbody tr").all_inner_texts()]
    found = {(d.metric, d.arm): d.interval.estimate for d in study.differences}
    named = [next(key for key in found if row[0] == key[0].split()[0] and key[1] in row) for row in rows]
    assert sorted(named) == sorted(found)
    gains = [found[key] for key in named]
    for metric in {metric for metric, _ in named}:
        of_metric = [gain for gain, key in zip(gains, named, strict=True) if key[0] == metric]
        assert of_metric == sorted(of_metric, reverse=True), metric


def test_the_difference_over_the_epochs_has_its_band(page, study):
    traces = page.evaluate("document.getElementById('chart-curve-difference').data.map(t => [t.meta, t.x, t.y])")
    assert [(meta["arm"], meta["role"]) for meta, _, _ in traces] == [
        (arm, role) for arm in ("unfrozen", "frozen10") for role in ("band", "mean")
    ]
    epochs, means = traces[3][1:]
    assert epochs == list(range(1, 21))
    runs = [
        (a.columns[MAP][-1], b.columns[MAP][-1]) for a, b in zip(study.arms[2].runs, study.arms[0].runs, strict=True)
    ]
    differences = [100 * (a - b) for a, b in runs]
    mean = sum(differences) / 3
    assert means[-1] == pytest.approx(mean)
    spread = (sum((d - mean) ** 2 for d in differences) / 2 / 3) ** 0.5  # standard error of three
    low, high = traces[2][2][19], traces[2][2][20]  # the band goes up along its lower edge and back along its upper one
    assert (low, high) == (
        pytest.approx(mean - 4.30265 * spread, abs=1e-4),
        pytest.approx(mean + 4.30265 * spread, abs=1e-4),
    )
    fill = page.evaluate("document.getElementById('chart-curve-difference').data[2].fillcolor")
    assert re.fullmatch("#[0-9a-f]{8}", fill)


def test_axes_end_with_the_data_and_epochs_are_whole_numbers(page_of):
    for page in map(page_of, (390, 1200)):
        count = page.tab.locator("#curves .chart").count()
        for name in [*range(count - 2), "difference"]:
            assert page.evaluate(f"document.getElementById('chart-curve-{name}').layout.xaxis.range") == [0.5, 20.5]
        assert page.evaluate("document.getElementById('chart-curve-zoomed').layout.xaxis.range") == [13.5, 20.5]
        ticks = page.tab.locator("#curves .chart .xtick text").all_text_contents()
        assert all(tick.isdecimal() and 1 <= int(tick) <= 20 for tick in ticks)
        box = page.tab.locator("#chart-curve-0 .annotation-text").bounding_box()
        plot = page.tab.locator("#chart-curve-0 .nsewdrag").bounding_box()
        assert box["x"] >= plot["x"] - 1
        assert box["x"] + box["width"] <= plot["x"] + plot["width"] + 1


def test_signs_and_zeros_are_set_as_in_the_text(page):
    for chart in ("chart-differences", "chart-classes-1", "chart-curve-difference"):
        axis = "ytick" if "curve" in chart else "xtick"
        ticks = page.tab.locator(f"#{chart} .{axis} text").all_text_contents()
        assert "0" in ticks
        assert all(tick == "0" or re.fullmatch(r"[+−]\d+(\.\d+)?", tick) for tick in ticks)


def test_metrics_and_targets_have_arms_as_columns(page, study):
    for section, first in (("official", "metric"), ("targets", "mAP50-95")):
        header = page.tab.locator(f"#{section} thead th").all_inner_texts()
        assert [text.split()[-1] for text in header] == [first, *(arm.name for arm in study.arms)]
    rows = page.tab.locator("#official tbody tr").all_inner_texts()
    assert rows[0].split()[:2] == ["AP", f"{study.official['random']['AP'].estimate:.3f}"]


def test_what_is_zero_throughout_is_not_drawn(study):
    def zeroed(run):
        names = ("train/dfl_loss", "val/dfl_loss")
        return replace(run, columns={n: [0.0] * len(v) if n in names else v for n, v in run.columns.items()})

    arms = tuple(replace(arm, runs=tuple(map(zeroed, arm.runs))) for arm in study.arms)
    same = tuple(replace(c, difference=0.0, arm_ap=c.baseline_ap) for c in study.class_differences)
    assert "distribution focal loss" in render(study, NO_PICTURES)
    text = render(replace(study, arms=arms, class_differences=same), NO_PICTURES)
    assert "distribution focal loss" not in text
    assert "chart-classes-" not in text
    assert text.count("No class has another AP than with random.") == 2


@pytest.mark.parametrize("known", [{"data": "data/coco/coco.yaml"}, {"model": "yolov8n.pt", "imgsz": 64}])
def test_runs_that_keep_few_of_their_settings_have_a_report(tmp_path, known):
    """As other tools, and older versions of Ultralytics, leave them."""
    for arm in ("random", "frozen"):
        for seed in (0, 1):
            folder, best = tmp_path / "study" / arm / f"seed{seed}", 0.3 + 0.1 * (arm == "frozen") + 0.01 * seed
            run = write_run(folder, [0.1, best], seed=seed, stock=True)
            (run / "args.yaml").write_text(yaml.safe_dump({**known, "seed": seed}))
    page = write_report(compare_runs(tmp_path / "study", baseline="random"), tmp_path / "report").read_text("utf-8")
    assert page.count("args.yaml names no data set, so there are no images to draw.") == ("data" not in known)
    assert ("yolov8n" in page) is ("model" in known)


def test_an_error_that_several_arms_share_is_told_once(study):
    reason = "its best.pt is gone."
    text = render(study, Samples((), "", {"random": reason, "frozen10": reason, "unfrozen": "Another reason."}))
    assert text.count(reason) == 1
    assert text.count("Another reason.") == 1


def test_the_mean_is_the_mean_of_the_seeds(page, study):
    data = page.evaluate("document.getElementById('chart-curve-0').data.find(t => t.meta.role == 'mean')")
    runs = study.arms[0].runs
    last = sum(run.columns["metrics/mAP50-95(B)"][-1] for run in runs) / len(runs)
    assert data["y"][-1] == pytest.approx(last)
    assert data["x"] == list(range(1, 21))


def test_the_frozen_phase_is_shaded_and_the_thaw_a_line(page):
    layout = page.evaluate("document.getElementById('chart-curve-0').layout")
    shade, thaw = layout["shapes"]
    assert (shade["type"], shade["x0"], shade["x1"]) == ("rect", 0.5, 10.5)
    assert (thaw["type"], thaw["x0"]) == ("line", 10.5)
    assert "backbone thaws: frozen10" in page.tab.locator("#chart-curve-0 .annotation-text").text_content()
    assert page.count("#chart-curve-0 .shapelayer path") == 2  # and drawn


def test_a_button_hides_an_arm_in_all_curves(page):
    page.tab.click("button[data-arm=unfrozen]")
    assert page.count("#chart-curve-0 .scatterlayer .trace") == 4
    assert page.tab.get_attribute("button[data-arm=unfrozen]", "aria-pressed") == "false"
    page.tab.click("button[data-arm=unfrozen]")
    assert page.count("#chart-curve-0 .scatterlayer .trace") == 6
    assert page.complaints == []


def test_samples_stand_beside_ground_truth(page, study):
    assert page.count("#samples h3") == 4  # all validation images there are
    for pictures in page.tab.locator("#samples .pictures").all():
        assert pictures.locator("figcaption").count() == 1 + len(study.arms)
    assert page.count("#samples .edge.right") > page.count("#samples .edge.wrong") > 0
    assert page.evaluate("document.querySelector('#samples image').getAttribute('href').slice(0, 23)") == (
        "data:image/jpeg;base64,"
    )


def test_every_chart_has_a_name_and_its_numbers_in_a_table(page):
    for chart in page.tab.locator(".chart").all():
        assert chart.get_attribute("role") == "img"
        assert len(chart.get_attribute("aria-label") or "") > 20
    for section in ("verdict", "arms", "curves", "targets", "phases", "official", "classes", "settings"):
        assert page.count(f"#{section} table tbody tr") > 0, section
    levels = [int(e.evaluate("e => e.tagName")[1]) for e in page.tab.locator("h1, h2, h3").all()]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_dark_mode_changes_page_and_charts_at_once(page):
    paper = "getComputedStyle(document.body).backgroundColor"
    text = "document.querySelector('#chart-curve-0 .xtick text').style.fill"
    line = "document.querySelector('#chart-curve-0 .scatterlayer .lines path').style.stroke"
    light = [page.evaluate(program) for program in (paper, text, line)]
    page.tab.emulate_media(color_scheme="dark")
    page.wait_for(f"{line} !== '{light[2]}'", True)
    dark = [page.evaluate(program) for program in (paper, text, line)]
    assert all(before != after for before, after in zip(light, dark, strict=True))
    page.tab.emulate_media(color_scheme="dark", media="print")  # paper is white
    for program, value in zip((paper, text, line), light, strict=True):
        page.wait_for(program, value)
    page.tab.emulate_media(color_scheme="light", media="screen")
    assert page.complaints == []


@pytest.mark.parametrize("width", [360, 390, 768])
def test_narrow_screens_scroll_only_downwards(page_of, width):
    page = page_of(width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    widths = page.evaluate(
        "[...document.querySelectorAll('.chart .main-svg')].map(e => e.getBoundingClientRect().right)"
    )
    assert max(widths) <= width
    assert page.complaints == []


def test_lines_differ_without_colour(page):
    lines = page.evaluate(
        "document.getElementById('chart-curve-0').data.filter(t => t.meta.role == 'mean')"
        ".map(t => [t.line.dash, t.marker.symbol])"
    )
    assert len({dash for dash, _ in lines}) == len({symbol for _, symbol in lines}) == 3


def test_names_from_data_are_shown_as_they_are(browser, shapes, tmp_path):
    arms = {"random": (0, 0.3, 0.5), EVIL: (5, 0.35, 0.8)}
    study = comparison_of(write_study(tmp_path / "study", shapes, arms, seeds=2), "random", EVIL)
    classes = tuple(replace(c, name=EVIL) for c in study.class_differences)
    evil = replace(study, class_differences=classes, unlike=(EVIL,), notes=(EVIL,), equal={EVIL: EVIL}, method=EVIL)
    page = Page(browser, write_report(evil, tmp_path))
    assert page.dialogs == []
    assert page.complaints == []
    assert page.count("img") == 0
    assert page.evaluate("document.title").startswith(EVIL)
    assert page.tab.locator("h1").inner_text() == EVIL
    assert page.tab.locator("#chart-differences .ytick text").text_content() == SHORT
    assert page.tab.locator("#chart-classes-1 .ytick text").all_text_contents() == [SHORT] * len(classes)
    assert f": {EVIL[:4]}…{EVIL[-3:]}" in (page.tab.locator("#chart-curve-0 .annotation-text").text_content() or "")
    assert page.tab.locator("#curves button").nth(1).inner_text().strip().endswith(EVIL)
    assert page.tab.locator(".alarm li").inner_text() == EVIL
    assert page.tab.locator("#classes tbody th").first.text_content() == EVIL
    page.tab.locator("#curves button").nth(1).click()
    assert page.count("#chart-curve-0 .scatterlayer .trace") == 2
    page.close()


def test_what_turns_the_direction_of_writing_is_shown_and_names_still_hide_their_curves(browser, shapes, tmp_path):
    turned = "\u202eevil"
    arms = {"random": (0, 0.3, 0.5), turned: (5, 0.35, 0.8)}
    page = Page(browser, write_report(comparison_of(write_study(tmp_path, shapes, arms, seeds=2), "random"), tmp_path))
    assert "\u202e" not in page.tab.locator("body").inner_text()
    assert page.tab.locator("#verdict li .word").inner_text() == r"\u202eevil"
    assert page.tab.locator("#chart-differences .ytick text").text_content() == r"\u202eevil"
    page.tab.locator("#curves button").nth(1).click()
    assert page.count("#chart-curve-0 .scatterlayer .trace") == 2
    page.close()


# Texts of charts that are cut off by their chart, or lie over another one.
FAULTS = """() => [...document.querySelectorAll('.chart')].flatMap(chart => {
    const box = chart.getBoundingClientRect();
    const texts = [...chart.querySelectorAll('text')].filter(t => t.textContent.trim()).map(t => [t.textContent, t.getBoundingClientRect()]);
    const cut = texts.filter(([, r]) => r.width && (r.left < box.left - 1 || r.right > box.right + 1));
    const over = texts.flatMap(([a, r], i) => texts.slice(i + 1).filter(([, s]) =>
        Math.min(r.right, s.right) - Math.max(r.left, s.left) > 3 && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 3
    ).map(([b]) => a + ' / ' + b));
    return [...cut.map(([text]) => text), ...over].map(text => chart.id + ': ' + text);
})"""  # noqa: E501


@pytest.mark.parametrize("width", [390, 1280])
def test_long_names_are_told_apart_and_nothing_is_cut_or_overlaps(browser, shapes, tmp_path, width):
    alike = "distilled from a teacher with a long name, {}"
    arms = {"random": (0, 0.3, 0.5), **{alike.format(i): (4 * i, 0.3 + 0.02 * (i - 2), 0.6) for i in range(1, 4)}}
    page = Page(
        browser, write_report(comparison_of(write_study(tmp_path, shapes, arms, seeds=2), "random"), tmp_path), width
    )
    assert page.evaluate(FAULTS) == []
    shown = page.tab.locator("#chart-differences .ytick text").all_text_contents()
    assert len(set(shown)) == 3
    assert page.evaluate("document.documentElement.scrollWidth") == width
    cells = page.tab.locator("#arms tbody tr").last.locator("th .word, td")
    boxes = [cell.bounding_box() for cell in cells.all()]
    assert all(a["x"] + a["width"] <= b["x"] + 1 for a, b in pairwise(boxes)), "a name lies over the next column"
    page.close()


def test_one_run_each_has_no_whiskers_to_speak_of(shapes, tmp_path):
    """And a single arm, class, epoch or run is no plural."""
    arms = {"random": (0, 0.3, 0.5), "frozen": (1, 0.35, 0.8)}
    study = comparison_of(write_study(tmp_path, shapes, arms, seeds=1, epochs=1), "random")
    one = replace(study, class_differences=study.class_differences[:1], equal={"imgsz": 64})
    text = render(one, NO_PICTURES)
    assert "chart-differences" in text
    for words in (
        "A whisker",
        "Band: ",
        "confidence interval,",
        "1 epochs",
        "All 1 ",
        "1 settings",
        '<small class="below">–',
    ):
        assert words not in text, words
    assert "1 arm, 1 run ·" in render(compare_runs(study.arms[0].runs[0].path), NO_PICTURES)


def test_differences_that_are_all_zero_are_not_drawn(study):
    def zeroed(run):
        return replace(run, columns={**run.columns, MAP: [0.25] * len(run.columns[MAP])})

    none = tuple(replace(d, interval=replace(d.interval, estimate=0.0, low=0.0, high=0.0)) for d in study.differences)
    arms = tuple(replace(arm, runs=tuple(map(zeroed, arm.runs))) for arm in study.arms)
    text = render(replace(study, arms=arms, differences=none), NO_PICTURES)
    assert '<section id="verdict">' in text
    assert "chart-differences" not in text
    assert "chart-curve-difference" not in text
    assert "chart-curve-0" in text


class _Scripts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str | None], str]] = []
        self._open: dict[str, str | None] | None = None

    def handle_starttag(self, tag, attrs):
        self._open = dict(attrs) if tag == "script" else None

    def handle_data(self, data):
        if self._open is not None:
            self.found.append((self._open, data))

    def handle_endtag(self, tag):
        self._open = None


def test_no_name_ends_the_data_of_a_chart(study):
    evil = replace(study, arms=tuple(replace(arm, name=arm.name.replace("frozen10", EVIL)) for arm in study.arms))
    evil = replace(evil, differences=(), class_differences=(), phases=(), targets=(), official={}, differing={})
    parser = _Scripts()
    parser.feed(render(evil, NO_PICTURES))
    data = [text for attributes, text in parser.found if attributes.get("type") == "application/json"]
    programs = [text for attributes, text in parser.found if not attributes]
    assert len(programs) == 2  # plotly.js and ours
    assert any("alert(1)" in text for text in data)
    for text in data:
        json.loads(text)


def test_runs_that_are_not_alike_are_announced_loudly(study):
    text = render(replace(study, unlike=("imgsz: random 64, frozen10 128",)), NO_PICTURES)
    assert text.index('class="alarm"') < text.index('id="verdict"')
    assert "imgsz: random 64, frozen10 128" in text
    assert 'class="alarm"' not in render(study, NO_PICTURES)


def test_one_run_alone(shapes, tmp_path, browser):
    folders = write_study(tmp_path, shapes, {"only": (0, 0.3, 0.5)}, seeds=1)
    alone = compare_runs(*folders["only"])
    page = Page(browser, write_report(alone, tmp_path / "out"))
    assert page.complaints == []
    assert page.count("#verdict") == 0
    assert page.count("#chart-curve-0 .scatterlayer .trace") == 1  # no seeds beside their mean
    page.close()
