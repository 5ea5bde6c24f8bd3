"""Official metrics within a run: what a row of results.csv holds, without training."""

from __future__ import annotations

from math import isnan

import psutil
import pytest
import torch

from kdyolo.engine.evaluation import OfficialEvaluation
from kdyolo.engine.ranks import agreement
from kdyolo.errors import ConfigError
from kdyolo.metrics.names import COLUMNS
from kdyolo.runs.files import MEMORY_COLUMN
from kdyolo.utils import distributed

CPU = torch.device("cpu")


class Validator:
    """What is asked of a validator."""

    period = 0

    def __init__(self):
        self.prepared = []

    def prepare(self, data):
        self.prepared.append((data, self.period))
        if "wrong" in data:
            raise ConfigError("no annotations")


def test_the_validator_knows_its_period_when_it_reads_the_annotations():
    validator = Validator()
    OfficialEvaluation(5, CPU).begin(validator, {"val": "images"})
    assert validator.prepared == [({"val": "images"}, 5)]
    with pytest.raises(ConfigError, match="no annotations"):
        OfficialEvaluation(5, CPU).begin(validator, {"wrong": 1})


def test_a_mistake_on_another_rank_ends_this_one_too(monkeypatch):
    monkeypatch.setattr(agreement, "is_sharing", lambda: True)
    monkeypatch.setattr(distributed, "from_all_ranks", lambda mine: [mine, ConfigError("found by rank 1")])
    validator = Validator()
    with pytest.raises(ConfigError, match="found by rank 1"):
        OfficialEvaluation(5, CPU).begin(validator, {})
    assert validator.prepared == [({}, 5)]


def test_every_row_has_the_same_columns_in_the_same_order():
    evaluation = OfficialEvaluation(2, CPU)
    without = evaluation.row({"train/box_loss": 1.0, "lr/head": 0.1})
    given = {COLUMNS[1]: 0.4, "train/box_loss": 2.0, COLUMNS[0]: 0.3, "lr/head": 0.2}
    due = evaluation.row(given)
    assert list(without) == list(due) == ["train/box_loss", "lr/head", *COLUMNS, MEMORY_COLUMN]
    assert all(isnan(without[column]) for column in COLUMNS)
    assert (due[COLUMNS[0]], due[COLUMNS[1]]) == (0.3, 0.4)
    assert isnan(due[COLUMNS[2]])


def test_without_a_period_there_are_no_columns_for_it():
    assert list(OfficialEvaluation(0, CPU).row({"a": 1})) == ["a", MEMORY_COLUMN]


def test_memory_of_the_process_on_a_cpu():
    row = OfficialEvaluation(0, CPU).row({})
    assert row[MEMORY_COLUMN] == pytest.approx(psutil.Process().memory_info().rss / 2**30, rel=0.2)


def test_peak_memory_of_a_gpu_is_measured_anew_for_every_epoch(monkeypatch):
    reset = []
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 * 2**30)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    device = torch.device("cuda", 1)
    assert OfficialEvaluation(0, device).row({})[MEMORY_COLUMN] == 3
    assert reset == [device]
