"""Device settings in every form and environment: what each process computes on, or one clear message."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kdyolo.distillation import distill
from kdyolo.errors import ConfigError
from kdyolo.runs.lifecycle.devices import (
    Machine,
    device_names,
    one_device,
    one_torch_device,
    read_devices,
    read_places,
    read_rank,
)

NONE, ONE, TWO, EIGHT = Machine(), Machine(1), Machine(2), Machine(8)
PHYSICAL = Machine(2, visible="4,5")
MIG = Machine(2, visible="MIG-11aa-22, MIG-33bb-44")
UUID = "GPU-6e1f2f0c-1111-2222-3333-444455556666"
BY_UUID = Machine(1, visible="GPU-6e1f2f0c")  # CUDA takes the beginning of one
MAC = Machine(mps=True)
BUSY = Machine(4, idle=lambda count: [3, 1][:count])


@pytest.mark.parametrize(
    ("setting", "machine", "kind", "text", "processes"),
    [
        (None, NONE, "cpu", "", 1),
        ("", TWO, "cuda", "", 1),
        ([], TWO, "cuda", "", 1),
        ("None", NONE, "cpu", "", 1),
        ("cpu", TWO, "cpu", "cpu", 1),
        (" CPU ", TWO, "cpu", "cpu", 1),
        (torch.device("cpu"), NONE, "cpu", "cpu", 1),
        ("cpu,cpu", NONE, "cpu", "cpu", 2),
        (["cpu", "cpu", "cpu"], TWO, "cpu", "cpu", 3),
        ("mps", MAC, "mps", "mps", 1),
        ("mps:0", MAC, "mps", "mps", 1),
        (0, ONE, "cuda", "0", 1),
        ("0", ONE, "cuda", "0", 1),
        ("cuda", TWO, "cuda", "0", 1),
        ("cuda:0", ONE, "cuda", "0", 1),
        ("CUDA:1", TWO, "cuda", "1", 1),
        (torch.device("cuda", 1), TWO, "cuda", "1", 1),
        ("0,1", TWO, "cuda", "0,1", 2),
        ("0, 01,", TWO, "cuda", "0,1", 2),
        ("cuda:0,1", TWO, "cuda", "0,1", 2),
        ("cuda:0,cuda:1", TWO, "cuda", "0,1", 2),
        ([2, 3], EIGHT, "cuda", "2,3", 2),
        ((3, 2), EIGHT, "cuda", "3,2", 2),
        ("[2,3]", EIGHT, "cuda", "2,3", 2),
        ("('2', '3')", EIGHT, "cuda", "2,3", 2),
        (["cuda:2", "3"], EIGHT, "cuda", "2,3", 2),
        ("-1", BUSY, "cuda", "3", 1),
        (-1, BUSY, "cuda", "3", 1),
        ("-1,-1", BUSY, "cuda", "3,1", 2),
        # Numbers beyond what PyTorch counts are those of CUDA_VISIBLE_DEVICES; all others are PyTorch's.
        ("4,5", PHYSICAL, "cuda", "0,1", 2),
        ("5", PHYSICAL, "cuda", "1", 1),
        ("0,1", PHYSICAL, "cuda", "0,1", 2),
        ("1,2", Machine(2, visible="1,2"), "cuda", "0,1", 2),
        ("1", Machine(2, visible="1,0"), "cuda", "1", 1),
        ("MIG-11aa-22", MIG, "cuda", "0", 1),
        ("mig-33bb-44", MIG, "cuda", "1", 1),
        (UUID, BY_UUID, "cuda", "0", 1),
        ("xpu:0,1", NONE, "other", "xpu:0,1", 1),
        ("npu", NONE, "other", "npu", 1),
    ],
)
def test_a_process_that_is_alone(setting, machine, kind, text, processes):
    found = read_devices(setting, machine, {})
    assert (found.kind, found.text, found.processes, found.mine) == (kind, text, processes, None)
    assert read_devices(found.text, machine, {}).text == found.text or found.indices == ()  # for those that read again


@pytest.mark.parametrize(
    ("setting", "machine", "words"),
    [
        ("2", TWO, "GPU 2 does not exist; there is 0 to 1."),
        ("0", NONE, "there is none that PyTorch can use. Use cpu."),
        ("cuda", NONE, "there is none that PyTorch can use. Use cpu."),
        ("0", Machine(0, visible=""), "(CUDA_VISIBLE_DEVICES=)"),
        ("6", PHYSICAL, "GPU 6 does not exist; there is 0 to 1 (CUDA_VISIBLE_DEVICES=4,5)."),
        ("0,4", PHYSICAL, "GPU 4 does not exist"),
        ("0,0", TWO, "GPU 0 is named twice"),
        ("mps", NONE, "mps does not exist on this machine"),
        ("mps,mps", MAC, "mixes devices"),
        ("cpu,0", TWO, "mixes devices"),
        ("cuda,1", TWO, "mixes devices"),
        ("gpu0", TWO, "'gpu0' is not understood. Expected cpu, mps"),
        ("cuda:x", TWO, "not understood"),
        ("-2", TWO, "not understood"),
        (True, TWO, "found True"),
        (0.0, TWO, "found 0.0"),
        ("-1,-1,-1", BUSY, "3 idle GPU(s) asked for, 2 found"),
        ("MIG-99", MIG, "CUDA_VISIBLE_DEVICES=MIG-99 kdyolo"),
        (UUID, TWO, f"CUDA_VISIBLE_DEVICES={UUID}"),
    ],
)
def test_what_is_wrong_is_said(setting, machine, words):
    with pytest.raises(ConfigError) as caught:
        read_devices(setting, machine, {})
    assert words in str(caught.value)


def of_a_rank(rank: int, local: int | None = None, world: int = 2, local_world: int | None = None) -> dict[str, str]:
    """The environment of one of several processes, as torchrun makes it."""
    found = {"RANK": rank, "LOCAL_RANK": rank if local is None else local, "WORLD_SIZE": world, "MASTER_PORT": 29500}
    found["LOCAL_WORLD_SIZE"] = world if local_world is None else local_world
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in found.items()}}


@pytest.mark.parametrize(
    ("setting", "machine", "environment", "mine"),
    [
        (None, TWO, of_a_rank(1), "cuda:1"),
        ("cuda", TWO, of_a_rank(1), "cuda:1"),
        (None, EIGHT, of_a_rank(5, local=1, world=6), "cuda:1"),
        (None, NONE, of_a_rank(1), "cpu"),
        ("cpu", TWO, of_a_rank(1), "cpu"),
        ("cpu,cpu", TWO, of_a_rank(1), "cpu"),
        ([2, 3], EIGHT, of_a_rank(1), "cuda:3"),
        ("cuda:0,1", TWO, of_a_rank(0), "cuda:0"),
        ("4,5", PHYSICAL, of_a_rank(1), "cuda:1"),
        ("3", EIGHT, of_a_rank(1, local=0, local_world=1), "cuda:3"),  # one process on each of two nodes
        ("0", ONE, of_a_rank(0, world=1), "cuda:0"),
    ],
)
def test_each_of_several_processes_has_its_own_device(setting, machine, environment, mine):
    found = read_devices(setting, machine, environment)
    assert (found.mine, found.processes) == (mine, 1)


@pytest.mark.parametrize(
    ("setting", "machine", "environment", "words"),
    [
        (
            "0",
            TWO,
            of_a_rank(0),
            "each of the 2 processes on this machine needs a GPU of its own, but --device",
        ),
        ("cuda:0", TWO, of_a_rank(1), "--device names 0"),
        ("0,1,2", EIGHT, of_a_rank(0), "--device names 0,1,2"),
        (None, ONE, of_a_rank(0), "but there is 0 only"),
        ("mps", MAC, of_a_rank(0), "several processes cannot train on mps"),
        ("-1,-1", BUSY, of_a_rank(0), "each for itself"),
        (
            "0",
            TWO,
            {"RANK": "0"},
            "but LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT are not. Start",
        ),
        ("0", TWO, {**of_a_rank(0), "LOCAL_RANK": ""}, "but LOCAL_RANK is not"),
        ("0", TWO, {"LOCAL_RANK": "0"}, "LOCAL_RANK is set in the environment"),
        ("0", TWO, {**of_a_rank(0), "WORLD_SIZE": "two"}, "WORLD_SIZE=two in the environment"),
    ],
)
def test_processes_that_do_not_fit_are_refused(setting, machine, environment, words):
    with pytest.raises(ConfigError) as caught:
        read_devices(setting, machine, environment)
    assert words in str(caught.value)


def test_a_process_that_is_alone_is_no_rank():
    assert read_rank({}) is None
    assert read_rank({"RANK": "-1", "LOCAL_RANK": "-1", "WORLD_SIZE": "1"}) is None


def test_places_are_read_together():
    """Alone, the first would be PyTorch's number, and both runs would be on one GPU."""
    places = read_places(["1", "2"], Machine(2, visible="1,2"))
    assert [place.text for place in places] == ["0", "1"]
    assert [place.text for place in read_places(["4", "5"], PHYSICAL)] == ["0", "1"]
    assert [place.for_command for place in read_places(["cpu", "cpu,cpu", "0,1"], TWO)] == ["cpu", "cpu,cpu", "0,1"]
    with pytest.raises(ConfigError, match="GPU 6 does not exist"):
        read_places(["4", "6"], PHYSICAL)


def test_one_device_for_what_has_no_ranks():
    assert one_device("5", "an evaluation", PHYSICAL) == "1"
    with pytest.raises(ConfigError, match="an evaluation works on one device; found 0,1"):
        one_device("0,1", "an evaluation", TWO)


@pytest.mark.parametrize(
    ("setting", "machine", "here"),
    [
        *((None, NONE, "cpu"), (None, TWO, "cuda:0"), ("1", TWO, "cuda:1"), ("5", PHYSICAL, "cuda:1")),
        *(([1], TWO, "cuda:1"), ("cuda", TWO, "cuda:0"), ("cuda:1", TWO, "cuda:1"), ("mps", MAC, "mps")),
    ],
)
def test_the_same_device_as_pytorch_names_it(setting, machine, here):
    assert one_torch_device(setting, "a probe", machine) == here


def test_words_are_in_one_form():
    assert device_names([0, "cuda:1"]) == ["0", "1"]
    assert device_names(None) == []


def test_this_machine_is_asked_what_it_has(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert read_devices("4,5", Machine.here(), {}).text == "0,1"
    monkeypatch.setattr("ultralytics.utils.torch_utils.parse_device", lambda text: "1" if text == "-1" else "")
    assert read_devices("-1", Machine.here(), {}).text == "1"


@pytest.mark.parametrize(
    ("setting", "environment", "place"),
    [
        *(("1", {}, ("cuda:1", 0, 1)), ([1], {}, ("cuda:1", 0, 1)), ("cuda:1", {}, ("cuda:1", 0, 1))),
        *((None, {}, ("cuda:0", 0, 1)), ("cpu", {}, ("cpu", 0, 1)), ("5", {}, ("cuda:1", 0, 1))),
        *(("0,1", of_a_rank(1), ("cuda:1", 1, 2)), (None, of_a_rank(1), ("cuda:1", 1, 2))),
    ],
)
def test_a_distillation_reads_its_device_here(monkeypatch, setting, environment, place):
    """With a parser of its own, every rank of ``torchrun … --device 0,1`` was refused, and with 0 all had one GPU."""
    machine = Machine(2, visible="4,5")
    monkeypatch.setattr(Machine, "here", lambda: machine)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    group = SimpleNamespace(get_rank=lambda: place[1], get_world_size=lambda: place[2])
    monkeypatch.setattr(distill, "distributed", SimpleNamespace(
        is_distributed=lambda: bool(environment), init_process_group=lambda device: None))  # fmt: skip
    monkeypatch.setattr(distill.torch, "distributed", group)
    found = distill.this_place(setting)
    assert (str(found.device), found.rank, found.ranks) == place


@pytest.mark.parametrize(
    ("setting", "environment", "words"),
    [
        *(("0,1", {}, "torchrun --nproc-per-node"), ("7", {}, "GPU 7 does not exist"), ("npu", {}, "found 'npu'")),
        *(("0", of_a_rank(1), "needs a GPU of its own"), ("gpu", {}, "is not understood")),
    ],
)
def test_what_a_distillation_cannot_compute_on_is_refused(monkeypatch, setting, environment, words):
    machine = Machine(2)
    monkeypatch.setattr(Machine, "here", lambda: machine)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        distill.this_place(setting)
