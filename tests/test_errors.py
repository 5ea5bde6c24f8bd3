"""Errors, and several mistakes in one of them."""

from __future__ import annotations

import pytest

from kdyolo.errors import (
    LONGEST,
    LONGEST_LINE,
    CheckpointError,
    ConfigError,
    DatasetError,
    KDYOLOError,
    ModelError,
    RunError,
    collect_mistakes,
    message_text,
)


def refuse(error: Exception):
    raise error


def test_one_mistake_is_the_message_and_several_are_a_list():
    assert str(ConfigError("epochs is missing.")) == str(ConfigError(["epochs is missing."])) == "epochs is missing."
    assert str(ConfigError(["a.", "b."])) == "2 mistakes:\n  - a.\n  - b."


@pytest.mark.parametrize("error", [CheckpointError, ConfigError, DatasetError, ModelError, RunError])
def test_all_are_of_one_kind(error):
    assert issubclass(error, KDYOLOError)


@pytest.mark.parametrize("error", [CheckpointError, ConfigError, DatasetError, ModelError, RunError])
def test_a_message_keeps_its_beginning_and_its_end(error):
    message = str(error("begin" + "x" * 50_000_000 + "end"))
    assert len(message) < LONGEST_LINE + 100
    assert message.startswith("beginxxx")
    assert message.endswith("xxxend")
    assert "49,997,508 characters more" in message


@pytest.mark.parametrize("line", ["x" * 50_000, "\x9b" * 50_000, "\U000e0001" * 50_000], ids=["text", "C1", "tags"])
def test_no_line_of_a_message_is_long_and_all_of_them_together_are_not(line):
    message = str(RunError("\n".join([line] * 50)))
    assert max(map(len, message.split("\n"))) < LONGEST_LINE + 100
    assert len(message) < 10 * LONGEST  # escapes are longer than what they stand for
    short = "a few words\n\tand another line"
    assert str(RunError(short)) == message_text(short) == short


def test_many_and_long_mistakes_are_cut_one_by_one():
    error = ConfigError([f"{number}: {'x' * 1_000_000}" for number in range(500)])
    assert str(error).startswith("500 mistakes:\n  - 0: xxx")
    assert str(error).endswith("\n  - and 300 more.")
    assert len(str(error)) < LONGEST + 100
    assert len(error.mistakes) == 200


def test_all_mistakes_are_raised_in_the_order_in_which_they_were_found():
    reached = []

    def check():
        with collect_mistakes() as mistakes:
            mistakes.add("first.")
            assert mistakes.result(lambda: refuse(ConfigError(["second.", "third."]))) is None
            with mistakes.gathered():
                refuse(DatasetError("fourth."))
            assert mistakes.result(lambda: 5) == 5
            mistakes.add("fifth.", "sixth.")
            reached.append(bool(mistakes))

    with pytest.raises(ConfigError) as caught:
        check()
    assert caught.value.mistakes == ("first.", "second.", "third.", "fourth.", "fifth.", "sixth.")
    assert reached == [True]


def test_a_single_mistake_stays_the_error_that_it_was():
    error = RunError("no such file.")
    with pytest.raises(RunError) as caught, collect_mistakes() as mistakes:
        mistakes.result(lambda: refuse(error))
    assert caught.value is error
    with pytest.raises(ConfigError, match="told here"), collect_mistakes() as mistakes:
        mistakes.add("told here.")


def test_without_mistakes_nothing_is_raised():
    with collect_mistakes() as mistakes:
        assert mistakes.result(lambda: "found") == "found"
    assert not mistakes
    assert mistakes.found == []


@pytest.mark.parametrize("error", [ZeroDivisionError("below"), RunError("ends it")])
def test_other_errors_pass_through(error):
    def check():
        with collect_mistakes() as mistakes:
            mistakes.add("told too early.")
            if isinstance(error, RunError):
                refuse(error)
            mistakes.result(lambda: refuse(error))

    with pytest.raises(type(error), match=str(error)):
        check()


def test_what_a_terminal_would_obey_is_escaped_in_every_message():
    assert str(CheckpointError("a\x1b]0;b\x07\u202e\udcff\n\tc")) == "a\\x1b]0;b\\x07\\u202e\\udcff\n\tc"
    assert "\x1b" not in str(ConfigError(["\x1b[2J", "b"]))
