"""Local backend: which device each run gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kdyolo.errors import ConfigError
from kdyolo.experiments.study import local_backend
from kdyolo.experiments.study.local_backend import LocalBackend


@pytest.mark.parametrize(
    ("visible", "devices", "given"),
    [
        ("4,5", ["4", "5"], ["0", "1"]),
        ("1,2", ["1", "2"], ["0", "1"]),  # each by itself, "1" would be the GPU that "2" is as well
        ("4,5", ["0", "1"], ["0", "1"]),
        ("4,5", ["4,5"], ["0,1"]),
    ],
)
def test_devices_are_those_that_cuda_visible_devices_names(monkeypatch, tmp_path, visible, devices, given):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(local_backend, "LocalHandle", lambda command, log: command[-1])
    run = SimpleNamespace(arguments=lambda device: ["train", "--device", device], log=tmp_path / "log")
    backend = LocalBackend(devices)
    assert backend.places == devices  # as the user knows them
    assert [backend.start(run, place) for place in range(len(devices))] == given


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="GPU 5 does not exist"):
        LocalBackend(["5"])
