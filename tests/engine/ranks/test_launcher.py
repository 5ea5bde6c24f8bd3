"""What the launcher hands to the ranks. Ranks themselves: tests/system/test_launcher.py."""

from __future__ import annotations

import threading
from collections import defaultdict

import pytest
from ultralytics.utils.callbacks import add_integration_callbacks, get_default_callbacks

from kdyolo.engine.ranks.launcher import _without_integrations, train_on_ranks
from kdyolo.errors import ConfigError


def test_loggers_are_added_by_the_rank_that_logs(monkeypatch):
    class Trainer:
        callbacks = get_default_callbacks()

    def mine(trainer: object) -> None:
        """A person's own."""

    plain = {event: list(functions) for event, functions in Trainer.callbacks.items()}
    Trainer.callbacks["on_train_end"].append(mine)
    add_integration_callbacks(Trainer)
    Trainer.callbacks["on_train_end"].append(
        logger := type("Log", (), {"__module__": "ultralytics.utils.callbacks.wb"})
    )
    found = _without_integrations(Trainer.callbacks)
    assert found == {**plain, "on_train_end": [*plain["on_train_end"], mine]}
    assert logger in Trainer.callbacks["on_train_end"]
    assert isinstance(found, defaultdict)


def test_what_cannot_be_sent_is_refused():
    lock = threading.Lock()
    with pytest.raises(ConfigError, match=r"cannot be sent .* made by a callback"):
        train_on_ranks(2, object, {"on_train_end": [lambda trainer: lock.locked()]})
