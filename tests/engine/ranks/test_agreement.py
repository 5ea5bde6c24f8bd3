"""What goes wrong on one rank is raised on all of them, once."""

from __future__ import annotations

import pytest

from kdyolo.engine.ranks import agreement
from kdyolo.engine.ranks.agreement import agree, in_agreement
from kdyolo.errors import ConfigError, DatasetError
from kdyolo.utils import distributed


class Ranks:
    """A second rank beside this one, the first, which says what it is told to.

    Attributes:
        other: What went wrong there, for each agreement in turn.
        heard: What it heard from this rank.
    """

    def __init__(self) -> None:
        self.other: list[Exception | None] = []
        self.heard: list[Exception | None] = []

    def gather(self, mine: Exception | None) -> list[Exception | None]:
        self.heard.append(mine)
        return [mine, self.other.pop(0) if self.other else None]


@pytest.fixture
def ranks(monkeypatch) -> Ranks:
    found = Ranks()
    monkeypatch.setattr(agreement, "is_sharing", lambda: True)
    monkeypatch.setattr(distributed, "from_all_ranks", found.gather)
    return found


def test_all_is_well(ranks):
    with in_agreement():
        agree()
    assert ranks.heard == [None, None]


def test_the_others_hear_of_an_error_here(ranks):
    error = DatasetError("an image is gone")
    with pytest.raises(DatasetError) as raised, in_agreement():
        raise error
    assert raised.value is error
    assert ranks.heard == [error]


def test_an_error_there_is_raised_here(ranks):
    ranks.other = [None, ConfigError(["one", "two"])]
    with pytest.raises(ConfigError, match="two"), in_agreement():
        agree()
    assert ranks.heard == [None, None]


def test_nobody_is_told_twice(ranks):
    """What an agreement inside the block has raised, the others raise there too: they are not at its end."""
    ranks.other = [ValueError("there")]
    with pytest.raises(ValueError, match="there"), in_agreement(), in_agreement():
        agree()
    assert ranks.heard == [None]


def test_an_error_that_cannot_travel_is_told_in_words(ranks):
    class Own(Exception):
        pass

    with pytest.raises(Own), in_agreement():
        raise Own("the third batch")
    assert [type(error) for error in ranks.heard] == [RuntimeError]
    assert str(ranks.heard[0]) == "Own: the third batch"


def test_ctrl_c_is_no_error_to_agree_on(ranks):
    with pytest.raises(KeyboardInterrupt), in_agreement():
        raise KeyboardInterrupt
    assert ranks.heard == []


def test_without_other_ranks_an_error_is_just_raised():
    with pytest.raises(ValueError, match="alone"), in_agreement():
        raise ValueError("alone")
    with in_agreement():
        agree()
