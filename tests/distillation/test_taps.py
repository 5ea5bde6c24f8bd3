"""Taps: defaults by the kind of teacher, and what is wrong with those that are given."""

from __future__ import annotations

import pytest

from kdyolo.distillation.student import Student, build_student_backbone
from kdyolo.distillation.taps import default_taps, parse_taps, taps_text
from kdyolo.distillation.teachers.protocol import TeacherMap
from kdyolo.errors import ConfigError
from tests.builders.distillation import CoordinateTeacher


def test_of_a_pyramid_each_level_gets_the_map_of_its_stride() -> None:
    assert default_taps([TeacherMap("a", 8, s) for s in (4, 8, 16, 16, 32)]) == {"P3": 1, "P4": 3, "P5": 4}


def test_of_a_network_of_one_stride_the_levels_get_rising_depths() -> None:
    assert default_taps([TeacherMap(f"b{i}", 8, 14) for i in range(12)]) == {"P3": 5, "P4": 8, "P5": 11}
    assert default_taps([TeacherMap("only", 8, 14)]) == {"P3": 0, "P4": 0, "P5": 0}


def test_maps_are_found_by_name_and_by_index() -> None:
    teacher = CoordinateTeacher(64, (8, 16, 32))
    taps = parse_taps("p5:-1, p3:s8", teacher)
    assert taps == {"P3": 0, "P5": 2}
    assert parse_taps(taps_text(taps, teacher), teacher) == taps


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as e:
        parse_taps("p9:s8,p3:s88,p4:7,p5:s8,p5:s8", CoordinateTeacher(64, (8, 16)))
    assert len(e.value.mistakes) == 4
    assert "Did you mean" in str(e.value) or "did you mean" in str(e.value)


@pytest.mark.parametrize(
    "text", ["", ",", ":", "p3", ":s8", "p3:²", "p3:٣", "p3:--1", "p3:99", "p3:" + "9" * 5000, "x" * 9999]
)
def test_odd_texts_are_mistakes(text: str) -> None:
    with pytest.raises(ConfigError, match="taps: ") as e:
        parse_taps(text, CoordinateTeacher(64, (8, 16)))
    assert len(str(e.value)) < 400


@pytest.mark.parametrize("model", ["yolov8n", "yolo11n", "yolo12n", "yolo26n"])
def test_with_the_default_taps_every_layer_gets_a_gradient(model: str) -> None:
    student = Student(build_student_backbone(model, None, ("P3", "P4", "P5")), {"P3": 3, "P4": 3, "P5": 3})
    assert student.untrained_layers() == ()


def test_layers_that_no_tap_reaches_are_named() -> None:
    student = Student(build_student_backbone("yolov8n", None, ("P4",)), {"P4": 3})
    assert student.untrained_layers() == (7, 8, 9)
