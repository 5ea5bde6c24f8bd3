"""Ultralytics' own settings: every mistake at once, in our words."""

from __future__ import annotations

import pytest
from ultralytics.utils import DEFAULT_CFG_DICT

from kdyolo.engine.options.ultralytics_settings import check_settings, setting_mistakes
from kdyolo.errors import ConfigError


def test_ultralytics_own_defaults_are_right():
    assert setting_mistakes({key: value for key, value in DEFAULT_CFG_DICT.items() if value is not None}) == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"lr0": "abc"}, "lr0 takes a number from 0 to 1; found 'abc'."),
        ({"mosaic": 2}, "mosaic takes a number from 0 to 1; found 2."),
        ({"epochs": 0}, "epochs takes a whole number of at least 1 and at most 1,000,000; found 0."),
        ({"epochs": 1 << 64}, "epochs takes a whole number of at least 1 and at most 1,000,000; found 184467"),
        ({"epochs": 2.5}, "epochs takes a whole number of at least 1 and at most 1,000,000; found 2.5."),
        ({"epochs": True}, "epochs takes a whole number of at least 1 and at most 1,000,000; found True."),
        ({"workers": -1}, "workers takes a whole number of at least 0; found -1."),
        ({"warmup_epochs": "x"}, "warmup_epochs takes a number of at least 0; found 'x'."),
        ({"box": "x"}, "box takes a number; found 'x'."),
        ({"plots": "no"}, "plots takes True or False; found 'no'."),
        ({"batch": 0}, "batch takes a number of images of at least 1"),
        ({"batch": float("inf")}, "batch takes a number of images of at least 1"),
        *(
            ({"classes": found}, "classes takes the number of a class")
            for found in (0.5, [[]], ["disc"], {"a": 1}, True)
        ),
        ({"batch": 2.5}, "batch takes a number of images of at least 1"),
        ({"imgsz": 100}, "imgsz takes a multiple of 32; found 100. Take 96 or 128."),
        ({"imgsz": 20}, "imgsz takes a multiple of 32; found 20. Take 32."),
        ({"imgsz": "large"}, "imgsz takes a number of pixels of at least 32 and at most 65,536; found 'large'."),
        ({"imgsz": 685_248}, "imgsz takes a number of pixels of at least 32 and at most 65,536; found 685248."),
        ({"imgsz": 1 << 63}, f"imgsz takes a number of pixels of at least 32 and at most 65,536; found {1 << 63}."),
        ({"epoch": 3}, "unknown setting 'epoch'. Did you mean 'epochs'?"),
        ({"batch_size": 3}, "unknown setting 'batch_size'. Did you mean 'batch'?"),
        ({"freeze_epoch": 3}, "unknown setting 'freeze_epoch'. Did you mean 'freeze_epochs'?"),
        ({"amp": "half"}, "amp"),
    ],
)
def test_what_is_wrong(setting, words):
    (found,) = setting_mistakes(setting, ("freeze_epochs",), training=True)
    assert words in found


@pytest.mark.parametrize(
    "setting",
    [
        {"batch": -1},
        {"batch": 0.7},
        {"batch": 8},
        {"imgsz": 64},
        {"classes": [0, 2]},
        {"scale": (0.5, 2.0)},
    ],
)
def test_what_is_right(setting):
    assert setting_mistakes(setting, training=True) == []


def test_a_prediction_may_have_any_size():
    assert setting_mistakes({"imgsz": 100}) == setting_mistakes({"imgsz": [320, 100]}) == []


def test_all_at_once():
    with pytest.raises(ConfigError) as error:
        check_settings({"conf": 2, "epohcs": 3, "imgsz": 0})
    assert len(error.value.mistakes) == 3
