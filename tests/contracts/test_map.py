"""The map of the house in CONTRIBUTING.md is the one that the docstrings give."""

from __future__ import annotations

from scripts.print_map import CONTRIBUTING, current_map, print_map, with_map


def test_the_map_is_that_of_the_docstrings():
    assert current_map(CONTRIBUTING.read_text(encoding="utf-8")) == print_map(), "run make map"


def test_a_map_that_is_out_of_date_is_renewed():
    document = CONTRIBUTING.read_text(encoding="utf-8")
    renewed = with_map(document, "```text\nkdyolo/  another\n```")
    assert current_map(renewed) == "```text\nkdyolo/  another\n```"
    assert renewed.startswith(document[: document.index("```text")])
    assert with_map(renewed, current_map(document)) == document
