"""What the launcher hands to the ranks. Ranks themselves: tests/system/test_launcher.py."""

from __future__ import annotations

from collections import defaultdict

from ultralytics.utils.callbacks import add_integration_callbacks, get_default_callbacks

from kdyolo.engine.ranks.launcher import _without_integrations


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
