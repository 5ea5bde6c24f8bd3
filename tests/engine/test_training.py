"""The training of any task: what it imports, and which model it leaves to the task's class."""

from __future__ import annotations

import ast
import inspect

import pytest
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.obb import OBBTrainer
from ultralytics.models.yolo.pose import PoseTrainer
from ultralytics.models.yolo.segment import SegmentationTrainer

from kdyolo import KDTrainer
from kdyolo.engine import training
from kdyolo.engine.training import KDTraining


def test_the_training_knows_no_task():
    names = set()
    for node in ast.walk(ast.parse(inspect.getsource(training))):
        if isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert not [
        name for name in names if name.startswith("ultralytics.models") or name.endswith(("validator", "detector"))
    ]
    assert not issubclass(KDTraining, DetectionTrainer)


def test_it_stands_before_the_tasks_trainer_and_says_of_each_override_what_it_extends():
    order = KDTrainer.__mro__
    assert order.index(KDTraining) < order.index(DetectionTrainer) < order.index(BaseTrainer)
    overrides = [name for name in vars(KDTraining) if callable(getattr(BaseTrainer, name, None)) and name[:2] != "__"]
    unsaid = [name for name in overrides if f"``{name}``" not in (getattr(KDTraining, name).__doc__ or "")]
    assert [name for name in unsaid if name not in {"get_model"}] == []


@pytest.mark.parametrize("task", [SegmentationTrainer, PoseTrainer, OBBTrainer])
def test_other_tasks_trainers_fit_behind_it(task):
    trainer = type("Trainer", (KDTraining, task), {})
    assert trainer.preprocess_batch is KDTraining.preprocess_batch
    assert trainer.progress_string is task.progress_string
    assert trainer.build_dataset is task.build_dataset


def test_a_task_says_which_model_it_trains():
    for method in (KDTraining.build_model, KDTraining.stock_model, KDTraining.densest_batch):
        with pytest.raises(NotImplementedError):
            method(None, *[None] * (len(inspect.signature(method).parameters) - 1))
