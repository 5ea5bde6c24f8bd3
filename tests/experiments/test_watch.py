"""``kdyolo compare --watch``: a report that follows its runs, and a page that follows the report."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from kdyolo.errors import ConfigError, RunError
from kdyolo.experiments.compare import compare_runs
from kdyolo.experiments.report import write_report
from kdyolo.experiments.watch import all_finished, watch
from tests.builders.browser import Page, chromium
from tests.builders.run_folders import write_full_run
from tests.builders.studies import comparison_of, write_study


def grow(run, done, seed, final):
    """The run as it is when more epochs are done."""
    shutil.rmtree(run)
    write_full_run(run, done=done, seed=seed, final=final, epochs=6)


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    write_full_run(folder / "a" / "seed0", done=2, epochs=6)
    write_full_run(folder / "b" / "seed0", done=2, epochs=6, final=0.5)
    content = {"name": "two arms", "arms": {"a": {}, "b": {}}, "seeds": [0], "baseline": "a"}
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_the_report_follows_the_runs_and_ends_with_them(study, tmp_path):
    report, told = tmp_path / "out" / "report.html", []

    def tell(line):
        told.append(line)
        text = report.read_text()
        if len(told) == 1:
            assert '{"refresh": 0.5}' in text
            grow(study / "a" / "seed0", 6, 0, 0.4)
        elif len(told) == 2:
            assert '{"refresh": 0.5}' in text
            grow(study / "b" / "seed0", 6, 0, 0.5)

    comparison = watch(lambda: compare_runs(study), [study], tmp_path / "out", interval=0.5, tell=tell)
    assert comparison.title == "two arms"
    assert [run.epochs[-1] for arm in comparison.arms for run in arm.runs] == [6, 6]
    assert [line.split("  ")[1] for line in told] == [f"{n} of 2 runs finished" for n in (0, 1, 2)]
    assert '{"refresh": null}' in report.read_text()


def test_a_run_that_the_study_has_not_begun_is_waited_for(study, tmp_path):
    shutil.rmtree(study / "b")
    grow(study / "a" / "seed0", 6, 0, 0.4)
    told = []

    def tell(line):
        told.append(line)
        if len(told) == 1:
            write_full_run(study / "b" / "seed0", epochs=6, final=0.5)

    comparison = watch(lambda: compare_runs(study), [study], tmp_path / "out", interval=0.5, tell=tell)
    assert [arm.name for arm in comparison.arms] == ["a", "b"]
    assert len(told) == 2


def test_seeds_are_the_study_s_own_where_its_file_names_none(study):
    content = yaml.safe_load((study / "study.yaml").read_text())
    del content["seeds"]
    (study / "study.yaml").write_text(yaml.safe_dump(content))
    for arm in "ab":
        grow(study / arm / "seed0", 6, 0, 0.4)
    assert not all_finished([study])
    for arm in "ab":
        for seed in (1, 2):
            write_full_run(study / arm / f"seed{seed}", epochs=6, seed=seed)
    assert all_finished([study])


def test_before_the_first_epoch_it_says_what_it_waits_for(study, tmp_path):
    for arm in "ab":
        shutil.rmtree(study / arm)
    told = []

    def tell(line):
        told.append(line)
        if len(told) == 1:
            write_full_run(study / "a" / "seed0", epochs=6, done=0)
        elif len(told) == 2:
            shutil.rmtree(study / "a")
            for arm in "ab":
                write_full_run(study / arm / "seed0", epochs=6, final=0.4 + 0.1 * (arm == "b"))

    watch(lambda: compare_runs(study), [study], tmp_path / "out", interval=0.5, tell=tell)
    assert told[0] == f"waiting for the first run in {study}"
    assert told[1] == f"waiting for the first epoch in {study}"
    assert "2 of 2 runs finished" in told[2]


def test_what_cannot_be_compared_is_an_error_at_once(tmp_path):
    with pytest.raises(RunError, match="no run"):
        watch(lambda: compare_runs(tmp_path / "nothing"), [tmp_path / "nothing"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="at least"):
        watch(lambda: compare_runs(tmp_path), [tmp_path], tmp_path / "out", interval=0)


def test_a_file_that_is_being_written_is_read_again(study, tmp_path):
    grow(study / "a" / "seed0", 6, 0, 0.4)
    grow(study / "b" / "seed0", 6, 0, 0.5)
    record = study / "a" / "seed0" / "kdyolo.yaml"
    whole = record.read_text()
    calls = []

    def compared():
        calls.append(1)
        if len(calls) == 1:
            record.write_text("settings: [")  # changes between the look and the reading
        try:
            return compare_runs(study)
        finally:
            record.write_text(whole)

    assert watch(compared, [study], tmp_path / "out", interval=0.5, tell=lambda line: None) is not None
    assert len(calls) == 2


def test_ctrl_c_ends_it_well(study, tmp_path):
    command = [
        sys.executable,
        "-m",
        "kdyolo",
        "compare",
        study,
        "--out",
        tmp_path / "out",
        "--watch",
        "--interval",
        "0.5",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert process.stderr is not None
    assert "0 of 2 runs finished" in process.stderr.readline()
    time.sleep(0.2)  # into the pause
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "stopped" in err
    assert "provisional" in out
    assert '{"refresh": null}' in (tmp_path / "out" / "report.html").read_text()


def test_the_page_loads_itself_anew_and_stays_where_the_reader_was(shapes, tmp_path):
    study = comparison_of(write_study(tmp_path / "study", shapes, seeds=1, epochs=6), "random")
    report = write_report(study, tmp_path, refresh=2)
    with chromium() as browser:
        page = Page(browser, report)
        assert "every 2 s" in page.tab.locator(".live").inner_text()
        page.evaluate("document.querySelector('#settings details').open = true, scrollTo(0, 1500)")
        page.tab.wait_for_event("load")
        page.tab.wait_for_selector("html[data-drawn]")
        assert page.evaluate("[scrollY, document.querySelector('#settings details').open]") == [1500, True]
        write_report(study, tmp_path)  # the runs have ended
        page.tab.wait_for_event("load")
        page.tab.wait_for_selector("html[data-drawn]")
        assert page.count(".live") == 0
        assert page.complaints == []
        page.close()
