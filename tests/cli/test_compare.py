"""``kdyolo compare``: what it prints and writes, its options, its mistakes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from kdyolo import compare
from kdyolo.cli import cli, main
from tests.builders.commands import CHECKOUT, COMMON
from tests.builders.studies import verdict


def test_the_guide_shows_what_is_printed(study):
    section = (CHECKOUT / "docs/guides/compare.md").read_text(encoding="utf-8")
    comparison = compare(study)
    for arm in ("frozen", "low-lr"):
        assert f"{arm:<6}  {verdict(comparison, arm).words}\n" in section
    for parameter in cli.get_command(None, "compare").params:
        option = parameter.opts[0]
        assert option in ("runs", *COMMON) or f"`{option}" in section or f", `{option}" in section, option


@pytest.mark.parametrize(
    ("form", "start"),
    [("table", "does-it-help"), ("md", "# does-it-help"), ("json", "{"), ("csv", "arm,baseline,seed")],
)
def test_the_command_prints_what_was_asked_for(study, form, start):
    result = CliRunner().invoke(cli, ["compare", str(study), "--format", form])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(start)
    assert result.stdout.endswith("\n")


def test_the_command_writes_the_report(study, tmp_path):
    result = CliRunner().invoke(cli, ["compare", str(study), "--out", "report", "--format", "json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["title"] == "does-it-help"
    assert "a significant gain with 3 seeds" in (tmp_path / "report" / "report.html").read_text()


def test_options_of_the_command_arrive(study):
    arguments = [
        "--baseline",
        "frozen",
        "--metric",
        "mAP50",
        "--at",
        "last",
        "--targets",
        "0.2,0.25",
        "--format",
        "json",
    ]
    content = json.loads(CliRunner().invoke(cli, ["compare", str(study), *arguments]).stdout)
    assert (content["baseline"], content["metric"], content["at"]) == ("frozen", "mAP50", "last")
    assert {target["value"] for target in content["targets"]} == {0.2, 0.25}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 1, "nowhere: no run"),
        (["a", "b"], 1, "imgsz differs: 32 (a); 64 (b)"),
        (["a", "--targets", "much"], 2, "--targets: expected numbers"),
        (["a", "--metric", "speed"], 2, "no metric 'speed'"),
        (["a", "--baseline", "c"], 2, "baseline c is none of the arms"),
    ],
)
def test_mistakes_end_the_command_with_one_message(tmp_path, capsys, pair, arguments, code, words):
    pair({"imgsz": 32}, {"imgsz": 64})
    with pytest.raises(SystemExit) as end:
        main(["compare", *arguments, "--out", "report"])
    assert end.value.code == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "report").exists()
